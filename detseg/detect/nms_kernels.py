"""Greedy non-max suppression on the CPU, compiled by numba; `detseg.detect.nms` is the door to it.

Two ways to the same indices:

- `suppress_densely`: every kept box is compared with all boxes that are left, in one vectorised pass. Dropped boxes
  are squeezed out of the arrays as they accumulate. Best where few boxes are kept.
- `suppress_nearby`: every box is compared with the kept boxes near it, found by a grid over their centres with a
  level for each size. The number of kept boxes near any place is small however many boxes there are, since kept boxes
  hardly overlap; so the time grows with the number of boxes, not with its square.

All arithmetic on boxes is float32, in the order torchvision's kernel has it: the indices are the same to the last bit.
"""

import math

import numba
import numpy as np

# Squeeze dropped boxes out when they are more than one in so many.
_SQUEEZE = 5
# A level for each exponent that float32 can have, and what to subtract from it for the exponent of the level's cells.
_LEVELS, _BIAS = 256, 126
# Below this area float32 loses digits, and IoU may come out above what sizes and distances allow.
SMALLEST_SOUND_AREA = 1e-30

compiled = {"cache": True, "nogil": True, "error_model": "numpy"}
inlined = {"inline": "always", "error_model": "numpy"}


# ------------------------------------------------------------------ two boxes


@numba.njit(**inlined)
def _iou(x1, y1, x2, y2, ax1, ay1, ax2, ay2, area, own):
    zero = np.float32(0)
    shared = max(zero, min(ax2, x2) - max(ax1, x1)) * max(zero, min(ay2, y2) - max(ay1, y1))
    return shared / (own + area - shared)


@numba.njit(**inlined)
def _distance(x1, y1, x2, y2, ax1, ay1, ax2, ay2):
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


@numba.njit(**inlined)
def _drops(boxes, k, x1, y1, x2, y2, area, threshold, distance):
    """Whether box k drops the box that is given."""
    kx1, ky1, kx2, ky2 = boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3]
    if not (kx1 < x2 and x1 < kx2 and ky1 < y2 and y1 < ky2):
        return False
    iou = _iou(x1, y1, x2, y2, kx1, ky1, kx2, ky2, area, (kx2 - kx1) * (ky2 - ky1))
    if distance:
        iou -= _distance(x1, y1, x2, y2, kx1, ky1, kx2, ky2)
    return iou > threshold


@numba.njit(**inlined)
def _dropped_by(boxes, labels, kept, j, before, x1, y1, x2, y2, area, label, threshold, distance):
    """Whether a kept box of a list drops the box that is given; j is the list's last entry, before[j] the next."""
    while j >= 0:
        k = kept[j]
        if _drops(boxes, k, x1, y1, x2, y2, area, threshold, distance) and (len(labels) == 0 or labels[k] == label):
            return True
        j = before[j]
    return False


# ------------------------------------------------------------------ order


@numba.njit("int64(float32[:, ::1], float32[::1], float32, uint64[::1])", **compiled)
def sort_keys(boxes, scores, score_threshold, keys):
    """Write a key for every box (N, 4) whose score (N,) is above the threshold: sorted, they go best first.

    The upper half of a key is the score, turned round so that larger scores give smaller numbers; the lower half is
    the box's index: so equal scores keep their order, and the index comes with the key.

    Returns:
        The number of keys, or -1 if a box is reversed or a number is not finite.
    """
    count = 0
    bits = scores.view(np.uint32)
    for i in range(len(boxes)):
        width, height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        fine = width >= 0 and height >= 0 and width < np.inf and height < np.inf and math.isfinite(scores[i])
        if not fine:
            return -1
        if scores[i] > score_threshold:
            # Sign and magnitude to a number that rises with the score; -0.0 counts as 0.0.
            rising = ~bits[i] if scores[i] < 0 else (bits[i] if scores[i] > 0 else np.uint32(0)) | np.uint32(0x80000000)
            keys[count] = (np.uint64(~rising) << np.uint64(32)) | np.uint64(i)
            count += 1
    return count


@numba.njit("void(uint64[::1], int64[::1])", **compiled)
def indices_of(keys, order):
    """The indices that `sort_keys` put into the keys."""
    for i in range(len(keys)):
        order[i] = np.int64(keys[i] & np.uint64(0xFFFFFFFF))


@numba.njit("UniTuple(float64, 2)(float32[:, ::1], int64[::1])", **compiled)
def survey(boxes, order):
    """What tells the better way: the smallest area above 0, and how many boxes fit beside each other.

    Args:
        boxes: (M, 4) xyxy.
        order: (N,) the boxes that count.
    """
    left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
    smallest, total = np.inf, 0.0
    for i in order:
        x1, y1, x2, y2 = float(boxes[i, 0]), float(boxes[i, 1]), float(boxes[i, 2]), float(boxes[i, 3])
        left, top, right, bottom = min(left, x1), min(top, y1), max(right, x2), max(bottom, y2)
        area = (x2 - x1) * (y2 - y1)
        total += area
        if area > 0:
            smallest = min(smallest, area)
    return smallest, len(order) * (right - left) * (bottom - top) / total if total > 0 else np.inf


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
        iou = _iou(x1[j], y1[j], x2[j], y2[j], ax1, ay1, ax2, ay2, area[j], own)
        dropped[j] |= np.uint8(iou - _distance(x1[j], y1[j], x2[j], y2[j], ax1, ay1, ax2, ay2) > threshold)


@numba.njit("int64(float32[:, ::1], int64[::1], float32, boolean, int64, int64[::1])", **compiled)
def suppress_densely(boxes, order, threshold, distance, limit, kept):
    """Write the kept ones of `order` (N,), indices into `boxes`, best first; returns how many.

    Args:
        boxes: (M, 4) xyxy.
        order: (N,) the boxes to look at, best first.
        threshold: a box is dropped when its IoU with a kept one is strictly greater.
        distance: subtract the penalty of DIoU for distant centres (Zheng et al. 2020).
        limit: stop at so many.
        kept: (N,) at least as long as the result.
    """
    end = len(order)
    x1, y1 = np.empty(end, np.float32), np.empty(end, np.float32)
    x2, y2 = np.empty(end, np.float32), np.empty(end, np.float32)
    area, index = np.empty(end, np.float32), np.empty(end, np.int64)
    dropped = np.zeros(end, np.uint8)
    for j in range(end):
        i = order[j]
        x1[j], y1[j], x2[j], y2[j], index[j] = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3], i
        area[j] = (x2[j] - x1[j]) * (y2[j] - y1[j])
    first = count = 0
    while first < end and count < limit:
        if dropped[first]:
            first += 1
            continue
        kept[count] = index[first]
        count += 1
        ax1, ay1, ax2, ay2, own = x1[first], y1[first], x2[first], y2[first], area[first]
        first += 1
        lefts, tops, rights, bottoms = x1[first:end], y1[first:end], x2[first:end], y2[first:end]
        areas, marks = area[first:end], dropped[first:end]
        if distance:
            _drop_by_distance(lefts, tops, rights, bottoms, areas, marks, ax1, ay1, ax2, ay2, own, threshold)
        else:
            _drop_by_overlap(lefts, tops, rights, bottoms, areas, marks, ax1, ay1, ax2, ay2, own, threshold)
        gone = 0
        for j in range(len(marks)):
            gone += marks[j]
        if gone * _SQUEEZE > end - first:
            to = first
            for j in range(first, end):
                if not dropped[j]:
                    x1[to], y1[to], x2[to], y2[to] = x1[j], y1[j], x2[j], y2[j]
                    area[to], index[to] = area[j], index[j]
                    to += 1
            end = to
            dropped[first:end] = 0
    return count


# ------------------------------------------------------------------ each box with the kept ones near it


@numba.njit("int64(float32[:, ::1], int64[::1], int64[::1], float32, boolean, int64, int64[::1])", **compiled)
def suppress_nearby(boxes, labels, order, threshold, distance, limit, kept):
    """What `suppress_densely` does, where only boxes of one label compete.

    Two boxes with IoU > t have sides within a factor of t of each other, and centres within
    (1 - t) / (1 + t) of the mean of their sides, in x and in y. So a kept box is entered once, by its centre, into the
    grid of its level, the power of two above its longer side, whose cells are that large; and a box looks into
    a few cells of a few levels. Cells of all levels and labels share one table of lists: a neighbour that is there by
    chance is only one comparison more. No box may have an area below `SMALLEST_SOUND_AREA`, other than 0.

    Args:
        labels: (M,) any whole numbers, or of length 0 where all boxes compete.
        boxes, order, threshold, distance, limit, kept: as in `suppress_densely`.
    """
    count = len(order)
    left, top, right = np.inf, np.inf, -np.inf
    for i in order:
        left, top, right = min(left, boxes[i, 0]), min(top, boxes[i, 1]), max(right, boxes[i, 2])
    slots = 64
    while slots < 2 * count:
        slots *= 2
    mask = slots - 1
    table = np.full(slots, -1, np.int32)  # of each slot, the last box entered: a position in `kept`
    before = np.empty(count, np.int32)  # the one entered before it
    on_level = np.full(_LEVELS, -1, np.int32)  # the same for whole levels
    before_on_level = np.empty(count, np.int32)
    entered = np.zeros(_LEVELS, np.int64)
    columns = np.empty(_LEVELS, np.int64)  # cells in a row, of levels in use
    lowest, highest = _LEVELS, -1  # of the levels in use
    # A little more than the rule says, for float32 rounds.
    ratio = float(threshold) * (1 - 1e-5)
    reach = 0.5 * (1 - ratio) / (1 + ratio)
    longest = 1 / ratio if ratio > 0 else np.inf
    sides = np.empty(3, np.float32)  # a box's own, and the shortest and longest that matter to it
    bits = sides.view(np.int32)  # sign, exponent and mantissa
    labelled = len(labels) > 0
    label = 0
    found = 0
    for i in order:
        x1, y1, x2, y2 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        width, height = x2 - x1, y2 - y1
        area = width * height
        if not area > 0:  # overlaps nothing
            kept[found] = i
            found += 1
            if found == limit:
                break
            continue
        if labelled:
            label = labels[i]
        apart = label * 0x9E3779B1
        side = max(width, height)
        sides[0], sides[1], sides[2] = side, side * ratio, side * longest
        level = np.int64(bits[0] >> 23)
        low, high = max(lowest, np.int64(bits[1] >> 23)), min(highest, np.int64(bits[2] >> 23))
        across, down = 0.5 * (float(x1) + float(x2)) - left, 0.5 * (float(y1) + float(y2)) - top
        widest, tallest = reach * width * (1 + longest), reach * height * (1 + longest)
        dropped = False
        # Its own level first, then the next below and above, and so on: equals drop most boxes.
        for turn in range(2 * max(level - low, high - level) + 1):
            other = level + (turn + 1) // 2 if turn % 2 else level - turn // 2
            if other < low or other > high or entered[other] == 0:
                continue
            cell, per_cell = math.ldexp(1.0, other - _BIAS), math.ldexp(1.0, _BIAS - other)
            far_x, far_y = min(widest, reach * (width + cell)), min(tallest, reach * (height + cell))
            first_x, last_x = math.floor((across - far_x) * per_cell), math.floor((across + far_x) * per_cell)
            first_y, last_y = math.floor((down - far_y) * per_cell), math.floor((down + far_y) * per_cell)
            if (last_x - first_x + 1) * (last_y - first_y + 1) > entered[other]:
                j = on_level[other]
                dropped = _dropped_by(
                    boxes, labels, kept, j, before_on_level, x1, y1, x2, y2, area, label, threshold, distance
                )
            else:
                y = np.int64(first_y)
                while y <= last_y and not dropped:
                    row = apart + other * 0x85EBCA77 + y * columns[other]
                    x = np.int64(first_x)
                    while x <= last_x and not dropped:
                        j = table[(row + x) & mask]
                        dropped = _dropped_by(
                            boxes, labels, kept, j, before, x1, y1, x2, y2, area, label, threshold, distance
                        )
                        x += 1
                    y += 1
            if dropped:
                break
        if dropped:
            continue
        per_cell = math.ldexp(1.0, _BIAS - level)
        if entered[level] == 0:
            lowest, highest = min(lowest, level), max(highest, level)
            columns[level] = np.int64((right - left) * per_cell) + 1
        slot = apart + level * 0x85EBCA77 + np.int64(down * per_cell) * columns[level] + np.int64(across * per_cell)
        slot &= mask
        before[found], table[slot] = table[slot], found
        before_on_level[found], on_level[level] = on_level[level], found
        entered[level] += 1
        kept[found] = i
        found += 1
        if found == limit:
            break
    return found
