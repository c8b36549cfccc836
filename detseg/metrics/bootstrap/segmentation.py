"""How sure are figures of segmentation? Intervals by drawing the images again, as for detection.

A resample gives each image a weight, how often it was drawn. The counts of pixels are added up with these weights,
and every figure is computed from the sums, exactly as for the images themselves. Drawing pixels instead of
images would make the limits far too narrow, as the pixels of an image go wrong together.

A class that a resample has no pixels of is left out of its means. Where the pixels of a class, or all of them, lie in
a single image, resampling says nothing and the limits are NaN.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.bootstrap.draws import Comparison, Interval, check_options, difference_of, draw, interval_of
from detseg.metrics.detection.records import none_for_nan
from detseg.metrics.segmentation.mean_iou import ImageCounts, SegmentationMetrics, iou_of, summaries

_BLOCK = 64  # resamples at a time; bounds the memory that their weights take

Spread = dict[str, NDArray[np.float64]]  # figures (R,) by name, and "iou" (R, K)


@dataclass(frozen=True)
class SegmentationIntervals:
    """What `bootstrap_segmentation` found."""

    level: float
    resamples: int
    figures: dict[str, Interval]  # as `SegmentationMetrics.figures`
    per_class: tuple[Interval, ...]  # (K,) of IoU

    @property
    def known(self) -> bool:
        """Whether there is an interval of mIoU."""
        return not np.isnan(self.figures["miou"].low)

    def to_dict(self) -> dict[str, Any]:
        """As plain Python, NaN as None."""
        content: dict[str, Any] = none_for_nan(asdict(self))
        return content


def bootstrap_segmentation(
    metrics: SegmentationMetrics, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> SegmentationIntervals:
    """Intervals of all figures and of each class's IoU.

    Args:
        metrics: of N images; the order in which they came does not matter.
        resamples: how often to draw the images again.
        level: how much of the spread lies within the limits.
        seed: of the draws. The same one gives the same limits.

    Raises:
        ValueError: `resamples` is less than 1, or `level` is not between 0 and 1.
    """
    check_options(resamples, level)
    (spread,) = _resample([metrics.images], resamples, seed)
    told, told_per_class, told_boundary = _can_tell(metrics.images)
    figures = {
        name: interval_of(value, spread[name], level, told_boundary if name == "boundary_iou" else told)
        for name, value in metrics.figures().items()
        if name in spread
    }
    per_class = tuple(
        interval_of(row.iou, spread["iou"][:, k], level, bool(told_per_class[k]))
        for k, row in enumerate(metrics.per_class)
    )
    return SegmentationIntervals(level, resamples, figures, per_class)


def compare_segmentation(
    a: SegmentationMetrics, b: SegmentationMetrics, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Comparison:
    """Is b better than a, or was it the choice of images? A paired bootstrap of the differences.

    Both are judged on the same resamples, so what makes an image hard for both cancels out.

    Args:
        a, b: metrics of two predictions of the same images.
        resamples, level, seed: as in `bootstrap_segmentation`.

    Raises:
        ValueError: the images, their truth or the classes differ; or as `bootstrap_segmentation`.
    """
    check_options(resamples, level)
    _check_same_truth(a, b)
    spread_a, spread_b = _resample([a.images, b.images], resamples, seed)
    told, told_per_class, told_boundary = _can_tell(a.images)
    of_a, of_b = a.figures(), b.figures()
    figures = {
        name: difference_of(
            of_a[name],
            of_b[name],
            spread_b[name] - spread_a[name],
            level,
            told_boundary if name == "boundary_iou" else told,
        )
        for name in of_a
        if name in of_b and name in spread_a
    }
    gain = spread_b["iou"] - spread_a["iou"]
    per_class = tuple(
        difference_of(first.iou, second.iou, gain[:, k], level, bool(told_per_class[k]))
        for k, (first, second) in enumerate(zip(a.per_class, b.per_class, strict=True))
    )
    return Comparison(level, resamples, figures, per_class)


def _resample(sides: Sequence[ImageCounts], resamples: int, seed: int) -> list[Spread]:
    """For each side its figures in the resamples, which are the same for all sides."""
    images = len(sides[0].image_ids)
    tables = [_tables(side) for side in sides]
    blocks: list[list[Spread]] = [[] for _ in sides]
    for first in range(0, resamples, _BLOCK):
        # Products of float64 matrices are fast, and exact for whole numbers up to 2^53.
        weights = draw(images, range(first, min(first + _BLOCK, resamples)), seed).astype(np.float64)
        for table, done in zip(tables, blocks, strict=True):
            counts = (weights @ table).reshape(len(weights), 6, -1).transpose(1, 0, 2)
            done.append({**summaries(*counts), "iou": iou_of(*counts[:3])})
    return [{name: np.concatenate([block[name] for block in done]) for name in done[0]} for done in blocks]


def _tables(side: ImageCounts) -> NDArray[np.float64]:
    """(N, 6 K) the six counts of each image and class side by side, in the order of `summaries`."""
    pixels = np.stack([side.truth, side.predicted, side.hits])
    boundary = np.zeros_like(pixels) if side.boundary is None else side.boundary
    counts = np.concatenate([pixels, boundary]).transpose(1, 0, 2)
    return counts.reshape(len(counts), -1).astype(np.float64)


def _can_tell(side: ImageCounts) -> tuple[bool, NDArray[np.bool_], bool]:
    """Whether more than one image tells of all classes together, of each class (K,), and of boundaries."""
    edges = np.zeros_like(side.truth) if side.boundary is None else side.boundary[0]
    some, some_edges = (np.sum(counts.any(axis=1)) > 1 for counts in (side.truth, edges))
    return bool(some), np.sum(side.truth > 0, axis=0) > 1, bool(some_edges)


def _check_same_truth(a: SegmentationMetrics, b: SegmentationMetrics) -> None:
    same = {
        "classes": a.names == b.names,
        "images": np.array_equal(a.images.image_ids, b.images.image_ids),
        "true pixels": np.array_equal(a.images.truth, b.images.truth),
    }
    differing = [name for name, equal in same.items() if not equal]
    if differing:
        raise ValueError(f"a and b cannot be compared: they differ in {', '.join(differing)}")
