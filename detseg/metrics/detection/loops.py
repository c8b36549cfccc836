"""The compiled loops of the detection metrics, over flat arrays: box IoU, matching, accumulation.

`matching.py`, `average_precision.py` and `voc_ap.py` call them and see to shapes, types and contiguity. D detections,
M objects, N images, K classes, T IoU thresholds, A area ranges, R levels of recall.

"By class and image" means: detections sorted by label, then image, then falling score. Objects are sorted
by label, then image. Then one step through both finds every pair of the same class and image.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.kernels import compiled, helper, shared_area

Ints = NDArray[np.int32]
Starts = NDArray[np.int64]  # (K + 1,) class k owns start[k]:start[k + 1]
Floats = NDArray[np.float64]

HIT, MISS, IGNORED = 1, 0, -1

_ROUNDING = float(np.spacing(1))


# ------------------------------------------------------------------ overlaps


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
    """IoU of every detection with the objects of its class and image, as far as it reaches `lowest`.

    Args:
        label_start: (K + 1,) of the detections.
        images: (D,) images of the detections, which are sorted by class and image.
        sources: (D,) rows of `boxes`, of the detections in the same order.
        boxes: (n, 4) xywh.
        object_start: (K + 1,) of the objects.
        object_images: (M,) images of the objects, which are sorted by class and image.
        object_boxes: (M, 4) xywh, in the same order.
        crowd: (M,) for a crowd region the overlap is divided by the detection's area alone.
        lowest: smaller IoUs are left out.

    Returns:
        `pair_start` (D + 1,), and over the pairs the objects (P,), rising for each detection, and IoUs (P,).
    """
    detections = label_start, images, sources, boxes
    real = object_start, object_images, object_boxes, crowd

    def fill(done: int, *pairs: Any) -> int:
        return int(_box_pairs(*detections, *real, lowest, done, *pairs))

    return collect_pairs(len(images), fill)


def collect_pairs(count: int, fill: Callable[..., int]) -> tuple[NDArray[np.int64], Ints, Floats]:
    """What `box_pairs` returns, for `count` detections.

    Args:
        fill: gets the number of detections that are done and the three arrays, writes the pairs of more detections,
            and returns how many are done when all are, or when the arrays are full.
    """
    pair_start, objects, ious = np.zeros(count + 1, np.int64), np.empty(count + 1, np.int32), np.empty(count + 1)
    done = fill(0, pair_start, objects, ious)
    while done < count:
        objects, ious = np.resize(objects, 2 * len(objects)), np.resize(ious, 2 * len(ious))
        done = fill(done, pair_start, objects, ious)
    return pair_start, objects[: pair_start[-1]], ious[: pair_start[-1]]


@compiled
def _box_pairs(
    label_start: Starts,
    images: Ints,
    sources: Ints,
    boxes: Floats,
    object_start: Starts,
    object_images: Ints,
    object_boxes: Floats,
    crowd: NDArray[np.bool_],
    lowest: float,
    done: int,
    pair_start: NDArray[np.int64],
    objects: Ints,
    ious: Floats,
) -> int:
    """`fill` of `collect_pairs`."""
    for label in range(len(label_start) - 1):
        first = object_start[label]
        last = object_start[label + 1]
        for d in range(label_start[label], label_start[label + 1]):
            if d < done:
                continue
            while first < last and object_images[first] < images[d]:
                first += 1
            pairs = pair_start[d]
            g = first
            while g < last and object_images[g] == images[d]:
                iou = _box_iou(boxes, sources[d], object_boxes, g, crowd[g])
                if iou >= lowest:
                    if pairs == len(objects):
                        return d
                    objects[pairs] = g
                    ious[pairs] = iou
                    pairs += 1
                g += 1
            pair_start[d + 1] = pairs
    return len(images)


@helper
def _box_iou(found: Floats, d: int, real: Floats, g: int, crowd: bool) -> float:
    """IoU of found[d] and real[g], xywh, with pycocotools' order of operations: the last digit can decide."""
    x, y, width, height = found[d, 0], found[d, 1], found[d, 2], found[d, 3]
    real_x, real_y, real_width, real_height = real[g, 0], real[g, 1], real[g, 2], real[g, 3]
    shared = shared_area(x, y, width + x, height + y, real_x, real_y, real_width + real_x, real_height + real_y)
    if shared <= 0:
        return 0.0
    area = width * height
    return shared / area if crowd else shared / (area + real_width * real_height - shared)


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
    taken: Ints,
    paired: NDArray[np.int64],
    status: NDArray[np.int8],
) -> None:
    """Give objects to detections, best score first, at every threshold and area range.

    A detection takes the free object with the highest IoU, the later one of equals; an object that does not
    count only when no other is left. Crowd regions are never used up.

    Args:
        label_start, images: detections sorted by class and image.
        places: (D,) their position along the last axis of `status`.
        pair_start, objects, ious: from `box_pairs` or `mask_pairs`.
        crowd: (M,)
        counted: (A, M) objects that count in an area range.
        thresholds: (T,)
        taken: (M,) zeros; the round of area range and threshold, from 1, that took an object.
        paired: (D,) room.
        status: (A, T, D) as if nothing was matched; HIT and IGNORED are written where something is.
    """
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
                    lowest = thresholds[t]
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
                            status[a, t, places[p]] = IGNORED


# ------------------------------------------------------------------ accumulation


@compiled
def accumulate(
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
    """Precision at levels of recall, and the recall reached, of every area range, threshold and class.

    Args:
        status: (A, T, D) of detections sorted by class and falling score.
        label_start: (K + 1,)
        rank: (D,) position among the detections of the same class and image.
        counts: (A, K) objects that count; nothing is written where there are none.
        levels: (R,) rising levels of recall.
        limits: (L,) most detections an image and class.
        best, place: room for the objects of a class.
        precision: (A, T, K, R) written: the best at this recall or beyond, with all detections.
        reached: (A, T, K, R) written where it is reached: the first detection with this recall.
        recall: (A, T, K, L) written: with at most so many detections.
    """
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
                    at = needed - 1 if needed else 0
                    precision[a, t, label, r] = best[at] if at < hits else 0.0
                    if needed == 0 and last > first:
                        reached[a, t, label, r] = first  # recall 0 is there from the start
                    elif 0 < needed <= hits:
                        reached[a, t, label, r] = place[at]


@helper
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
