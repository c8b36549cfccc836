"""The compiled loops of the detection metrics, over flat arrays: box IoU, matching, accumulation.

Their callers see to shapes, types and contiguity. D detections, M objects, N images, K classes, T IoU thresholds,
A area ranges, R levels of recall. Class k owns the detections `label_start[k]:label_start[k + 1]` and the objects
`object_start[k]:object_start[k + 1]`. Positions and images are int32, starts int64, all else that is real float64.

"By class and image" means: detections sorted by label, then image, then falling score. Objects are sorted
by label, then image. Then one step through both finds every pair of the same class and image.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from detseg.kernels import compiled, helper, shared_area

HIT, MISS, IGNORED = 1, 0, -1

# IoUs of detections and objects: pair_start (D + 1,), and over the pairs the objects (P,), rising for each detection,
# and the IoUs (P,).
Pairs = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]

_ROUNDING = float(np.spacing(1))


# ------------------------------------------------------------------ order


@compiled
def rank_in_image(label_start, images, seen, counted_for, rank):
    """Write to `rank` (D,) how many earlier detections of the same class lie in the same image.

    `images` (D,) by class; `seen` (N,) counts for the class, from 1, that `counted_for` (N,) tells, both hold zeros.
    """
    for label in range(len(label_start) - 1):
        for i in range(label_start[label], label_start[label + 1]):
            image = images[i]
            if counted_for[image] != label + 1:
                counted_for[image] = label + 1
                seen[image] = 0
            rank[i] = seen[image]
            seen[image] += 1


# ------------------------------------------------------------------ overlaps


def collect_pairs(count: int, fill: Callable[..., int]) -> Pairs:
    """The pairs of `count` detections.

    `fill` gets the number of detections that are done and the three arrays, writes the pairs of more detections, and
    returns how many are done when all are, or when the arrays are full.
    """
    pair_start, objects, ious = np.zeros(count + 1, np.int64), np.empty(count + 1, np.int32), np.empty(count + 1)
    done = fill(0, pair_start, objects, ious)
    while done < count:
        objects, ious = np.resize(objects, 2 * len(objects)), np.resize(ious, 2 * len(ious))
        done = fill(done, pair_start, objects, ious)
    return pair_start, objects[: pair_start[-1]], ious[: pair_start[-1]]


@compiled
def box_pairs(detections, real, crowd, lowest, done, pair_start, objects, ious):
    """`fill` of `collect_pairs`: IoUs of `lowest` and more of detections with objects of their class and image.

    Args:
        detections: label_start, images (D,) by class and image, their rows (D,) of the last: boxes (n, 4) xywh.
        real: object_start, images (M,) by class and image, boxes (M, 4) xywh.
        crowd: (M,) for a crowd region the overlap is divided by the detection's area alone.
        lowest, done, pair_start, objects, ious: see above.
    """
    label_start, images, sources, boxes = detections
    object_start, object_images, object_boxes = real
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
def _box_iou(found, d, real, g, crowd):
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
def match_pairs(label_start, images, places, pairs, crowd, counted, thresholds, taken, paired, status):
    """Give objects to detections, best score first, at every threshold and area range.

    A detection takes the free object with the highest IoU, the later one of equals; an object that does not
    count only when no other is left. Crowd regions are never used up.

    Args:
        label_start, images: detections sorted by class and image.
        places: (D,) their position along the last axis of `status`.
        pairs: see `Pairs`.
        crowd: (M,) bool
        counted: (A, M) bool, objects that count in an area range.
        thresholds: (T,)
        taken: (M,) int32 zeros; the round of area range and threshold, from 1, that took an object.
        paired: (D,) int64, room.
        status: (A, T, D) int8 as if nothing was matched; HIT and IGNORED are written where something is.
    """
    pair_start, objects, ious = pairs
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


@compiled
def match_voc(places, pairs, difficult, status):
    """Write the status of every detection that overlaps an object enough; best score first in each image.

    As `match_pairs`, by the rules of VOC: `difficult` (M,) bool, `status` (D,) int8.
    """
    pair_start, objects, ious = pairs
    seen = np.zeros(len(difficult), np.bool_)
    for d in range(len(places)):
        best, best_iou = -1, 0.0
        for pair in range(pair_start[d], pair_start[d + 1]):
            if ious[pair] > best_iou:  # of equals the first
                best, best_iou = objects[pair], ious[pair]
        if best < 0:
            continue
        if difficult[best]:
            status[places[d]] = IGNORED
        elif not seen[best]:
            seen[best] = True
            status[places[d]] = HIT


# ------------------------------------------------------------------ accumulation


@compiled
def accumulate(status, label_start, rank, counts, levels, limits, best, place, precision, reached, recall):
    """Precision at levels of recall, and the recall reached, of every area range, threshold and class.

    Args:
        status: (A, T, D) int8, of detections sorted by class and falling score.
        label_start: (K + 1,)
        rank: (D,) position among the detections of the same class and image.
        counts: (A, K) int64, objects that count; nothing is written where there are none.
        levels: (R,) rising levels of recall.
        limits: (L,) int64, most detections an image and class.
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
def _precisions(status, a, t, first, last, best, place):
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
