"""Hard suppression where few boxes are kept, compiled by numba: each kept box against all that are left.

Arithmetic is in the boxes' own precision, in the order torchvision's kernel has it: the indices are the same to the
last bit.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from detseg.detect.nms.checks import Order, Rule
from detseg.kernels import compiled, inlined, shared_area

# Squeeze dropped boxes out when they are more than one in so many.
_SQUEEZE = 5


class Box(NamedTuple):
    """Corners and area of a box; or arrays (N,) of them."""

    x1: Any
    y1: Any
    x2: Any
    y2: Any
    area: Any


def suppress_densely(
    boxes: NDArray[np.floating[Any]], order: Order, starts: NDArray[np.int64], rule: Rule, limit: int, largest: int
) -> Order:
    """Kept boxes of each group, `limit` at most, group after group, best first.

    Args:
        boxes: (M, 4) xyxy.
        order: (N,) indices of the boxes to look at, best first in each group; overwritten.
        starts: (G + 1,) group g is order[starts[g]:starts[g + 1]].
        largest: no group has more boxes.
    """
    columns, dropped = np.empty((5, largest), boxes.dtype), np.empty(largest, np.uint8)
    kept = np.empty(len(order), np.int64)
    return kept[: _suppress(boxes, order, starts, rule.threshold, rule.distance, limit, columns, dropped, kept)]


@compiled
def _suppress(boxes, order, starts, threshold, distance, limit, columns, dropped, kept):
    """Fill `kept` (N,) and return how many there are; `columns` (5, L) and `dropped` (L,) hold the largest group."""
    x1, y1, x2, y2, area = columns[0], columns[1], columns[2], columns[3], columns[4]
    count = 0
    for g in range(len(starts) - 1):
        index = order[starts[g] : starts[g + 1]]
        first, end, most = 0, len(index), count + limit
        for j in range(end):
            i = index[j]
            x1[j], y1[j], x2[j], y2[j], dropped[j] = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3], 0
            area[j] = (x2[j] - x1[j]) * (y2[j] - y1[j])
        while first < end and count < most:
            if dropped[first]:
                first += 1
                continue
            kept[count] = index[first]
            count += 1
            best = Box(x1[first], y1[first], x2[first], y2[first], area[first])
            first += 1
            rest = Box(x1[first:end], y1[first:end], x2[first:end], y2[first:end], area[first:end])
            marks = dropped[first:end]
            _drop(best, rest, marks, threshold, distance)
            gone = 0
            for j in range(len(marks)):
                gone += marks[j]
            if gone * _SQUEEZE > end - first:
                to = first
                for j in range(first, end):  # written always, kept by moving on: there is nothing to guess wrong
                    x1[to], y1[to], x2[to], y2[to], area[to] = x1[j], y1[j], x2[j], y2[j], area[j]
                    index[to] = index[j]
                    to += 1 - dropped[j]
                end = to
                for j in range(first, end):
                    dropped[j] = 0
    return count


@numba.njit(error_model="numpy")
def _drop(best, rest, dropped, threshold, distance):
    """Mark what a box drops. A plain loop from 0 with nothing summed up: LLVM makes it the widest SIMD there is."""
    for j in range(len(dropped)):
        x1, y1, x2, y2 = rest.x1[j], rest.y1[j], rest.x2[j], rest.y2[j]
        shared = shared_area(best.x1, best.y1, best.x2, best.y2, x1, y1, x2, y2)
        iou = shared / (best.area + rest.area[j] - shared)
        if distance is not None:
            iou -= box_distance(x1, y1, x2, y2, best.x1, best.y1, best.x2, best.y2)
        dropped[j] |= np.uint8(iou > threshold)


@inlined
def box_distance(x1, y1, x2, y2, ax1, ay1, ax2, ay2):
    """Squared distance of the centres over the squared diagonal of the box around both (Zheng et al. 2020, DIoU)."""
    half = np.float32(0.5)
    across, down = (ax1 + ax2 - x1 - x2) * half, (ay1 + ay2 - y1 - y2) * half
    width, height = max(ax2, x2) - min(ax1, x1), max(ay2, y2) - min(ay1, y1)
    return (across * across + down * down) / (width * width + height * height)
