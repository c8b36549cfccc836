"""The order in which boxes are visited, and a look at how they lie; compiled by numba."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.detect.nms.checks import Order, name_bad_value, numbers
from detseg.kernels import compiled, counting_sort, radix_sort

# Scores are sorted by 4 digits of 8 bits: for few boxes, larger histograms would cost more than the sorting.
_DIGITS, _DIGIT_BITS = 4, 8


class Survey(NamedTuple):
    """How the boxes to visit lie."""

    canvas: tuple[float, float, float]  # left, top and right end
    smallest: float  # the smallest area above 0
    beside: float  # how many boxes of the mean area fit beside each other there


def best_first(
    boxes: NDArray[np.float32], scores: NDArray[Any], labels: NDArray[Any] | None, score_threshold: float | None
) -> tuple[Order, Survey]:
    """Indices of the boxes (N, 4) above the score threshold, by falling score, equal scores by rising index.

    Raises:
        ValueError: a number is not finite or a box is reversed.
    """
    # Larger types have digits that the kernel's float32 cannot hold.
    exact = scores.dtype.kind == "f" and scores.dtype.itemsize <= 4
    in_single = numbers(scores, np.float32) if exact else np.zeros(len(scores), np.float32)
    lowest = -np.inf if score_threshold is None or not exact else score_threshold
    order, keys = np.empty(len(boxes), np.int64), np.empty((2, len(boxes)), np.uint64)
    starts = np.zeros((_DIGITS, 1 << _DIGIT_BITS), np.int64)
    count, *survey = _best_first(boxes, in_single, in_single.view(np.uint32), np.float32(lowest), keys, starts, order)
    others = [values for values in (labels, None if exact else scores) if values is not None]
    if count < 0 or not all(np.isfinite(values).all() for values in others if values.dtype.kind == "f"):
        raise ValueError(name_bad_value(boxes, scores, labels))
    if exact:
        return order[:count], Survey(*survey)
    order = np.argsort(-scores if scores.dtype.kind == "f" else np.invert(scores), kind="stable")
    return order if score_threshold is None else order[scores[order] > score_threshold], Survey(*survey)


@compiled
def _best_first(boxes, scores, bits, score_threshold, keys, starts, order):
    """Fill `order` (N,); returns how many boxes there are, or -1 if one is bad, and the fields of `Survey`.

    Args:
        boxes: (N, 4) float32 xyxy.
        scores, bits: (N,) float32 and the same memory as uint32.
        keys: (2, N) uint64, room to work in.
        starts: (_DIGITS, 2 ** _DIGIT_BITS) zeros.
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


def by_label(order: Order, labels: NDArray[np.int64]) -> tuple[Order, NDArray[np.int64]]:
    """`order` by label, best first in each, and where each label starts in it."""
    lowest, highest = int(labels.min()), int(labels.max())
    if highest - lowest > 4 * len(labels) + 1000:
        labels = np.unique(labels, return_inverse=True)[1]
        lowest, highest = 0, int(labels.max())
    starts, grouped = np.zeros(highest - lowest + 2, np.int64), np.empty_like(order)
    counting_sort(order, labels, lowest, starts, grouped)
    return grouped, starts
