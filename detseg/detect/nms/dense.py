"""Greedy non-max suppression on the CPU, compiled by numba; `detseg.detect.nms.greedy` is the door to it.

`best_first` checks and sorts. Then there are two ways to the same indices:

- `suppress_densely`: every kept box is compared with all boxes that are left, in one vectorised pass. Dropped boxes
  are squeezed out of the arrays as they accumulate. Best where few boxes are kept.
- `suppress_nearby` in `nms_nearby_kernels.py`: every box is compared with the kept boxes near it, found by an index.

All arithmetic on boxes is float32, in the order torchvision's kernel has it: the indices are the same to the last bit.
Callers bring the room to work in: it compiles sooner so, and numpy gives large arrays large pages.
"""

import math
from typing import Any

import numba
import numpy as np

from detseg.kernels import njit

# Squeeze dropped boxes out when they are more than one in so many.
_SQUEEZE = 5
# Scores are sorted by so many bits at a time: digits of 8 bits, 4 to a float32.
DIGITS, _BUCKETS = 4, 256

# Compiled when first called, for the types at hand: what a call does not need costs it nothing.
compiled: Any = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
inlined: Any = {"inline": "always", "error_model": "numpy"}


# ------------------------------------------------------------------ two boxes


@numba.njit(**inlined)
def _iou(x1, y1, x2, y2, ax1, ay1, ax2, ay2, area, own):
    zero = np.float32(0)
    shared = max(zero, min(ax2, x2) - max(ax1, x1)) * max(zero, min(ay2, y2) - max(ay1, y1))
    return shared / (own + area - shared)


@numba.njit(**inlined)
def box_distance(x1, y1, x2, y2, ax1, ay1, ax2, ay2):
    """Squared distance of the centres over the squared diagonal of the box around both."""
    half = np.float32(0.5)
    across, down = (ax1 + ax2 - x1 - x2) * half, (ay1 + ay2 - y1 - y2) * half
    width, height = max(ax2, x2) - min(ax1, x1), max(ay2, y2) - min(ay1, y1)
    return (across * across + down * down) / (width * width + height * height)


@numba.njit(**inlined)
def overlap(boxes, i, j):
    """IoU of two boxes of (N, 4) xyxy; 0 where both have no area."""
    ax1, ay1, ax2, ay2 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
    x1, y1, x2, y2 = boxes[j, 0], boxes[j, 1], boxes[j, 2], boxes[j, 3]
    own, area = (ax2 - ax1) * (ay2 - ay1), (x2 - x1) * (y2 - y1)
    return _iou(x1, y1, x2, y2, ax1, ay1, ax2, ay2, area, own) if own + area > 0 else np.float32(0)


# ------------------------------------------------------------------ order


@njit(**compiled)
def best_first(boxes, scores, bits, score_threshold, keys, other_keys, starts, order, survey):
    """Write to `order` the boxes whose score is above the threshold: falling scores, equal ones by rising index.

    Args:
        boxes: (N, 4) xyxy.
        scores, bits: (N,) float32 and the same memory as uint32.
        keys, other_keys: (N,) uint64, room to work in.
        starts: (DIGITS * 256,) zeros.
        order: (N,) int64.
        survey: (5,) gets what tells the better way, of these boxes: left, top and right end, the smallest area
            above 0, and the number of boxes that fit beside each other.

    Returns:
        The number of boxes, or -1 if a box is reversed or a number is not finite.
    """
    # A key is the score in its upper half, turned round so that larger scores give smaller numbers, and the index.
    count = 0
    left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
    smallest, total = np.inf, 0.0
    for i in range(len(boxes)):
        x1, y1, x2, y2 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        width, height = x2 - x1, y2 - y1
        if not (width >= 0 and height >= 0 and width < np.inf and height < np.inf and math.isfinite(scores[i])):
            return -1
        if scores[i] > score_threshold:
            # Sign and magnitude to a number that falls as the score rises; 0.0 and -0.0 give the same.
            falling = bits[i] if scores[i] < 0 else ~bits[i] & np.uint32(0x7FFFFFFF)
            keys[count] = (np.uint64(falling) << np.uint64(32)) | np.uint64(i)
            count += 1
            for digit in range(DIGITS):
                starts[digit * _BUCKETS + np.int64((falling >> np.uint32(8 * digit)) & np.uint32(255))] += 1
            # Conditions compile several times sooner than min and max.
            left, top = x1 if x1 < left else left, y1 if y1 < top else top
            right, bottom = x2 if x2 > right else right, y2 if y2 > bottom else bottom
            area = float(width) * float(height)
            total += area
            if 0 < area < smallest:
                smallest = area
    survey[0], survey[1], survey[2], survey[3] = left, top, right, smallest
    survey[4] = count * (right - left) * (bottom - top) / total if total > 0 else np.inf
    for digit in range(DIGITS):  # a radix sort from the lowest digit up
        shift, first, before = np.uint64(32 + 8 * digit), digit * _BUCKETS, 0
        if count == 0 or starts[first + np.int64((keys[0] >> shift) & np.uint64(255))] == count:
            continue  # all share this digit
        for bucket in range(first, first + _BUCKETS):
            here = starts[bucket]
            starts[bucket] = before
            before += here
        for j in range(count):
            key = keys[j]
            own = first + np.int64((key >> shift) & np.uint64(255))
            other_keys[starts[own]] = key
            starts[own] += 1
        keys, other_keys = other_keys, keys
    for j in range(count):
        order[j] = np.int64(keys[j] & np.uint64(0xFFFFFFFF))
    return count


@njit(**compiled)
def group(order, labels, lowest, starts, grouped):
    """`order` (N,) by rising label, equal ones as they were.

    Args:
        labels: (M,) int64 of all boxes, from `lowest` to `lowest` + K - 1.
        starts: (K + 1,) zeros; gets where each label starts in the result.
        grouped: (N,) gets the result.
    """
    for i in order:
        starts[labels[i] - lowest + 1] += 1
    for label in range(1, len(starts)):
        starts[label] += starts[label - 1]
    for i in order:
        label = labels[i] - lowest
        grouped[starts[label]] = i
        starts[label] += 1
    for label in range(len(starts) - 1, 0, -1):
        starts[label] = starts[label - 1]
    starts[0] = 0


# ------------------------------------------------------------------ each kept box with all others


@numba.njit(error_model="numpy")
def _drop_by_overlap(x1, y1, x2, y2, area, dropped, ax1, ay1, ax2, ay2, own, threshold):
    """Mark what a box drops. A plain loop from 0 with nothing summed up: LLVM makes it the widest SIMD there is."""
    zero = np.float32(0)
    for j in range(len(x1)):
        width = max(zero, min(ax2, x2[j]) - max(ax1, x1[j]))
        height = max(zero, min(ay2, y2[j]) - max(ay1, y1[j]))
        shared = width * height
        dropped[j] |= np.uint8(shared / (own + area[j] - shared) > threshold)


@numba.njit(error_model="numpy")
def _drop_by_distance(x1, y1, x2, y2, area, dropped, ax1, ay1, ax2, ay2, own, threshold):
    for j in range(len(x1)):
        value = _iou(x1[j], y1[j], x2[j], y2[j], ax1, ay1, ax2, ay2, area[j], own)
        dropped[j] |= np.uint8(value - box_distance(x1[j], y1[j], x2[j], y2[j], ax1, ay1, ax2, ay2) > threshold)


@njit(**compiled)
def suppress_densely(boxes, order, starts, threshold, distance, limit, columns, dropped, kept):
    """Write the boxes that are kept, group after group, each best first; returns how many.

    Args:
        boxes: (M, 4) xyxy.
        order: (N,) indices of the boxes to look at, by group, then best first; overwritten.
        starts: (G + 1,) group g owns order[starts[g]:starts[g + 1]]; only boxes of one group compete.
        threshold: a box is dropped when its IoU with a kept one is strictly greater; float32.
        distance: True subtracts the penalty of DIoU for distant centres (Zheng et al. 2020), None does not.
        limit: keep so many of a group.
        columns: (5, L) float32 and `dropped` (L,) uint8, room for the largest group.
        kept: (N,) int64 gets the result.
    """
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
            ax1, ay1, ax2, ay2, own = x1[first], y1[first], x2[first], y2[first], area[first]
            first += 1
            lefts, tops, rights, bottoms = x1[first:end], y1[first:end], x2[first:end], y2[first:end]
            areas, marks = area[first:end], dropped[first:end]
            if distance is None:
                _drop_by_overlap(lefts, tops, rights, bottoms, areas, marks, ax1, ay1, ax2, ay2, own, threshold)
            else:
                _drop_by_distance(lefts, tops, rights, bottoms, areas, marks, ax1, ay1, ax2, ay2, own, threshold)
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
