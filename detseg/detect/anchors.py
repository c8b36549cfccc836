"""Anchor shapes by k-means with the distance 1 - IoU (Redmon & Farhadi 2017, arXiv:1612.08242, section 2)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# Of more distinct sizes than this, the restarts look at so many: the best of ten hardly depends on more.
_ENOUGH = 10_000


@dataclass(frozen=True)
class AnchorFit:
    """Anchors and how well they fit the boxes they were made from.

    Attributes:
        anchors: (k, 2) float64 widths and heights in the units of the sizes, smallest area first.
        mean_iou: mean over boxes of the IoU with the best anchor.
        best_recall: share of boxes whose best anchor has an IoU of at least 0.5: what a detector that could
            only move its anchors, not reshape them, could find at most.
    """

    anchors: Array
    mean_iou: float
    best_recall: float


def size_iou(sizes: ArrayLike, anchors: ArrayLike) -> Array:
    """IoU (M, A) of boxes and anchors laid on the same centre, from widths and heights (M, 2) and (A, 2)."""
    sizes, anchors = np.asarray(sizes, np.float64), np.asarray(anchors, np.float64)
    overlap = np.minimum(sizes[:, None, 0], anchors[None, :, 0]) * np.minimum(sizes[:, None, 1], anchors[None, :, 1])
    return overlap / (sizes.prod(1)[:, None] + anchors.prod(1)[None] - overlap)


def kmeans_anchors(sizes: ArrayLike, k: int, *, restarts: int = 10, seed: int = 0) -> AnchorFit:
    """Choose k anchors for boxes of the given sizes.

    Args:
        sizes: (M, 2) widths and heights, positive and finite, in any one unit.
        k: number of anchors, at most the number of distinct sizes.
        restarts: how often to start anew; the best result is returned.
        seed: of the random starts; the same seed gives the same anchors.

    Raises:
        ValueError: sizes of a wrong shape, not positive or not finite, or fewer distinct sizes than k.
    """
    sizes = _checked(sizes)
    distinct, counts = _distinct(sizes)
    if not 1 <= k <= len(distinct):
        raise ValueError(f"k must be between 1 and the {len(distinct)} distinct box sizes, got {k}")
    # One unit for every data set, so that the result scales with the boxes exactly as they do.
    unit = 2.0 ** np.round(np.log2(np.sqrt(distinct.prod(1)).mean()))
    distinct = distinct / unit
    generator = np.random.default_rng(seed)
    few, few_counts = distinct, counts
    if len(distinct) > max(_ENOUGH, k):
        part = np.sort(generator.choice(len(distinct), max(_ENOUGH, k), replace=False))
        few, few_counts = distinct[part], counts[part]
    starts = (_spread_start(few, few_counts, k, generator) for _ in range(restarts))
    anchors, _ = max((_run(few, few_counts, start) for start in starts), key=lambda run: run[1])
    if few is not distinct:
        anchors, _ = _run(distinct, counts, anchors)
    return fit_of(sizes, anchors * unit)


def fit_of(sizes: ArrayLike, anchors: ArrayLike) -> AnchorFit:
    """How well given anchors (A, 2) fit boxes of the given sizes (M, 2)."""
    anchors = np.asarray(anchors, np.float64)
    anchors = anchors[np.argsort(anchors.prod(1), kind="stable")]
    best = size_iou(_checked(sizes), anchors).max(1)
    return AnchorFit(anchors, float(best.mean()), float((best >= 0.5).mean()))


def fit_anchors(sizes: ArrayLike, levels: int, per_level: int, *, seed: int = 0) -> Array:
    """Anchors (levels, per_level, 2) for a grid head, small ones on the fine levels.

    Where the data has fewer distinct sizes than anchors are needed, every size becomes an anchor, and the rest are
    these enlarged and reduced by half-octaves: boxes that training will cut, scale and rotate need not be like
    those few.
    """
    sizes = _checked(sizes)
    wanted = levels * per_level
    distinct, _ = _distinct(sizes)
    anchors = kmeans_anchors(sizes, min(wanted, len(distinct)), seed=seed).anchors
    base, octave = anchors, 1
    while len(anchors) < wanted:
        for factor in (2 ** (octave / 2), 2 ** (-octave / 2)):
            anchors = np.concatenate((anchors, base * factor))[:wanted]
        octave += 1
    anchors = anchors[np.argsort(anchors.prod(1), kind="stable")]
    return anchors.reshape(levels, per_level, 2)


def _run(sizes: Array, counts: NDArray[np.int_], start: Array) -> tuple[Array, float]:
    """One k-means: the best anchors it passed through and their mean IoU."""
    sides, areas = np.ascontiguousarray(sizes.T), sizes.prod(1)
    anchors, best, best_iou, previous = start, start, -1.0, None
    for _ in range(300):
        nearest, iou = _nearest(sides, areas, anchors)
        mean = float(np.average(iou, weights=counts))
        if mean > best_iou:
            best, best_iou = anchors, mean
        if previous is not None and (nearest == previous).all():
            break
        previous = nearest
        anchors = _centres(sizes, counts, nearest, iou, len(start))
    return best, best_iou


def _nearest(sides: Array, areas: Array, anchors: Array) -> tuple[NDArray[np.intp], Array]:
    """Which of the anchors (A, 2) serves each box best, the first of equals, and their IoU: both (M,).

    `size_iou` with its `argmax` and `max`, but anchor by anchor: several times faster than reductions along rows of A.

    Args:
        sides: (2, M) the widths and the heights.
        areas: (M,)
        anchors: (A, 2)
    """
    widths, heights = sides
    nearest, best = np.zeros(len(areas), np.intp), np.zeros(len(areas))
    for k, (width, height) in enumerate(anchors.tolist()):
        iou = np.minimum(widths, width) * np.minimum(heights, height)
        iou /= areas + width * height - iou
        np.putmask(nearest, iou > best, k)
        np.maximum(best, iou, out=best)
    return nearest, best


def _spread_start(sizes: Array, counts: NDArray[np.int_], k: int, generator: np.random.Generator) -> Array:
    """k-means++ (Arthur & Vassilvitskii 2007): each next anchor is a box, drawn by squared distance to the nearest."""
    sides, areas, iou = np.ascontiguousarray(sizes.T), sizes.prod(1), np.zeros(len(sizes))
    chosen = [int(generator.choice(len(sizes), p=counts / counts.sum()))]
    while len(chosen) < k:
        iou = np.maximum(iou, _nearest(sides, areas, sizes[chosen[-1:]])[1])
        distance = 1 - iou
        distance[chosen] = 0  # rounding may leave 1e-16 there, and no box is to be taken twice
        weight = counts * distance**2
        if not weight.any():  # to IoU in float64 all are like the chosen ones: any other will do
            weight = np.where(np.isin(np.arange(len(sizes)), chosen), 0, counts)
        chosen.append(int(generator.choice(len(sizes), p=weight / weight.sum())))
    return sizes[chosen]


def _distinct(sizes: Array) -> tuple[Array, NDArray[np.intp]]:
    """The sizes (D, 2) that differ by more than rounding, and how many boxes have each.

    Boxes of one size in images of several resolutions differ in the last bits when they are scaled to one.
    """
    mantissa, exponent = np.frexp(sizes)
    rounded = np.ldexp(np.round(np.ldexp(mantissa, 32)), exponent)  # to 32 bits, times 2 ** 32
    _, first, counts = np.unique(rounded, axis=0, return_index=True, return_counts=True)
    return sizes[first], counts


def _centres(sizes: Array, counts: NDArray[np.int_], nearest: NDArray[np.intp], iou: Array, k: int) -> Array:
    """Mean width and height of each cluster; an empty one takes the box that is served worst."""
    total = np.bincount(nearest, counts, k)
    sums = np.stack([np.bincount(nearest, counts * sizes[:, side], k) for side in (0, 1)], 1)
    empty = np.flatnonzero(total == 0)
    centres = sums / np.maximum(total, 1)[:, None]
    centres[empty] = sizes[np.argsort(iou, kind="stable")[: len(empty)]]
    return centres


def _checked(sizes: ArrayLike) -> Array:
    sizes = np.asarray(sizes, np.float64)
    if sizes.ndim != 2 or sizes.shape[1] != 2 or len(sizes) == 0:
        raise ValueError(f"sizes must be widths and heights of the shape (M, 2) with M > 0, got {sizes.shape}")
    wrong = np.flatnonzero(~(np.isfinite(sizes) & (sizes > 0)).all(1))
    if len(wrong):
        first = wrong[0]
        raise ValueError(f"sizes must be positive and finite; box {first} is {sizes[first].tolist()}")
    return sizes
