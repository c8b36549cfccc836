"""`detseg evaluate`: metrics, confidence intervals and error analysis of detections, masks or classes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import tyro

from detseg.options import given, require_share
from detseg.tasks import TASKS, part, task_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from detseg.train.config import TrainConfig

Set = TypeVar("Set", bound=Any)
NOT_GIVEN = Path("\0")  # which nothing is called


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate detections, masks or classifications: metrics, confidence intervals, error analysis.

    A run, on its validation images; a file of detections; is another one better? A folder of results of a cluster:

        detseg evaluate runs/detector-1
        detseg evaluate dt.json --ground-truth gt.json
        detseg evaluate --ground-truth gt.json --detections dt.json --compare other.json
        detseg evaluate --ground-truth gt.json --detections found/

    A detector at a larger input size; averaged over sizes and mirror images:

        detseg evaluate --detections runs/detector-1 --size 416
        detseg evaluate --detections runs/detector-1 --tta

    Two detectors, what they find fused, against the first alone:

        detseg evaluate --detections runs/detector-1 --fuse runs/detector-2 --compare runs/detector-1

    A localizer as a sliding-window detector, alone and against a detector:

        detseg evaluate --detections runs/localizer-1 --slide --ground-truth flowers/val.json
        detseg evaluate --detections runs/localizer-1 --slide --ground-truth flowers/val.json --compare runs/detector-1

    A segmenter; with mirror images, against another one; on other images; a folder of masks:

        detseg evaluate --predictions runs/segmenter-1
        detseg evaluate --predictions runs/segmenter-1 --flip --compare runs/segmenter-2
        detseg evaluate --predictions runs/segmenter-1 --ground-truth meadows/val.txt
        detseg evaluate --predictions predictions/ --ground-truth flowers-masks/val.txt

    A classifier, by ten-crop averaging; on the test split:

        detseg evaluate --predictions runs/classifier-1 --ten-crop
        detseg evaluate --predictions runs/classifier-1 --split test
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help_behavior_hint="")] = NOT_GIVEN
    """What to evaluate: a run folder, a COCO results JSON file, a folder of masks (NAME.png for each image), or one of
    results of `detseg predict --engine ray`."""
    detections: Annotated[Path, tyro.conf.arg(aliases=["--predictions"], help_behavior_hint="")] = NOT_GIVEN
    """The same, as an option."""
    ground_truth: Path | None = None
    """Ground truth: COCO JSON, or any data set that training takes. By default the validation data of the run."""
    images: Path | None = None
    """Folder of the images, where they are not beside the annotations or the CSV table; by default as in training."""
    split: Literal["train", "val", "test"] | None = None
    """Split to evaluate on, of --ground-truth or of the run's --data; by default val."""
    iou_type: Literal["bbox", "segm", "boundary"] = "bbox"
    """Detections: IoU of boxes (bbox), of masks (segm), or the smaller one of masks and their boundaries (boundary)."""
    compare: Path | None = None
    """Other predictions for the same images; adds confidence intervals of the difference."""
    resamples: int = 1000
    """Bootstrap resamples for the 95 % confidence intervals; 0: no intervals."""
    score_threshold: float | None = None
    """Detections: score threshold of the confusion matrix; by default the one with the best F1."""
    voc: Literal["2007", "2012"] | None = None
    """Detections: also report Pascal VOC average precision at IoU 0.5, by the rules of this year."""
    max_detections: int | None = None
    """Detections: best detections of an image and class that count; of runs, also the most that are looked for in an
    image. By default 100, as in COCO; of runs what they were trained with, where images have more objects than 100."""
    size: int | None = None
    """Runs of detectors: input size in pixels, a multiple of 32; by default as in training."""
    fuse: tuple[Path, ...] = ()
    """Run of a detector: folders of further runs, whose detections are fused with its own."""
    tta: bool = False
    """Runs of detectors: average over three sizes and mirror images."""
    slide: bool = False
    """Localizers trained with --objectness: slide over the images at several scales."""
    flip: bool = False
    """Segmenters: average over the image and its mirror image."""
    scales: tuple[float, ...] = (1.0,)
    """Segmenters: average over these multiples of the training size."""
    long_side: int | None = None
    """Segmenters: tiled prediction at this long side. With --slide: long side of the largest scale."""
    masks: str | None = None
    """Masks: folder of the ground truth, by name beside the images or by path; by default as in training."""
    threshold: int | None = None
    """Masks of two classes with soft edges, or JPEG: brightness from which on a pixel is foreground."""
    ten_crop: bool = False
    """Classifiers: average over ten crops (corners and centre, and mirrored)."""
    json: bool = False
    """Print JSON only, instead of tables."""
    csv: Path | None = None
    """Also write a CSV file: a row for all classes together, then a row per class."""


@dataclass(frozen=True)
class Verdict:
    """The result in each of its forms."""

    content: dict[str, Any]  # for JSON
    rows: list[dict[str, Any]]  # for CSV, all classes together first
    tables: Sequence[RenderableType]


class Evaluator(NamedTuple):
    """How predictions of a kind are evaluated."""

    kind: str  # "detections"
    evaluate: Callable[[Evaluate, Console], Verdict]
    options: tuple[str, ...]  # that mean nothing for other kinds


def run(config: Evaluate) -> int:
    """Print the metrics; returns the exit code.

    Raises:
        ValueError: a file is missing or wrong; the message names it, the item and what is wrong.
    """
    from detseg.cli.terminal import Terminal

    config = _named(config)
    _check(config)
    verdict = _evaluator(config).evaluate(config, Terminal(stderr=True))
    # Printed first: where the file cannot be written, the figures are not lost.
    if config.json:
        print(json.dumps(verdict.content, indent=2, allow_nan=False))
    else:
        console = Terminal()
        for table in verdict.tables:
            console.print(table)
    if config.csv is not None:
        write_csv(verdict.rows, config.csv)
    return 0


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows with the columns of all of them; empty where there is no value."""
    from detseg.csv_text import csv_text
    from detseg.files import write_atomically

    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = ([row.get(name, "") for name in columns] for row in rows)
    shown = (["" if isinstance(value, float) and math.isnan(value) else value for value in row] for row in cells)
    write_atomically(path, csv_text([columns, *shown]))


def limit_columns(intervals: dict[str, Any]) -> dict[str, float]:
    """Columns NAME_low and NAME_high of intervals by name."""
    return {f"{name}_{end}": getattr(limits, end) for name, limits in intervals.items() for end in ("low", "high")}


def pick_split(path: Path, splits: Collection[str], asked: str | None) -> str:
    """The name of the split of a data set to evaluate on: the one asked for, else "val", else the only one.

    Raises:
        ValueError: it is not there, or none is asked for and several are.
    """
    found = ", ".join(name or "images without splits" for name in splits)
    if asked is None and "val" not in splits and len(splits) > 1:
        raise ValueError(f"{path}: holds the splits {found}; choose one with --split")
    if asked is not None and asked not in splits:
        raise ValueError(f"{path}: has no split {asked!r} for --split; found: {found}")
    return asked or ("val" if "val" in splits else next(iter(splits)))


def data_of_run(folder: Path, trained: TrainConfig) -> Path:
    """The --data of a run, another split of which is to be evaluated.

    Raises:
        ValueError: it was trained with --train and --val.
    """
    if trained.data is None:
        raise ValueError(
            f"{folder}: was trained with --train and --val, not with --data that could have other splits; name the "
            "images to evaluate on with --ground-truth"
        )
    return trained.data


def settings_of(folder: Path) -> Any:
    """The settings of a run, which tell what it was validated on.

    Raises:
        ValueError: they are missing, as where the model alone was copied.
    """
    settings = settings_if_there(folder)
    if settings is None:
        raise ValueError(
            f"{folder}: what its model was validated on is not known (config.json is missing); name the images to "
            "evaluate on with --ground-truth"
        )
    return settings


def settings_if_there(folder: Path) -> Any:
    """The settings of a run; None where its folder holds the model alone."""
    from detseg.train.config import SETTINGS, load_config

    return load_config(folder, _task_of(folder)) if (folder / SETTINGS).is_file() else None


def own_images(folder: Path) -> Path | None:
    """The --images that a run was trained with, if that is known."""
    settings = settings_if_there(folder)
    return None if settings is None else settings.images


def read_with_images(read: Callable[[Path | None], Set], images: Path | None, own: Path | None) -> Set:
    """A data set whose images are in the folder `images`; without it where they are found, else where the run has its
    own.

    Args:
        read: reads the set, given the folder of its images or None.
        images: what was asked for.
        own: the folder of the run's images, if it is known.
    """
    data = read(images)
    if images is not None or own is None or data.pack is not None:
        return data
    return data if any(Path(path).exists() for path in data.paths.tolist()) else read(own)


def _named(config: Evaluate) -> Evaluate:
    """The options, with what is to be evaluated in `detections`, wherever it was named."""
    named = [path for path in (config.run, config.detections) if path != NOT_GIVEN]
    if not named:
        raise ValueError("name what to evaluate: a run folder, a file of detections or a folder of masks")
    if len(named) > 1:
        raise ValueError(f"{named[0]} and --detections {named[1]}: one is evaluated; leave one out")
    return replace(config, run=NOT_GIVEN, detections=named[0])


def _check(config: Evaluate) -> None:
    """Raise ValueError where options make no sense."""
    if config.csv is not None and config.csv.is_dir():
        raise ValueError(f"--csv {config.csv}: is a folder; name a file in it")
    require_share(config, "score_threshold")
    if config.resamples < 0:
        raise ValueError(f"--resamples must not be negative, it is {config.resamples}")
    if config.compare is not None and not config.resamples:
        raise ValueError("--compare draws resamples; leave out --resamples 0")


def _evaluator(config: Evaluate) -> Evaluator:
    """How the predictions are evaluated.

    Raises:
        ValueError: the two sides are of different kinds, or an option is for another kind.
    """
    sides = {path: part(_task_of(path), "evaluate") for path in (config.detections, config.compare) if path is not None}
    if len({side.kind for side in sides.values()}) > 1:
        both = " and ".join(f"{path} ({side.kind})" for path, side in sides.items())
        raise ValueError(f"{both} cannot be compared with each other")
    mine: Evaluator = sides[config.detections]
    foreign = {name for task in TASKS for name in part(task, "evaluate").options} - set(mine.options)
    if config.slide:
        foreign.discard("long_side")
    if options := ", ".join(given(config, sorted(foreign))):
        raise ValueError(
            f"{config.detections}: {mine.kind} are evaluated, for which there is no {options}; leave it out"
        )
    return mine


def _task_of(path: Path) -> str:
    """What a path holds predictions of: a run of its task, a folder of masks a segmenter's, all else a detector's."""
    from detseg.cluster.manifest import holds_results, read_manifest
    from detseg.data.tar_shards import address_of
    from detseg.models import DESCRIPTION, MODELS, read_description
    from detseg.train.config import SETTINGS

    if holds_results(path):
        task = task_of(read_manifest(address_of(path)).task)
        if task == "classifier":
            raise ValueError(f"{path}: holds the likeliest classes alone; evaluate the run that found them")
        return task
    if not path.is_dir():
        return "detector"
    # A run that has not come to a model yet may hold drawings too.
    if not any((path / name).exists() for name in (DESCRIPTION, SETTINGS)) and any(path.glob("*.png")):
        return "segmenter"
    kind = read_description(path)["architecture"].get("kind")
    return task_of(MODELS[kind].task) if kind in MODELS else "detector"
