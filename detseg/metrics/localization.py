"""Metrics of localizers: the class and the box of the one object of an image, and whether there is one at all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.boxes import paired_iou
from detseg.metrics.arrays import none_for_nan
from detseg.metrics.bootstrap.draws import Interval, Sample, draw, intervals_of
from detseg.metrics.detection.batches import prediction_columns, target_columns
from detseg.metrics.detection.records import whole_numbers
from detseg.metrics.evaluator import Evaluator, State
from detseg.metrics.figure import Figure, attribute_figures, figures_of

LEVEL = 0.95
FIGURES: list[Figure] = attribute_figures(
    ("mean_iou", "mean IoU", "of the predicted with the true box"),
    ("accuracy", "accuracy", "share of images whose class is right"),
    ("localized", "localised", "class right and IoU at least 0.5"),
    ("iou50", "IoU 0.50", "share of boxes with that IoU or more"),
    ("iou75", "IoU 0.75", "the same"),
    ("objectness", "objectness", "how often an image with an object scores higher than one without; 0.5 is chance"),
    ("quality", "quality", "mean of mean IoU and objectness"),
)
OF_PRESENCE = ("objectness", "quality")  # only where images without an object were evaluated too

_NOTHING, _CROWD = -1, -2  # in place of the true label: no objects at all, nothing but crowd regions


@dataclass(frozen=True)
class LocalizationClass:
    """One class; NaN without images."""

    name: str
    count: int  # images of it
    mean_iou: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class LocalizationMetrics:
    """Metrics of a set of N images with one object each."""

    mean_iou: float  # of the predicted with the true box, whatever the class
    accuracy: float  # share of images whose class is right
    localized: float  # share whose class is right and whose IoU is at least 0.5 (ImageNet's localisation accuracy)
    iou50: float  # share whose IoU is at least 0.5
    iou75: float  # share whose IoU is at least 0.75
    per_class: tuple[LocalizationClass, ...]  # (K,)
    ious: NDArray[np.float64]  # (N,)
    right: NDArray[np.bool_]  # (N,) whether the class is
    intervals: dict[str, Interval]  # of mean_iou and accuracy, by bootstrap over images
    images: int  # N
    without: int = 0  # images without an object that were evaluated
    # Area under the ROC curve of the scores: how often an image with an object scores higher than one without, equal
    # scores counting half; NaN without images of both kinds.
    objectness: float = math.nan
    level = LEVEL  # of the intervals

    @property
    def quality(self) -> float:
        """Mean of mean IoU and objectness."""
        return (self.mean_iou + self.objectness) / 2

    def shown(self) -> list[Figure]:
        """`FIGURES`, those of objectness where it was judged."""
        return [f for f in FIGURES if f.name not in OF_PRESENCE or not math.isnan(self.objectness)]

    def figures(self) -> dict[str, float]:
        """The figures by name."""
        return figures_of(self, self.shown())

    def to_dict(self) -> dict[str, Any]:
        """Everything but the figures of single images, as plain Python for `json.dump`, NaN as None."""
        rows = [vars(row) for row in self.per_class]
        intervals = {name: vars(interval) for name, interval in self.intervals.items()}
        counts = {"images": self.images, "without": self.without}
        return none_for_nan(self.figures() | counts | {"intervals": intervals, "per_class": rows})


class LocalizationEvaluator(Evaluator):
    """Collect the boxes, classes and scores of images batch by batch and evaluate them by `evaluate_localization`.

        evaluator = LocalizationEvaluator(["rose", "tulip"])
        evaluator.update(model(images), targets, image_ids)
        metrics = evaluator.compute()

    `names` are those of the classes in label order; raises ValueError where there are none.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        if not names:
            raise ValueError("the list of names is empty: give one for each class")
        self.names = tuple(names)

    def update(self, predictions: Sequence[Mapping[str, Any]], targets: Sequence[Any], image_ids: Any) -> None:
        """Add some images.

        Args:
            predictions: for each image a dict of `boxes` (1, 4) xyxy, `labels` (1,) and `scores` (1,). Torch on any
                device, or numpy.
            targets: for each image a dict of `boxes` (M, 4), `labels` (M,) and `iscrowd` (M,; False if missing). Its
                object is the largest that is no crowd, the first of equals. Without any objects the image counts for
                objectness only; with nothing but crowd regions it does not count.
            image_ids: for each image a number of its own.

        Raises:
            ValueError: something is missing or wrong; the message names the image. Nothing of this call is kept then.
        """
        ids = whole_numbers(image_ids, "image_ids")
        if not len(predictions) == len(targets) == len(ids):
            raise ValueError(f"{len(predictions)} predictions, {len(targets)} targets and {len(ids)} image ids")
        found = prediction_columns(predictions, ids, len(self.names), masks=False)
        wrong = np.flatnonzero(found["counts"] != 1)
        if len(wrong):
            raise ValueError(f"image {ids[wrong[0]]}: give one box an image, got {found['counts'][wrong[0]]}")
        real = target_columns(targets, ids, len(self.names), masks=False)
        owners = np.repeat(np.arange(len(ids)), real["counts"])
        area = (real["boxes"][:, 2:] - real["boxes"][:, :2]).prod(axis=1)
        # Written from small to large, the largest of each image stays.
        order = np.lexsort((-np.arange(len(area)), area))
        order = order[~real["iscrowd"][order]]
        true_boxes, true_labels = np.zeros((len(ids), 4)), np.where(real["counts"] > 0, _CROWD, _NOTHING)
        true_boxes[owners[order]], true_labels[owners[order]] = real["boxes"][order], real["labels"][order]
        part = {"image_ids": ids, "true_boxes": true_boxes, "true_labels": true_labels}
        self._add(part | {name: found[name] for name in ("boxes", "labels", "scores")})

    def compute(self, *, resamples: int = 1000, seed: int = 0) -> LocalizationMetrics:
        """The metrics of all images so far, of which there must be one; options as for `evaluate_localization`."""
        state = self._collected()
        # In the order of their ids, so that the intervals do not depend on the order in which they came.
        order = np.argsort(state["image_ids"])
        state = {name: values[order] for name, values in state.items()}
        there = state["true_labels"] >= 0
        names = ("boxes", "labels", "true_boxes", "true_labels")
        found, labels, true_boxes, true_labels = (state[name][there] for name in names)
        scores = {"scores": state["scores"][there], "scores_without": state["scores"][state["true_labels"] == _NOTHING]}
        given = found, labels, true_boxes, true_labels, self.names
        return evaluate_localization(*given, **scores, resamples=resamples, seed=seed)

    def _settings(self) -> State:
        return {"names": self.names}

    def _empty(self) -> State:
        whole, boxes = ("image_ids", "labels", "true_labels"), ("boxes", "true_boxes")
        columns = dict.fromkeys(whole, np.zeros(0, np.int64)) | dict.fromkeys(boxes, np.zeros((0, 4)))
        return columns | {"scores": np.zeros(0)}


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
    """Evaluate one class and one box an image.

    Args:
        boxes, true_boxes: (N, 4) xyxy, in the same pixels.
        labels, true_labels: (N,) in 0..K-1.
        names: (K,) of the classes.
        scores, scores_without: (N,) of the predictions, and (E,) of those in images without an object: for objectness.
        resamples, seed: of the 95 % intervals; 0 resamples leave them out.

    Raises:
        ValueError: shapes do not fit, a box is not finite, or a label is outside 0..K-1.
    """
    boxes, true_boxes = np.asarray(boxes, np.float64), np.asarray(true_boxes, np.float64)
    labels, true_labels = np.asarray(labels), np.asarray(true_labels)
    count = len(true_labels)
    present, absent = (np.asarray([] if given is None else given, np.float64) for given in (scores, scores_without))
    sides = {"boxes": (boxes, (count, 4)), "true_boxes": (true_boxes, (count, 4)), "labels": (labels, (count,))}
    sides["scores"] = present, (0 if scores is None else count,)
    sides["scores_without"] = absent, (absent.size,)
    for name, (array, shape) in sides.items():
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {shape}: one for each image")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} of image {int(np.argwhere(~np.isfinite(array))[0, 0])} is not finite")
    if count and not 0 <= true_labels.min() <= true_labels.max() < len(names):
        raise ValueError(f"true labels must lie in 0..{len(names) - 1}")
    ious = paired_iou(torch.from_numpy(boxes), torch.from_numpy(true_boxes)).numpy()
    right = labels == true_labels
    of_class = [true_labels == k for k in range(len(names))]
    per_class = tuple(
        LocalizationClass(name, int(mine.sum()), _mean(ious[mine]), _mean(right[mine]))
        for name, mine in zip(names, of_class, strict=True)
    )
    return LocalizationMetrics(
        mean_iou=_mean(ious),
        accuracy=_mean(right),
        localized=_mean(right & (ious >= 0.5)),
        iou50=_mean(ious >= 0.5),
        iou75=_mean(ious >= 0.75),
        per_class=per_class,
        ious=ious,
        right=right,
        intervals=_intervals({"mean_iou": ious, "accuracy": right.astype(np.float64)}, resamples, seed),
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
    columns = zip(values.items(), spread.T, strict=True)
    samples = {name: Sample(_mean(column), drawn, bool(np.ptp(column) > 0)) for (name, column), drawn in columns}
    return intervals_of(samples, LEVEL)
