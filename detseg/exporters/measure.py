"""What an exported file is worth: the validation images through it and through torch, figure by figure."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console

from detseg.boxes import box_iou
from detseg.console import track
from detseg.files import write_atomically
from detseg.metrics.bootstrap.detection import bootstrap_detection
from detseg.metrics.bootstrap.segmentation import bootstrap_segmentation
from detseg.metrics.figure import figures_of
from detseg.predict.predictor import Predictor
from detseg.results import Classification, Results, Segmentation
from detseg.runtime import ExportedModel
from detseg.tasks import part
from detseg.train.config import load_config

CLEAR = 0.3  # detections from this score on are compared one by one
SAME = 0.5  # IoU from which on two detections are of the same object


@dataclass(frozen=True)
class Side:
    """How a model does on the validation images, in one engine."""

    value: float  # the task's first figure, such as mAP
    low: float  # of its 95 % bootstrap confidence interval
    high: float
    ms: float  # median milliseconds of `predict` for one image, from the file to results


@dataclass(frozen=True)
class Comparison:
    """torch beside an exported file."""

    figure: str
    images: int
    torch: Side
    exported: Side
    largest_difference: float  # of scores, probabilities; of masks: share of the pixels of other classes
    only_in_one: int  # clear detections without a counterpart in the other

    @property
    def lost(self) -> float:
        """How much lower the figure is."""
        return self.torch.value - self.exported.value

    def save(self, path: Path, **more: Any) -> None:
        """Write everything as JSON."""
        write_atomically(path, json.dumps({**more, **asdict(self), "lost": self.lost}, indent=2) + "\n")


def validation_of(folder: Path, console: Console) -> tuple[Any, Any]:
    """The task of a run and its validation annotations; ValueError where they are not there any more."""
    config = load_config(folder)
    task = part(config.task, "train")(config, console)
    logging.disable(logging.WARNING)  # what is to be said of the data was said when it was trained on
    try:
        _, val = task.load()
    finally:
        logging.disable(logging.NOTSET)
    return task, val


def compare(
    task: Any, val: Any, model: Predictor, exported: ExportedModel[Any], console: Console, *, images: int | None = None
) -> Comparison:
    """Both models on validation images, in turn, image by image.

    Args:
        task, val: of `validation_of`.
        model, exported: the same model in torch and in another engine.
        console: for the progress bar.
        images: as many are looked at, spread over the set; all if None.
    """
    dataset = SimpleNamespace(annotations=val, labelled=val)
    task.tree = None  # nodes are classes like others here
    count = len(val.paths)
    chosen = np.unique(np.linspace(0, count - 1, count if images is None else min(images, count)).astype(int)).tolist()
    metrics = [task.evaluator(dataset) for _ in range(2)]
    looks = [partial(_look, one) for one in (model, exported)]
    seconds: list[list[float]] = [[], []]
    largest, single = 0.0, 0
    for look in looks:  # what is prepared at the first image is not timed
        look(val.paths[chosen[0]])
    for index in track(chosen, len(chosen), what="measuring", console=console):
        found = []
        for look, metric, spent in zip(looks, metrics, seconds, strict=True):
            started = time.perf_counter()
            found.append(look(val.paths[index]))
            spent.append(time.perf_counter() - started)
            metric.update([_plain(found[-1])], [task.target(dataset, index)], val.image_ids[index : index + 1])
        difference, alone = differences(*found)
        largest, single = max(largest, difference), single + alone
    names = [figure for figure in task.FIGURES if figure.name == task.headline[0]]
    # Evaluators of detections know the whole set, and want to be told that some of it is left out.
    some = {"partial": True} if len(chosen) < count and task.name == "detector" else {}
    sides = [_side(metric.compute(**some), names[0], spent) for metric, spent in zip(metrics, seconds, strict=True)]
    return Comparison(names[0].title, len(chosen), sides[0], sides[1], largest, single)


def _look(model: Any, path: str) -> Any:
    options: dict[str, Any] = {}
    if model.task in ("detect", "localize"):
        options = {"score_threshold": 0.0} | ({"run_lengths": True} if model.finds_masks else {})
    (found,) = model.stream([str(path)], **options)
    return found


def _plain(found: Any) -> Any:
    """A result in the form that evaluators take."""
    if isinstance(found, Segmentation):
        return found.mask
    if isinstance(found, Classification):
        return found.scores[np.argsort(found.labels)]
    return dict(found)


def _side(metrics: Any, figure: Any, seconds: Sequence[float]) -> Side:
    if hasattr(metrics, "matches"):
        intervals = bootstrap_detection(metrics.matches).figures
    else:
        known = getattr(metrics, "intervals", None)
        intervals = bootstrap_segmentation(metrics).figures if known is None else known
    value = figures_of(metrics, [figure])[figure.name]
    interval = intervals.get(figure.name)
    low, high = (value, value) if interval is None else (interval.low, interval.high)
    return Side(value, low, high, 1000 * float(np.median(seconds)))


def differences(a: Any, b: Any) -> tuple[float, int]:
    """How far two results of the same image are apart at most, and how many clear detections only one of them has."""
    if isinstance(a, Segmentation):
        return float((a.mask != b.mask).mean()), 0
    if isinstance(a, Classification):
        return float(np.abs(_plain(a) - _plain(b)).max()), 0
    clear = [found.select(found.scores >= CLEAR) for found in (a, b)]
    (largest, alone), (_, others) = _matched(clear[0], b), _matched(clear[1], a)
    return largest, alone + others


def _matched(some: Results, others: Results) -> tuple[float, int]:
    """The largest difference of the scores of detections and their counterparts, and how many have none."""
    largest, alone = 0.0, 0
    for box, score, label in zip(some.boxes, some.scores, some.labels, strict=True):
        overlaps = np.where(others.labels == label, box_iou(box[None], others.boxes)[0], 0.0)
        if overlaps.max(initial=0.0) < SAME:
            alone += 1
        else:
            largest = max(largest, abs(float(score) - float(others.scores[int(overlaps.argmax())])))
    return largest, alone
