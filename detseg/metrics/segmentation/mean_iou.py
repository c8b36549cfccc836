"""Metrics of semantic segmentation: the figures of a confusion matrix of pixels (Long, Shelhamer and Darrell, CVPR
2015), Dice, and Boundary IoU (Cheng et al., CVPR 2021).

With n_ij pixels of class i predicted as j, t_i of class i, p_i predicted as i:

    pixel accuracy             Σ n_ii / Σ t_i
    accuracy of a class        n_ii / t_i
    precision of a class       n_ii / p_i
    IoU of a class             n_ii / (t_i + p_i - n_ii)
    Dice of a class            2 n_ii / (t_i + p_i)
    frequency-weighted IoU     Σ t_i IoU_i / Σ t_i

The pixels of all images are counted together before anything is divided. Means over classes are over those that
occur in truth. A class that does not is NaN, even where it is predicted: it has no pixels to be right about. Boundary
IoU is the IoU formula on the pixels of the boundary regions (`boundary.py`), also summed over the images first, and
its mean is over classes with a boundary in truth. Ignored pixels count nowhere.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.arrays import divide, mean_over_classes, none_for_nan
from detseg.metrics.figure import Figure, attribute_figures, figures_of

FIGURES: list[Figure] = attribute_figures(
    ("miou", "mIoU", "mean IoU of the classes"),
    ("pixel_accuracy", "pixel accuracy", "share of the pixels that are right"),
    ("mean_accuracy", "mean accuracy", "the same of each class, then the mean"),
    ("frequency_weighted_iou", "frequency-weighted IoU", "large classes count more"),
    ("dice", "Dice", "mean of the classes"),
    ("boundary_iou", "boundary IoU", "IoU along the borders alone"),
)


@dataclass(frozen=True)
class SegmentationClass:
    """Of one class; NaN where it does not occur."""

    name: str
    iou: float
    dice: float
    accuracy: float  # share of its pixels that are predicted as it: its recall
    precision: float  # share of the pixels predicted as it that are it; NaN where nothing is
    boundary_iou: float  # NaN also where it was not computed
    pixels: int  # in truth
    images: int  # with such pixels


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """Pixels of each class in each of N images, which are sorted by their ids."""

    image_ids: NDArray[np.int64]  # (N,) rising
    truth: NDArray[np.int64]  # (N, K)
    predicted: NDArray[np.int64]  # (N, K) ignored pixels left out, as everywhere
    hits: NDArray[np.int64]  # (N, K) predicted rightly
    boundary: NDArray[np.int64] | None  # (3, N, K) the same three, in the boundary regions

    @property
    def iou(self) -> NDArray[np.float64]:
        """(N, K), NaN for classes that are not in the image."""
        return iou_of(self.truth, self.predicted, self.hits)

    @property
    def miou(self) -> NDArray[np.float64]:
        """(N,) mean over the classes that are in the image, NaN where all is ignored."""
        return mean_over_classes(self.iou)

    def worst(self, most: int) -> NDArray[np.int64]:
        """Places of the images with the lowest `miou`, the worst first; those without pixels that count never."""
        miou = self.miou
        order = np.argsort(miou, kind="stable")  # NaN last
        return order[: min(most, int(np.sum(~np.isnan(miou))))]


@dataclass(frozen=True, eq=False)
class SegmentationMetrics:
    """Metrics of a set of images; NaN where no pixels count."""

    confusion: NDArray[np.int64]  # (K, K) pixels, rows: truth, columns: prediction
    pixel_accuracy: float
    mean_accuracy: float
    miou: float
    frequency_weighted_iou: float
    dice: float  # mean over classes
    boundary_iou: float  # mean over classes; NaN also where it was not computed
    per_class: tuple[SegmentationClass, ...]  # (K,)
    images: ImageCounts = field(repr=False)  # not in `to_dict`

    @property
    def names(self) -> tuple[str, ...]:
        """(K,) of the classes."""
        return tuple(row.name for row in self.per_class)

    def shown(self) -> list[Figure]:
        """`FIGURES`, boundary IoU only where it was asked for."""
        return [f for f in FIGURES if f.name != "boundary_iou" or self.images.boundary is not None]

    def figures(self) -> dict[str, float]:
        """The figures of all classes together by name."""
        return figures_of(self, self.shown())

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single images, as plain Python for `json.dump`, NaN as None."""
        content = {
            "images": len(self.images.image_ids),
            "pixels": int(self.confusion.sum()),
            "figures": self.figures(),
            "per_class": [asdict(row) for row in self.per_class],
            "confusion": self.confusion.tolist(),
        }
        return none_for_nan(content)


def measure_segmentation(
    names: Sequence[str], confusion: NDArray[np.int64], images: ImageCounts
) -> SegmentationMetrics:
    """All figures from the counts."""
    truth, predicted, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diagonal(confusion)
    boundary = np.zeros((3, len(names)), np.int64) if images.boundary is None else images.boundary.sum(axis=1)
    iou, dice = iou_of(truth, predicted, hits), dice_of(truth, predicted, hits)
    accuracy, precision = divide(hits, truth), divide(hits, predicted)
    boundary_iou = iou_of(*boundary)
    seen = np.sum(images.truth > 0, axis=0)
    columns = [values.tolist() for values in (iou, dice, accuracy, precision, boundary_iou, truth, seen)]
    rows = tuple(SegmentationClass(*row) for row in zip(names, *columns, strict=True))
    figures = summaries(np.stack([truth, predicted, hits, *boundary])[:, None])
    values = {name: float(value[0]) for name, value in figures.items()}
    return SegmentationMetrics(confusion=confusion, **values, per_class=rows, images=images)


def summaries(counts: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Each figure (R,) of R sets of images.

    `counts` (6, R, K) are pixels by class: true, predicted, hits, and the same three in the boundary regions.
    """
    truth, predicted, hits, *boundary = counts
    iou = iou_of(truth, predicted, hits)
    total = truth.sum(axis=1)
    return {
        "miou": mean_over_classes(iou),
        "pixel_accuracy": divide(hits.sum(axis=1), total),
        "mean_accuracy": mean_over_classes(divide(hits, truth)),
        "frequency_weighted_iou": divide((truth * np.nan_to_num(iou)).sum(axis=1), total),
        "dice": mean_over_classes(dice_of(truth, predicted, hits)),
        "boundary_iou": mean_over_classes(iou_of(*boundary)),
    }


def iou_of(truth: NDArray[Any], predicted: NDArray[Any], hits: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union, NaN where nothing is in truth."""
    return np.where(truth > 0, divide(hits, truth + predicted - hits), math.nan)


def dice_of(truth: NDArray[Any], predicted: NDArray[Any], hits: NDArray[Any]) -> NDArray[np.float64]:
    """The same for Dice, also called F1."""
    return np.where(truth > 0, divide(2 * hits, truth + predicted), math.nan)
