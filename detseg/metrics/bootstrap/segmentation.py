"""Confidence intervals of segmentation figures, and paired comparisons, by drawing the images again; see `draws`.

A resample gives each image a weight, how often it was drawn. The counts of pixels are added up with these weights,
and every figure is computed from the sums, exactly as for the images themselves. Drawing pixels instead of
images would make the limits far too narrow, as the pixels of an image go wrong together.

A class that a resample has no pixels of is left out of its means. Where the pixels of a class, or all of them, lie in
a single image, resampling says nothing and the limits are NaN.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.bootstrap import draws
from detseg.metrics.bootstrap.draws import Comparison, Interval, Intervals, Sample, Samples
from detseg.metrics.segmentation.mean_iou import ImageCounts, SegmentationMetrics, iou_of, summaries

SegmentationIntervals = Intervals[Interval]  # of each class the IoU's

_BLOCK = 64  # resamples at a time; bounds the memory that their weights take


def bootstrap_segmentation(
    metrics: SegmentationMetrics, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> SegmentationIntervals:
    """Intervals of all figures and of each class's IoU; options as in `bootstrap_detection`."""
    draws.check_options(resamples, level)
    (samples,) = _sample([metrics], resamples, seed)
    per_class = tuple(draws.interval_of(sample, level) for sample in samples.per_class)
    return Intervals(level, resamples, draws.intervals_of(samples.figures, level), per_class)


def compare_segmentation(
    a: SegmentationMetrics, b: SegmentationMetrics, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Comparison:
    """Is b better than a, or was it the choice of images? A paired bootstrap of the differences.

    Both are evaluated on the same resamples, so what makes an image hard for both cancels out; options as in
    `bootstrap_detection`. Raises ValueError where the images, their truth or the classes differ.
    """
    draws.check_options(resamples, level)
    images, truth = (a.images.image_ids, b.images.image_ids), (a.images.truth, b.images.truth)
    draws.check_same({"classes": (a.names, b.names), "images": images, "true pixels": truth})
    return draws.compare_samples(*_sample([a, b], resamples, seed), resamples=resamples, level=level)


def _sample(sides: Sequence[SegmentationMetrics], resamples: int, seed: int) -> list[Samples]:
    """For each side its figures and IoU by class; the resamples are the same for all sides."""
    images = len(sides[0].images.image_ids)
    tables = [_tables(side.images) for side in sides]
    blocks: list[list[dict[str, NDArray[np.float64]]]] = [[] for _ in sides]
    for first in range(0, resamples, _BLOCK):
        # Products of float64 matrices are fast, and exact for whole numbers up to 2^53.
        weights = draws.draw(images, range(first, min(first + _BLOCK, resamples)), seed).astype(np.float64)
        for table, done in zip(tables, blocks, strict=True):
            counts = (weights @ table).reshape(len(weights), 6, -1).transpose(1, 0, 2)
            done.append({**summaries(counts), "iou": iou_of(*counts[:3])})
    known, class_known, boundary_known = _known(sides[0].images)
    result = []
    for side, done in zip(sides, blocks, strict=True):
        spread = {name: np.concatenate([block[name] for block in done]) for name in done[0]}
        figures = {
            name: Sample(value, spread[name], boundary_known if name == "boundary_iou" else known)
            for name, value in side.figures().items()
            if name in spread  # of others, resamples tell nothing
        }
        ious = np.array([row.iou for row in side.per_class])
        result.append(Samples(figures, draws.samples_of(ious, spread["iou"], class_known)))
    return result


def _tables(side: ImageCounts) -> NDArray[np.float64]:
    """(N, 6 K) the six counts of each image and class side by side, in the order of `summaries`."""
    pixels = np.stack([side.truth, side.predicted, side.hits])
    boundary = np.zeros_like(pixels) if side.boundary is None else side.boundary
    counts = np.concatenate([pixels, boundary]).transpose(1, 0, 2)
    return counts.reshape(len(counts), -1).astype(np.float64)


def _known(side: ImageCounts) -> tuple[bool, NDArray[np.bool_], bool]:
    """Whether more than one image has pixels of any class, of each class (K,), and of boundaries."""
    edges = np.zeros_like(side.truth) if side.boundary is None else side.boundary[0]
    some, some_edges = (np.sum(counts.any(axis=1)) > 1 for counts in (side.truth, edges))
    return bool(some), np.sum(side.truth > 0, axis=0) > 1, bool(some_edges)
