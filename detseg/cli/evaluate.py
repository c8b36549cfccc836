"""`detseg evaluate`: how good detections, masks or classes are, how sure that is, and what is wrong with them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from detseg.options import given

if TYPE_CHECKING:
    from rich.console import RenderableType

    from detseg.train.config import TrainConfig

Kind = Literal["detections", "masks", "classes"]
# Options that mean nothing where another kind is judged.
OPTIONS: dict[Kind, tuple[str, ...]] = {
    "detections": ("iou_type", "score_threshold", "voc", "slide"),
    "masks": ("flip", "scales", "long_side", "masks"),
    "classes": ("ten_crop",),
}


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judge detections the COCO way, masks by IoU, classifiers by accuracy: figures, intervals, what is wrong.

    A file of detections; the model of a training run, on its validation pictures (a localizer's also by mean IoU and
    accuracy); is the second better?

        detseg evaluate --ground-truth gt.json --detections dt.json
        detseg evaluate --detections runs/detector-1
        detseg evaluate --ground-truth gt.json --detections dt.json --compare other.json

    A localizer that slides over pictures, beside a detector:

        detseg evaluate --detections runs/localizer-1 --slide --ground-truth flowers/val.json
        detseg evaluate --detections runs/localizer-1 --slide --ground-truth flowers/val.json --compare runs/detector-1

    A segmenter, looking in two ways or at other pictures; a folder of masks, as `detseg predict` writes them:

        detseg evaluate --predictions runs/segmenter-1
        detseg evaluate --predictions runs/segmenter-1 --flip --compare runs/segmenter-2
        detseg evaluate --predictions runs/segmenter-1 --ground-truth meadows/val.txt
        detseg evaluate --predictions predictions/ --ground-truth flowers-masks/val.txt

    A classifier, by the mean of ten crops; by the test pictures that neither trained nor chose it:

        detseg evaluate --predictions runs/classifier-1 --ten-crop
        detseg evaluate --predictions runs/classifier-1 --split test
    """

    detections: Annotated[Path, tyro.conf.arg(aliases=["--predictions"])]
    """What is judged. The folder of a training run, whose model then looks at the pictures; or a COCO results JSON
    file, a list of image_id, category_id, bbox (x, y, width, height) and score; or a folder of masks, a NAME.png with
    the dataset's values for each picture."""
    ground_truth: Path | None = None
    """For detections a COCO JSON file with images, annotations and categories; for masks any set of masks; for a run
    anything that it could be trained on. By default what the run was validated on."""
    split: Literal["train", "val", "test"] | None = None
    """Which split is judged, of --ground-truth or else of the --data of the run; by default val, where there are
    several."""
    iou_type: Literal["bbox", "segm"] = "bbox"
    """Of detections: compare boxes, or masks (both files then need a segmentation for every entry)."""
    compare: Path | None = None
    """Other predictions of the same pictures, of any of the same forms: are they better?"""
    resamples: int = 1000
    """How often to draw the pictures anew for the 95 % intervals; 0 leaves them out."""
    score_threshold: float | None = None
    """Of detections, for their confusion matrix: those below are left out; by default the score with the best F1."""
    voc: Literal["2007", "2012"] | None = None
    """Of detections: also average precision by the rules of the Pascal VOC challenge of that year, at an IoU of 0.5."""
    slide: bool = False
    """Of localizers with --objectness: look for objects in windows of the size that the model was trained at, all over
    each picture and shrunk copies of it."""
    flip: bool = False
    """Of segmenters: average with what is seen in the mirrored picture."""
    scales: tuple[float, ...] = (1.0,)
    """Of segmenters: average over these multiples of the size that the model was trained at."""
    long_side: int | None = None
    """Of segmenters: look at each picture with this long side, in overlapping windows. With --slide: of each picture
    when the smallest objects are looked for; by default five times the size that the model was trained at."""
    masks: str | None = None
    """Of masks: the folder of true masks beside images/, where it is not called masks; by default as in training."""
    ten_crop: bool = False
    """Of classifiers: the mean over ten crops of each picture: corners and middle, mirrored too."""
    json: bool = False
    """Print JSON instead of tables, and nothing else."""
    csv: Path | None = None
    """Write a table to this file, a row for all classes and one for each."""


@dataclass(frozen=True)
class Verdict:
    """What there is to say, in each of its forms."""

    content: dict[str, Any]  # for JSON
    rows: list[dict[str, Any]]  # for CSV, all classes together first
    tables: Sequence[RenderableType]


def run(config: Evaluate) -> int:
    """Print the metrics; returns the exit code.

    Raises:
        ValueError: a file is missing or wrong; the message names it, the item and what is wrong.
    """
    from rich.console import Console

    _check(config)
    judge = import_module(f"detseg.cli.evaluate_{_judged(config)}").judge
    verdict: Verdict = judge(config, Console(stderr=True))
    if config.csv is not None:
        write_csv(verdict.rows, config.csv)
    if config.json:
        print(json.dumps(verdict.content, indent=2, allow_nan=False))
        return 0
    console = Console()
    for table in verdict.tables:
        console.print(table)
    return 0


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows with the columns of all of them; empty where there is nothing to tell."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({n: "" if isinstance(v, float) and math.isnan(v) else v for n, v in row.items()})


def limit_columns(intervals: dict[str, Any]) -> dict[str, float]:
    """Columns NAME_low and NAME_high of intervals by name."""
    return {f"{name}_{end}": getattr(limits, end) for name, limits in intervals.items() for end in ("low", "high")}


def pick_split(path: Path, splits: Collection[str], asked: str | None) -> str:
    """The name of the split of a data set to judge by: the one asked for, else "val", else the only one.

    Raises:
        ValueError: it is not there, or none is asked for and several are.
    """
    found = ", ".join(name or "pictures without splits" for name in splits)
    if asked is None and "val" not in splits and len(splits) > 1:
        raise ValueError(f"{path}: holds the splits {found}; choose one with --split")
    if asked is not None and asked not in splits:
        raise ValueError(f"{path}: has no split {asked!r} for --split; found: {found}")
    return asked or ("val" if "val" in splits else next(iter(splits)))


def data_of_run(folder: Path, trained: TrainConfig) -> Path:
    """The --data of a run, another split of which is to be judged.

    Raises:
        ValueError: it was trained with --train and --val.
    """
    if trained.data is None:
        raise ValueError(
            f"{folder}: was trained with --train and --val, not with --data that could have other splits; name the "
            "pictures to judge by --ground-truth"
        )
    return trained.data


def _check(config: Evaluate) -> None:
    """Raise ValueError where options make no sense."""
    if config.resamples < 0:
        raise ValueError(f"--resamples must not be negative, it is {config.resamples}")
    if config.compare is not None and not config.resamples:
        raise ValueError("--compare draws resamples; leave out --resamples 0")


def _judged(config: Evaluate) -> Kind:
    """What is judged.

    Raises:
        ValueError: the two sides are of different kinds, or an option is for another kind.
    """
    kinds = {path: _kind_of(path) for path in (config.detections, config.compare) if path is not None}
    if len(set(kinds.values())) > 1:
        told = " and ".join(f"{path} ({kind})" for path, kind in kinds.items())
        raise ValueError(f"{told} cannot be compared with each other")
    judged = kinds[config.detections]
    foreign = [name for kind, names in OPTIONS.items() if kind != judged for name in names]
    if config.slide and judged == "detections":
        foreign.remove("long_side")
    if options := ", ".join(given(config, foreign)):
        raise ValueError(f"{config.detections}: {judged} are judged, for which there is no {options}; leave it out")
    return judged


def _kind_of(path: Path) -> Kind:
    """What is at a path: the run of a segmenter or classifier, a folder of masks, or else detections."""
    from detseg.train.checkpoint import DESCRIPTION, read_description
    from detseg.train.config import SETTINGS

    if not path.is_dir():
        return "detections"
    # A run that has not come to a model yet may hold pictures too.
    if not any((path / name).exists() for name in (DESCRIPTION, SETTINGS)) and any(path.glob("*.png")):
        return "masks"
    kinds: dict[str, Kind] = {"fcn": "masks", "classifier": "classes"}
    return kinds.get(read_description(path)["architecture"]["kind"], "detections")
