"""Anchor shapes by k-means with the distance 1 - IoU (Redmon & Farhadi 2017, arXiv:1612.08242, section 2)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# Of more distinct sizes than this, the restarts look at so many: the best of ten hardly depends on more.
_ENOUGH = 10_000


@dataclass(frozen=True)
class AnchorFit:
    """Anchors and how well they fit the boxes they were made from."""

    anchors: Array  # (k, 2) float64 widths and heights in the units of the sizes, smallest area first
    mean_iou: float  # of the boxes with their best anchors
    best_recall: float  # share of boxes whose best anchor has an IoU of at least 0.5


def kmeans_anchors(sizes: ArrayLike, k: int, *, restarts: int = 10, seed: int = 0) -> AnchorFit:
    """Choose k anchors for boxes with widths and heights `sizes` (M, 2), in any unit; the best of several restarts.

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
    part = np.arange(len(distinct))
    if len(distinct) > max(_ENOUGH, k):
        part = np.sort(generator.choice(len(distinct), max(_ENOUGH, k), replace=False))
    few = distinct[part], counts[part]
    starts = (_spread_start(*few, k, generator) for _ in range(restarts))
    anchors, _ = max((_run(*few, start) for start in starts), key=lambda run: run[1])
    if len(part) < len(distinct):
        anchors, _ = _run(distinct, counts, anchors)
    return fit_of(sizes, anchors * unit)


def fit_of(sizes: ArrayLike, anchors: ArrayLike) -> AnchorFit:
    """How well given anchors (A, 2) fit boxes of the given sizes (M, 2)."""
    anchors = np.asarray(anchors, np.float64)
    anchors = anchors[np.argsort(anchors.prod(1), kind="stable")]
    sizes = _checked(sizes)
    best = _nearest(sizes.T, sizes.prod(1), anchors)[1]
    return AnchorFit(anchors, float(best.mean()), float((best >= 0.5).mean()))


def fit_anchors(sizes: ArrayLike, levels: int, per_level: int, *, seed: int = 0) -> Array:
    """Anchors (levels, per_level, 2) for a grid head, small ones on the fine levels.

    Where the data has fewer distinct sizes than anchors are needed, every size becomes an anchor, and the rest are
    these enlarged and reduced by half-octaves, for training cuts, scales and rotates boxes.
    """
    wanted = levels * per_level
    distinct, _ = _distinct(_checked(sizes))
    anchors = kmeans_anchors(sizes, min(wanted, len(distinct)), seed=seed).anchors
    factors = [1.0, *(2 ** (sign * octave / 2) for octave in range(1, wanted) for sign in (1, -1))]
    anchors = np.concatenate([anchors * factor for factor in factors])[:wanted]
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
    """Which of the anchors (A, 2) fits each box best, the first of equals, and their IoU on one centre: both (M,).

    `sides` (2, M) are widths and heights. Anchor by anchor: several times faster than reductions along rows of A.
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
    """The sizes (D, 2) that differ by more than rounding (when they were scaled), and how many boxes have each."""
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
        raise ValueError(f"sizes must be positive and finite; box {wrong[0]} is {sizes[wrong[0]].tolist()}")
    return sizes
