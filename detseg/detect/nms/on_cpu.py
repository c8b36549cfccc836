"""Hard suppression on CPUs: check, sort, and choose between `dense` and `nearby` for each group of boxes."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.detect.nms.checks import Order, Rule, in_floats, name_bad_value, numbers, whole_labels
from detseg.detect.nms.dense import suppress_densely
from detseg.detect.nms.few import FEW, keep_few
from detseg.detect.nms.nearby import SMALLEST_SOUND_AREA, suppress_nearby
from detseg.kernels import compiled, counting_sort, radix_sort

Boxes = NDArray[np.floating[Any]]  # float32 or float64: for each the kernels are compiled, where they first meet it

# Comparing all boxes is faster than looking for neighbours when there are few of them, or when so few fit beside
# each other on the image that few will be kept: where the times of benchmarks/nms.py cross, clustered against sparse.
_FEW_BOXES, _FEW_BESIDE = 500, 400
NO_LABELS = np.empty(0, np.int64)
# Scores are sorted by 4 digits of 8 bits: for few boxes, larger histograms would cost more than the sorting.
_DIGITS, _DIGIT_BITS = 4, 8


class Survey(NamedTuple):
    """How the boxes to visit lie."""

    canvas: tuple[float, float, float]  # left, top and right end
    smallest: float  # the smallest area above 0
    beside: float  # how many boxes of the mean area fit beside each other there


def keep_on_cpu(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any] | None = None,
    *,
    iou_threshold: float,
    distance: bool | None,
    score_threshold: float | None,
    max_detections: int | None,
) -> Order:
    """Kept indices, best first, of boxes (N, 4), scores (N,) and maybe labels (N,); ValueError for bad numbers.

    See `Rule` for `distance`.
    """
    given, boxes = boxes, in_floats(boxes)
    # Compared in float64, the float32 nearest to 0.1 is above 0.1, and a box exactly on the threshold would be dropped.
    rule = Rule(boxes.dtype.type(iou_threshold), distance)
    if len(boxes) <= FEW and scores.dtype == boxes.dtype and (labels is None or labels.dtype == np.int64):
        limit = len(boxes) if max_detections is None else int(max_detections)
        least = -np.inf if score_threshold is None else score_threshold
        whole = NO_LABELS if labels is None else numbers(labels, np.int64)
        kept = keep_few(boxes, numbers(scores, boxes.dtype.type), whole, rule, least, limit)
        if kept is not None:
            return kept
    ranked = _best_first(boxes, scores, labels, score_threshold)
    if ranked is None:
        raise ValueError(name_bad_value(given, scores, labels))
    order, survey = ranked
    limit = len(order) if max_detections is None else min(int(max_detections), len(order))
    if limit == 0:
        return order[:0]
    if labels is None:
        return _keep_of_one(boxes, order, survey, rule, limit)
    grouped, starts = _by_label(order, whole_labels(labels))
    survives = np.zeros(len(boxes), bool)
    survives[_keep_of_each(boxes, grouped, starts, survey, rule, limit)] = True
    return order[survives[order]][:limit]


def _keep_of_one(boxes: Boxes, order: Order, survey: Survey, rule: Rule, limit: int) -> Order:
    """Kept ones of `order`, best first, as if all were of one label."""
    # The index does not go from the best box down. What is kept of the best boxes does not depend on the others,
    # so a limit that is far off is tried on a part.
    most = max(4 * limit, 1000)
    while not _few_are_kept(len(order), survey):
        kept = suppress_nearby(boxes, order[:most], survey.canvas, rule)
        if kept is None:
            break
        if len(kept) >= limit or most >= len(order):
            return kept[:limit]
        most *= 4
    return suppress_densely(boxes, order, np.array([0, len(order)]), rule, limit, len(order))


def _keep_of_each(
    boxes: Boxes, order: Order, starts: NDArray[np.int64], survey: Survey, rule: Rule, limit: int
) -> Order:
    """Kept ones of each group order[starts[g]:starts[g + 1]], group after group."""
    sizes = np.diff(starts)
    largest = int(sizes.max())
    if _few_are_kept(largest, survey):
        return suppress_densely(boxes, order, starts, rule, limit, largest)
    few = sizes <= _FEW_BOXES
    groups = (order[starts[g] : starts[g + 1]] for g in np.flatnonzero(~few))
    large = [_keep_of_one(boxes, group, survey, rule, limit) for group in groups]
    small, starts = order[np.repeat(few, sizes)], np.concatenate([[0], np.cumsum(sizes[few])])
    return np.concatenate([suppress_densely(boxes, small, starts, rule, limit, _FEW_BOXES), *large])


def _few_are_kept(count: int, survey: Survey) -> bool:
    """Whether the dense way is faster for so many boxes, or the only one that their digits allow."""
    return count <= _FEW_BOXES or survey.beside <= _FEW_BESIDE or not survey.smallest >= SMALLEST_SOUND_AREA


def _best_first(
    boxes: Boxes, scores: NDArray[Any], labels: NDArray[Any] | None, score_threshold: float | None
) -> tuple[Order, Survey] | None:
    """Indices of the boxes (N, 4) above the score threshold, by falling score, equal scores by rising index.

    None if a number is bad.
    """
    # Larger types have digits that the kernel's float32 cannot hold.
    exact = scores.dtype.kind == "f" and scores.dtype.itemsize <= 4
    in_single = numbers(scores, np.float32) if exact else np.zeros(len(scores), np.float32)
    lowest = -np.inf if score_threshold is None or not exact else score_threshold
    order, keys = np.empty(len(boxes), np.int64), np.empty((2, len(boxes)), np.uint64)
    starts = np.zeros((_DIGITS, 1 << _DIGIT_BITS), np.int64)
    count, *survey = _sort(boxes, in_single, in_single.view(np.uint32), np.float32(lowest), keys, starts, order)
    others = [values for values in (labels, None if exact else scores) if values is not None]
    if count < 0 or not all(np.isfinite(values).all() for values in others if values.dtype.kind == "f"):
        return None
    if exact:
        return order[:count], Survey(*survey)
    order = np.argsort(-scores if scores.dtype.kind == "f" else np.invert(scores), kind="stable")
    return order if score_threshold is None else order[scores[order] > score_threshold], Survey(*survey)


@compiled
def _sort(boxes, scores, bits, score_threshold, keys, starts, order):
    """Fill `order` (N,); returns how many boxes there are, or -1 if one is bad, and the fields of `Survey`.

    `bits` (N,) are the scores' own; `keys` (2, N) is room to work in, `starts` (_DIGITS, 2 ** _DIGIT_BITS) holds zeros.
    """
    count = 0
    left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
    smallest, total = np.inf, 0.0
    for i in range(len(boxes)):
        x1, y1, x2, y2 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        width, height = x2 - x1, y2 - y1
        if not (width >= 0 and height >= 0 and width < np.inf and height < np.inf and math.isfinite(scores[i])):
            return -1, (left, top, right), smallest, total
        if scores[i] > score_threshold:
            # The upper half of a key falls as the score rises (sign and magnitude, 0.0 and -0.0 alike); the lower
            # half is the index.
            falling = bits[i] if scores[i] < 0 else ~bits[i] & np.uint32(0x7FFFFFFF)
            keys[0, count] = (np.uint64(falling) << np.uint64(32)) | np.uint64(i)
            count += 1
            # Conditions compile several times sooner than min and max.
            left, top = x1 if x1 < left else left, y1 if y1 < top else top
            right, bottom = x2 if x2 > right else right, y2 if y2 > bottom else bottom
            area = float(width) * float(height)
            total += area
            if 0 < area < smallest:
                smallest = area
    ordered = radix_sort(keys[0, :count], keys[1, :count], None, None, starts, 32, _DIGIT_BITS, _DIGITS)[0]
    for j in range(count):
        order[j] = np.int64(ordered[j] & np.uint64(0xFFFFFFFF))
    beside = count * (right - left) * (bottom - top) / total if total > 0 else np.inf
    return count, (left, top, right), smallest, beside


def _by_label(order: Order, labels: NDArray[np.int64]) -> tuple[Order, NDArray[np.int64]]:
    """`order` by label, best first in each, and where each label starts in it."""
    lowest, highest = int(labels.min()), int(labels.max())
    if highest - lowest > 4 * len(labels) + 1000:
        labels = np.unique(labels, return_inverse=True)[1]
        lowest, highest = 0, int(labels.max())
    starts, grouped = np.zeros(highest - lowest + 2, np.int64), np.empty_like(order)
    counting_sort(order, labels, lowest, starts, grouped)
    return grouped, starts
