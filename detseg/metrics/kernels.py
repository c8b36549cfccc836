"""The compiled loops of the detection metrics, over flat arrays: sorting, box IoU, matching, accumulation.

`matching.py`, `detection.py` and `voc.py` call them and see to shapes, types and contiguity. D detections,
M objects, N pictures, K classes, T IoU thresholds, A area ranges, R levels of recall.

"By class and picture" means: detections sorted by label, then picture, then falling score. Objects are sorted
by label, then picture. Then one step through both finds every pair of the same class and picture.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Starts = NDArray[np.int64]  # (K + 1,) class k owns start[k]:start[k + 1]
Floats = NDArray[np.float64]

# Without the wrapper for other compiled languages, which nothing here needs, the first call comes sooner.
_OPTIONS: Any = {"cache": True, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
compiled = numba.njit(**_OPTIONS)

HIT, MISS, UNJUDGED = 1, 0, -1

_DIGIT_BITS = 11
_DIGITS = 6  # 66 bits hold a float64
_BUCKETS = 1 << _DIGIT_BITS
_MASK = np.uint64(_BUCKETS - 1)
_LARGEST = np.uint64(2**63 - 1)
_ROUNDING = float(np.spacing(1))


# ------------------------------------------------------------------ sorting


def sort_falling(order: Ints, scores: Floats) -> Ints:
    """`order` by falling `scores[order]`, equal scores as they were: a radix sort, 11 bits at a time.

    The scores must hold no NaN and no -0.0.
    """
    bits = scores.view(np.uint64)[order]
    # The bits of positive floats rise with the value, so they are turned round. Negative ones have the top bit
    # set, which places them behind, and their bits already rise as the value falls.
    keys = np.where(bits <= _LARGEST, _LARGEST - bits, bits)
    starts = np.zeros(_DIGITS * _BUCKETS, np.int64)
    result: Ints = _sort_keys(order.copy(), np.empty_like(order), keys, np.empty_like(keys), starts)
    return result


@compiled
def _sort_keys(
    order: Ints, other: Ints, keys: NDArray[np.uint64], other_keys: NDArray[np.uint64], starts: NDArray[np.int64]
) -> Ints:
    """`order` by its rising `keys`; the others are room to work in, `starts` zeros for a histogram a digit."""
    count = len(order)
    for key in keys:
        for digit in range(_DIGITS):
            starts[digit * _BUCKETS + np.int64((key >> np.uint64(_DIGIT_BITS * digit)) & _MASK)] += 1
    for digit in range(_DIGITS):
        shift = np.uint64(_DIGIT_BITS * digit)
        first = digit * _BUCKETS
        if count == 0 or starts[first + np.int64((keys[0] >> shift) & _MASK)] == count:
            continue  # all share this digit, as the lowest two do when the scores were float32
        total = 0
        for bucket in range(first, first + _BUCKETS):
            here = starts[bucket]
            starts[bucket] = total
            total += here
        for i in range(count):
            key = keys[i]
            own = first + np.int64((key >> shift) & _MASK)
            at = starts[own]
            starts[own] = at + 1
            other_keys[at] = key
            other[at] = order[i]
        keys, other_keys = other_keys, keys
        order, other = other, order
    return order


@compiled
def sort_groups(order: Ints, groups: Ints, count: int) -> Ints:
    """`order` by rising `groups[order]` in 0..count-1, equal ones as they were: a counting sort."""
    start = np.zeros(count + 1, np.int64)
    for i in order:
        start[groups[i] + 1] += 1
    for group in range(count):
        start[group + 1] += start[group]
    result = np.empty_like(order)
    for i in order:
        group = groups[i]
        result[start[group]] = i
        start[group] += 1
    return result


@compiled
def rank_in_picture(label_start: Starts, images: Ints, pictures: int) -> Ints:
    """(D,) how many earlier detections of the same class lie in the same picture; `images` (D,) by class."""
    rank = np.empty(len(images), np.int32)
    seen = np.zeros(pictures, np.int32)
    counted_for = np.zeros(pictures, np.int32)  # the class, from 1, that `seen` counts
    for label in range(len(label_start) - 1):
        for i in range(label_start[label], label_start[label + 1]):
            image = images[i]
            if counted_for[image] != label + 1:
                counted_for[image] = label + 1
                seen[image] = 0
            rank[i] = seen[image]
            seen[image] += 1
    return rank


# ------------------------------------------------------------------ overlaps


@compiled
def box_pairs(
    label_start: Starts,
    images: Ints,
    sources: Ints,
    boxes: Floats,
    object_start: Starts,
    object_images: Ints,
    object_boxes: Floats,
    crowd: NDArray[np.bool_],
    lowest: float,
) -> tuple[NDArray[np.int64], Ints, Floats]:
    """IoU of every detection with the objects of its class and picture, as far as it reaches `lowest`.

    Args:
        label_start: (K + 1,) of the detections.
        images: (D,) pictures of the detections, which are sorted by class and picture.
        sources: (D,) rows of `boxes`, of the detections in the same order.
        boxes: (n, 4) xywh.
        object_start: (K + 1,) of the objects.
        object_images: (M,) pictures of the objects, which are sorted by class and picture.
        object_boxes: (M, 4) xywh, in the same order.
        crowd: (M,) for a crowd region the overlap is divided by the detection's area alone.
        lowest: smaller IoUs are left out.

    Returns:
        `pair_start` (D + 1,), and over the pairs the objects (P,), rising for each detection, and IoUs (P,).
    """
    pair_start = np.zeros(len(images) + 1, np.int64)
    objects, ious = np.empty(1024, np.int32), np.empty(1024, np.float64)
    pairs = 0
    for label in range(len(label_start) - 1):
        first = object_start[label]
        last = object_start[label + 1]
        for d in range(label_start[label], label_start[label + 1]):
            while first < last and object_images[first] < images[d]:
                first += 1
            g = first
            while g < last and object_images[g] == images[d]:
                iou = _box_iou(boxes, sources[d], object_boxes, g, crowd[g])
                if iou >= lowest:
                    if pairs == len(objects):
                        objects, ious = grown(objects), grown(ious)
                    objects[pairs] = g
                    ious[pairs] = iou
                    pairs += 1
                g += 1
            pair_start[d + 1] = pairs
    return pair_start, objects[:pairs], ious[:pairs]


@compiled
def _box_iou(found: Floats, d: int, real: Floats, g: int, crowd: bool) -> float:
    """IoU of found[d] and real[g], xywh, with pycocotools' order of operations: the last digit can decide."""
    width = min(found[d, 2] + found[d, 0], real[g, 2] + real[g, 0]) - max(found[d, 0], real[g, 0])
    if width <= 0:
        return 0.0
    height = min(found[d, 3] + found[d, 1], real[g, 3] + real[g, 1]) - max(found[d, 1], real[g, 1])
    if height <= 0:
        return 0.0
    overlap = width * height
    area = found[d, 2] * found[d, 3]
    if crowd:
        return overlap / area
    return overlap / (area + real[g, 2] * real[g, 3] - overlap)


@compiled
def grown(values: Any) -> Any:
    """An array twice as long that starts with `values`."""
    larger = np.empty(2 * len(values), values.dtype)
    for i in range(len(values)):  # compiles many times faster than the assignment of a slice
        larger[i] = values[i]
    return larger


# ------------------------------------------------------------------ matching


@compiled
def match_pairs(
    label_start: Starts,
    images: Ints,
    places: Ints,
    pair_start: NDArray[np.int64],
    objects: Ints,
    ious: Floats,
    crowd: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    thresholds: Floats,
    status: NDArray[np.int8],
) -> None:
    """Give objects to detections, best score first, at every threshold and area range.

    A detection takes the free object with the highest IoU, the later one of equals; an object that does not
    count only when no other is left. Crowd regions are never used up.

    Args:
        label_start, images: detections sorted by class and picture.
        places: (D,) their position along the last axis of `status`.
        pair_start, objects, ious: from `box_pairs` or `mask_pairs`.
        crowd: (M,)
        counted: (A, M) objects that count in an area range.
        thresholds: (T,)
        status: (A, T, D) as if nothing was matched; HIT and UNJUDGED are written where something is.
    """
    taken = np.zeros(len(crowd), np.int32)  # the round of area range and threshold, from 1, that took it
    paired = np.empty(len(images), np.int64)
    for label in range(len(label_start) - 1):
        d = label_start[label]
        while d < label_start[label + 1]:
            image = images[d]
            count = 0
            while d < label_start[label + 1] and images[d] == image:
                if pair_start[d + 1] > pair_start[d]:
                    paired[count] = d
                    count += 1
                d += 1
            turn = 0
            for a in range(counted.shape[0] if count else 0):
                for t in range(len(thresholds)):
                    turn += 1
                    lowest = min(thresholds[t], 1 - 1e-10)
                    for i in range(count):
                        p = paired[i]
                        real, real_iou, other, other_iou = -1, lowest, -1, lowest
                        for pair in range(pair_start[p], pair_start[p + 1]):
                            g, iou = objects[pair], ious[pair]
                            if taken[g] == turn and not crowd[g]:
                                continue
                            if counted[a, g]:
                                if iou >= real_iou:
                                    real, real_iou = g, iou
                            elif iou >= other_iou:
                                other, other_iou = g, iou
                        if real >= 0:
                            taken[real] = turn
                            status[a, t, places[p]] = HIT
                        elif other >= 0:
                            taken[other] = turn
                            status[a, t, places[p]] = UNJUDGED


# ------------------------------------------------------------------ accumulation


def accumulate(
    status: NDArray[np.int8],
    label_start: Starts,
    rank: Ints,
    counts: NDArray[np.int64],
    levels: Floats,
    limits: NDArray[np.int64],
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Precision at levels of recall, and the recall reached, of every area range, threshold and class.

    Args:
        status: (A, T, D) of detections sorted by class and falling score.
        label_start: (K + 1,)
        rank: (D,) position among the detections of the same class and picture.
        counts: (A, K) objects that count.
        levels: (R,) rising levels of recall.
        limits: (L,) most detections a picture and class.

    Returns:
        precision: (A, T, K, R) the best at this recall or beyond, with all detections.
        reached: (A, T, K, R) the first detection with this recall, -1 where it is not reached.
        recall: (A, T, K, L) with at most so many detections.
        Precision and recall are NaN where no objects count.
    """
    size = (*status.shape[:2], len(label_start) - 1)
    precision, reached = np.full((*size, len(levels)), np.nan), np.full((*size, len(levels)), -1, np.int64)
    recall = np.full((*size, len(limits)), np.nan)
    most = int(counts.max(initial=0))
    of_hits = np.empty(most), np.empty(most, np.int64)
    _accumulate(status, label_start, rank, counts, levels, limits, *of_hits, precision, reached, recall)
    return precision, reached, recall


@compiled
def _accumulate(
    status: NDArray[np.int8],
    label_start: Starts,
    rank: Ints,
    counts: NDArray[np.int64],
    levels: Floats,
    limits: NDArray[np.int64],
    best: Floats,
    place: NDArray[np.int64],
    precision: Floats,
    reached: NDArray[np.int64],
    recall: Floats,
) -> None:
    """Fill what `accumulate` returns; `best` and `place` have room for the objects of a class."""
    for label in range(len(label_start) - 1):
        first, last = label_start[label], label_start[label + 1]
        for a in range(status.shape[0]):
            objects = counts[a, label]
            for t in range(status.shape[1] if objects else 0):
                hits = _precisions(status, a, t, first, last, best, place)
                for limit in range(len(limits)):
                    within = 0
                    for hit in range(hits):
                        if rank[place[hit]] < limits[limit]:
                            within += 1
                    recall[a, t, label, limit] = within / objects
                needed = 0
                for r in range(len(levels)):
                    while needed <= hits and needed / objects < levels[r]:
                        needed += 1
                    at = max(needed - 1, 0)
                    precision[a, t, label, r] = best[at] if at < hits else 0.0
                    if needed == 0 and last > first:
                        reached[a, t, label, r] = first  # recall 0 is there from the start
                    elif 0 < needed <= hits:
                        reached[a, t, label, r] = place[at]


@compiled
def _precisions(
    status: NDArray[np.int8], a: int, t: int, first: int, last: int, best: Floats, place: NDArray[np.int64]
) -> int:
    """Write for each hit the best precision from there on and its place; returns how many hits there are."""
    hits, misses = 0, 0
    for i in range(first, last):
        if status[a, t, i] == HIT:
            hits += 1
            best[hits - 1] = hits / (misses + hits + _ROUNDING)  # as pycocotools has it
            place[hits - 1] = i
        elif status[a, t, i] == MISS:
            misses += 1
    for hit in range(hits - 1, 0, -1):
        if best[hit] > best[hit - 1]:
            best[hit - 1] = best[hit]
    return hits
