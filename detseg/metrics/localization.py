"""How good a localizer is: does it name the one object of an image, how well does its box fit, is there one at all?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.boxes import paired_iou
from detseg.metrics.bootstrap.draws import Interval, draw, interval_of
from detseg.metrics.detection.records import none_for_nan
from detseg.metrics.figure import Figure, figures_of

LEVEL = 0.95
FIGURES: list[Figure] = [
    Figure("mean_iou", "mean IoU", "of the predicted with the true box", attrgetter("mean_iou")),
    Figure("accuracy", "accuracy", "share of images whose class is right", attrgetter("accuracy")),
    Figure("localized", "localised", "class right and IoU at least 0.5", attrgetter("localized")),
    Figure("iou50", "IoU 0.50", "share of boxes with that IoU or more", attrgetter("iou50")),
    Figure("iou75", "IoU 0.75", "the same", attrgetter("iou75")),
    Figure(
        "objectness",
        "objectness",
        "how often an image with an object scores higher than one without; 0.5 is chance",
        attrgetter("objectness"),
    ),
    Figure("quality", "quality", "mean of mean IoU and objectness", attrgetter("quality")),
]
_OF_PRESENCE = ("objectness", "quality")  # only where images without an object were judged too


@dataclass(frozen=True)
class LocalizationClass:
    """One class; NaN without images."""

    name: str
    count: int  # images of it
    mean_iou: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class LocalizationMetrics:
    """What `evaluate_localization` found.

    Attributes:
        mean_iou: mean IoU of the predicted with the true box, whatever the class.
        accuracy: share of images whose class is right.
        localized: share whose class is right and whose IoU is at least 0.5 (ImageNet's localisation accuracy).
        iou50, iou75: share whose IoU is at least 0.5, 0.75.
        per_class: (K,).
        ious: (N,) of each image.
        right: (N,) bool, whether its class is right.
        intervals: of mean_iou and accuracy, by drawing the images again.
        images: N.
        without: how many images without an object were judged.
        objectness: area under the ROC curve of the scores: how often an image with an object scores higher than one
            without, equal scores counting half. 0.5 is chance; NaN without images of both kinds.
    """

    mean_iou: float
    accuracy: float
    localized: float
    iou50: float
    iou75: float
    per_class: tuple[LocalizationClass, ...]
    ious: NDArray[np.float64]
    right: NDArray[np.bool_]
    intervals: dict[str, Interval]
    images: int
    without: int = 0
    objectness: float = math.nan

    @property
    def quality(self) -> float:
        """Mean of mean IoU and objectness."""
        return (self.mean_iou + self.objectness) / 2

    def shown(self) -> list[Figure]:
        """`FIGURES`, those of objectness where it was judged."""
        return [f for f in FIGURES if f.name not in _OF_PRESENCE or not math.isnan(self.objectness)]

    def figures(self) -> dict[str, float]:
        """The figures by name."""
        return figures_of(self, self.shown())

    def to_dict(self) -> dict[str, Any]:
        """Everything but what is known of single images, as plain Python for `json.dump`, NaN as None."""
        rows = [vars(row) for row in self.per_class]
        intervals = {name: vars(interval) for name, interval in self.intervals.items()}
        counts = {"images": self.images, "without": self.without}
        return none_for_nan(self.figures() | counts | {"intervals": intervals, "per_class": rows})


def evaluate_localization(
    boxes: NDArray[Any],
    labels: NDArray[Any],
    true_boxes: NDArray[Any],
    true_labels: NDArray[Any],
    names: Sequence[str],
    *,
    scores: NDArray[Any] | None = None,
    scores_without: NDArray[Any] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> LocalizationMetrics:
    """Judge one class and one box an image.

    Args:
        boxes: (N, 4) xyxy, predicted.
        labels: (N,) predicted.
        true_boxes: (N, 4) xyxy, in the same pixels.
        true_labels: (N,) in 0..K-1.
        names: (K,) of the classes.
        scores: (N,) of the predictions, and
        scores_without: (E,) of those in images without an object: to judge objectness by.
        resamples: for the 95 % intervals; 0 leaves them out.
        seed: of these.

    Raises:
        ValueError: shapes do not fit, a box is not finite, or a label is outside 0..K-1.
    """
    boxes, true_boxes = np.asarray(boxes, np.float64), np.asarray(true_boxes, np.float64)
    labels, true_labels = np.asarray(labels), np.asarray(true_labels)
    count = len(true_labels)
    present, absent = (np.asarray([] if given is None else given, np.float64) for given in (scores, scores_without))
    for name, array, shape in (
        ("boxes", boxes, (count, 4)),
        ("true_boxes", true_boxes, (count, 4)),
        ("labels", labels, (count,)),
        *((("scores", present, (count,)),) if scores is not None else ()),
        ("scores_without", absent, (absent.size,)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {shape}: one for each image")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} of image {int(np.argwhere(~np.isfinite(array))[0, 0])} is not finite")
    if count and not 0 <= true_labels.min() <= true_labels.max() < len(names):
        raise ValueError(f"true labels must lie in 0..{len(names) - 1}")
    ious = paired_iou(torch.from_numpy(boxes), torch.from_numpy(true_boxes)).numpy()
    right = labels == true_labels
    per_class = tuple(
        LocalizationClass(name, int(mine.sum()), _mean(ious[mine]), _mean(right[mine]))
        for name, mine in ((name, true_labels == k) for k, name in enumerate(names))
    )
    intervals = _intervals({"mean_iou": ious, "accuracy": right.astype(np.float64)}, resamples, seed)
    return LocalizationMetrics(
        mean_iou=_mean(ious),
        accuracy=_mean(right),
        localized=_mean(right & (ious >= 0.5)),
        iou50=_mean(ious >= 0.5),
        iou75=_mean(ious >= 0.75),
        per_class=per_class,
        ious=ious,
        right=right,
        intervals=intervals,
        images=count,
        without=len(absent),
        objectness=area_under_roc(present, absent),
    )


def area_under_roc(high: NDArray[np.float64], low: NDArray[np.float64]) -> float:
    """How often a score of `high` (N,) is above one of `low` (E,), equal ones counting half; NaN if either is empty."""
    if not len(high) or not len(low):
        return math.nan
    ordered = np.sort(low)
    below, up_to = (np.searchsorted(ordered, high, side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(low)))


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _intervals(values: dict[str, NDArray[np.float64]], resamples: int, seed: int) -> dict[str, Interval]:
    """95 % intervals of means, by drawing the images anew; NaN limits where all values are equal."""
    table = np.column_stack(list(values.values()))
    if not resamples or not len(table):
        return {}
    spread = draw(len(table), range(resamples), seed) @ table / len(table)
    return {
        name: interval_of(_mean(column), spread[:, i], LEVEL, bool(np.ptp(column) > 0))
        for i, (name, column) in enumerate(values.items())
    }
