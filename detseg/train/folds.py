"""Cross-validation: a run for each fold, and what the runs detect in images that they were not trained on.

folds = train_folds(TrainDetector(data=Path("flowers"), output=Path("runs/folds"), epochs=30), 5)
print(folds.annotations, folds.detections)  # files of all images, for `detseg evaluate`
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from detseg.console import print_line
from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.convert import checked_splits, read_whole, told, write_splits
from detseg.data.formats import read_dataset, write_coco
from detseg.data.formats.coco import FORMAT as COCO
from detseg.data.join import joined
from detseg.data.splits import folds_of
from detseg.files import write_atomically
from detseg.metrics.detection.inputs import Detections
from detseg.train.config import OF_PROCESS, SETTINGS, load_config, require_same_options
from detseg.train.process import numbered_folder
from detseg.train.resume import RESUME
from detseg.train.runner import Draw, train
from detseg.train.start import start_of
from detseg.train.task import Run


@dataclass(frozen=True)
class Folds:
    """What `train_folds` leaves in its folder, beside the runs fold-1, fold-2, …"""

    folder: Path
    interrupted: bool = False  # the same call goes on

    @property
    def annotations(self) -> Path:
        """All images, as a COCO file."""
        return self.folder / "annotations.json"

    @property
    def detections(self) -> Path:
        """In each image those of the run that was not trained on it, as COCO results with the ids of `annotations`."""
        return self.folder / "detections.json"


def train_folds(
    config: Any,
    count: int,
    console: Console | None = None,
    *,
    draw: Draw | None = None,
    finished: Callable[[int, Run], None] | None = None,
) -> Folds:
    """Train a detector `count` times as `config` says, each time without another part of the images.

    The parts are those of `detseg.data.splits.folds_of`, or, where `config.data` holds fold-1, fold-2, …, as `detseg
    split --folds` writes them, these. A test split is left out. Where the folder holds folds of the same options they
    are gone on with, finished ones are kept.

    Args:
        config: the options of each run; `output` is the folder of all, by default the next free runs/detector-folds-1.
        console: where progress is shown; none is shown without.
        draw: as of `train`.
        finished: called with the number of a fold and its run, when it has ended.

    Raises:
        ValueError: wrong options or data, or a fold in the folder has other options.
        TrainingError: as of `train`.
    """
    _check(config)
    config = start_of(config).config  # as the options of the folds are saved
    console = console or Console(quiet=True)
    own = (config.data / "fold-1").is_dir()
    whole, parts = _given_folds(config.data, count) if own else _new_folds(config, count, console)
    folder = config.output or numbered_folder(Path("runs"), f"{config.task}-folds")
    result = Folds(folder)
    write_coco(whole, result.annotations)
    found: list[Detections] = []
    for number, splits in enumerate(parts, 1):
        data = config.data / f"fold-{number}" if own else folder / "folds" / f"fold-{number}"
        if not own:
            write_splits(splits, data, COCO, images="keep")
        print_line(console, f"fold {number} of {count}: {told(splits)}")
        plain = {"images": None, "repair": False, "data": data, "output": folder / f"fold-{number}"}
        run = train(_begun(replace(config, **plain)), console, draw=draw)
        if run.interrupted:
            return Folds(folder, interrupted=True)
        config = replace(config, size=run.config.size)  # that of the first, for all
        found.append(_detections(run))
        if finished is not None:
            finished(number, run)
    known = {category.id for category in whole.categories}  # a tree of classes has more
    every = [result for detections in found for result in detections.to_results()]
    results = [result for result in every if result["category_id"] in known]
    write_atomically(result.detections, json.dumps(results))
    return result


def _check(config: Any) -> None:
    if config.resume is not None:
        raise ValueError("--folds goes on by the same command as before; leave out --resume")
    if config.data is None:
        raise ValueError("--folds divides --data; leave out --train and --val")
    if config.val_share is not None:
        raise ValueError("--folds divides --data; leave out --val-share")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--folds trains in one process; start it without torchrun or accelerate launch")
    config.check()


def _new_folds(config: Any, count: int, console: Console) -> tuple[Annotations, list[dict[str, Annotations]]]:
    say = partial(print_line, console)
    whole = read_whole(config.data, "objects", images=config.images, without_test=True, print_line=say)
    whole = checked_splits({"train": whole}, repairing=config.repair, print_line=say)["train"]
    return whole, folds_of(whole, count)


def _given_folds(path: Path, count: int) -> tuple[Annotations, list[dict[str, Annotations]]]:
    there = len([folder for folder in path.glob("fold-*") if folder.is_dir()])
    if there != count:
        raise AnnotationError(f"{path}: holds {there} folds; train with --folds {there}")
    parts = [read_dataset(path / f"fold-{number}") for number in range(1, count + 1)]
    return joined([splits["val"] for splits in parts], str(path)), parts


def _begun(config: Any) -> Any:
    """The options of a fold; where its run has been begun, of going on with it."""
    folder = config.output
    if not (folder / RESUME).exists() or not (folder / SETTINGS).exists():
        return config
    require_same_options(load_config(folder), config, folder)
    return type(config)(resume=folder, **{name: getattr(config, name) for name in OF_PROCESS})


def _detections(run: Run) -> Detections:
    """What the best model of a run detects in its validation images."""
    data = run.val.annotations
    ids = [category.id for category in data.categories]
    predictions: list[Mapping[str, Any]] = run.predictions
    return Detections.from_predictions(predictions, data.image_ids.tolist(), ids)
