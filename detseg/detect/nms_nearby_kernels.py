"""Non-max suppression on large canvases, compiled by numba: each box is compared with those near it.

Two boxes with IoU > t have sides within a factor of t of each other, and centres within (1 - t) / (1 + t) of the mean
of their sides, in x and in y. So a box lies in one cell, by its centre, of the grid of its level: the power of two
above its longer side, which is also the cells' width. What may drop it lies in a few cells of a few levels. Cells of
all levels share one table; boxes that are in one slot by chance are only one comparison more.

Boxes are copied in the order of the slots and judged in that order too: what is looked at lies side by side in
memory, however many boxes there are. A box that a better one would drop can be judged once that one has been; if it
has not, it goes first. Such a chain never comes back to the same box, for each one in it is better than the one before.
"""

import math

import numba
import numpy as np

from detseg.detect.nms_kernels import box_distance, compiled

# Below this area float32 loses digits, and IoU may come out above what sizes and distances allow.
SMALLEST_SOUND_AREA = 1e-30
# A level for each exponent that float32 can have, and its cells in a pixel: bits 127 stand for sides in [1, 2).
LEVELS = 256
_PER_PIXEL = np.ldexp(1.0, 126 - np.arange(LEVELS))
_BOXES, _CELLS_A_ROW = 0, 1  # columns of the levels
_RANK = 4  # column of ids
_KEEP, _DROP = -1, -2


@numba.njit(**compiled)
def suppress_nearby(
    boxes, order, canvas, threshold, distance, starts, levels, sides, bits, near, ids, ranks, slots, judged, kept
):
    """What `suppress_densely` does for one group, without a limit; returns how many are kept.

    Args:
        boxes: (M, 4) xyxy, none with an area below `SMALLEST_SOUND_AREA` other than 0.
        order: (N,) indices of the boxes to look at, best first.
        canvas: left, top and right end of all of them.
        threshold, distance: as in `suppress_densely`.
        starts: (S + 1,) int32 zeros, S a power of two.
        levels: (LEVELS, 2) int64 zeros.
        sides, bits: (3,) float32 and the same memory as int32, in which exponents are read; room to work in.
        near, ids: (N, 5) float32 and the same memory as int32: corners and rank of each box, sorted by slot.
        ranks, slots: (M,) and (N,) int32, room to work in.
        judged: (N,) int8 zeros.
        kept: (N,) int64 gets the result.
    """
    count = _fill(boxes, order, canvas, starts, levels, sides, bits, near, ids, ranks, slots, judged)
    stack = slots
    for first in range(count):
        stack[0] = first
        depth = 1 if judged[ids[first, _RANK]] == 0 else 0
        while depth > 0:
            at = stack[depth - 1]
            verdict = _judge(at, canvas, starts, levels, sides, bits, near, ids, judged, threshold, distance)
            if verdict >= 0:
                stack[depth] = verdict
                depth += 1
            else:
                judged[ids[at, _RANK]] = verdict
                depth -= 1
    found = 0
    for rank in range(len(order)):
        if judged[rank] == _KEEP:
            kept[found] = order[rank]
            found += 1
    return found


@numba.njit(**compiled)
def _fill(boxes, order, canvas, starts, levels, sides, bits, near, ids, ranks, slots, judged):
    """Fill `near`, and `starts` with where each slot starts in it; returns how many boxes it holds.

    Boxes without area stay outside, judged: they are kept and drop nothing.
    """
    mask = len(starts) - 2
    for rank in range(len(order)):
        ranks[order[rank]] = rank
    # All boxes are taken as they lie in memory, which is several times faster than best first.
    all_boxes = len(order) == len(boxes)
    for j in range(len(order)):
        i = j if all_boxes else order[j]
        width, height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        if not width * height > 0:
            slots[j] = -1
            judged[ranks[i]] = _KEEP
            continue
        sides[0] = width if width > height else height
        level = np.int64(bits[0] >> 23)
        scale = _PER_PIXEL[level]
        if levels[level, _BOXES] == 0:
            levels[level, _CELLS_A_ROW] = np.int64((canvas[2] - canvas[0]) * scale) + 1
        levels[level, _BOXES] += 1
        column = np.int64((0.5 * (float(boxes[i, 0]) + float(boxes[i, 2])) - canvas[0]) * scale)
        row = np.int64((0.5 * (float(boxes[i, 1]) + float(boxes[i, 3])) - canvas[1]) * scale)
        slot = (level * 0x85EBCA77 + row * levels[level, _CELLS_A_ROW] + column) & mask
        slots[j] = slot
        starts[slot + 1] += 1
    # From numbers to ends; writing from the back makes starts of them.
    for slot in range(mask + 1):
        starts[slot + 1] += starts[slot]
    count = starts[mask + 1]
    for j in range(len(order) - 1, -1, -1):
        if slots[j] >= 0:
            i = j if all_boxes else order[j]
            at = starts[slots[j] + 1] - 1
            starts[slots[j] + 1] = at
            for side in range(4):
                near[at, side] = boxes[i, side]
            ids[at, _RANK] = ranks[i]
    for slot in range(mask + 1):
        starts[slot] = starts[slot + 1]
    starts[mask + 1] = count
    return count


@numba.njit(**compiled)
def _judge(at, canvas, starts, levels, sides, bits, near, ids, judged, threshold, distance):
    """_KEEP or _DROP for box `at` of `near`, or the place of another one that has to be judged before."""
    x1, y1, x2, y2, rank = near[at, 0], near[at, 1], near[at, 2], near[at, 3], ids[at, _RANK]
    width, height = x2 - x1, y2 - y1
    area = width * height
    across, down = 0.5 * (float(x1) + float(x2)) - canvas[0], 0.5 * (float(y1) + float(y2)) - canvas[1]
    ratio = float(threshold) * (1 - 1e-5)  # a little more than the rule says, for float32 rounds
    reach = 0.5 * (1 - ratio) / (1 + ratio)
    longest = 1 / ratio if ratio > 0 else np.inf
    widest, tallest = reach * width * (1 + longest), reach * height * (1 + longest)
    sides[0] = width if width > height else height
    sides[1], sides[2] = sides[0] * ratio, sides[0] * longest
    own, low, high = bits[0] >> 23, bits[1] >> 23, bits[2] >> 23
    slots = len(starts) - 1
    zero, nearly = np.float32(0), np.float32(ratio)
    # Its own level first, then the next below and above, and so on: equals drop most boxes.
    turns = own - low if own - low > high - own else high - own
    for turn in range(2 * turns + 1):
        level = own + (turn + 1) // 2 if turn % 2 else own - turn // 2
        if level < low or level > high or levels[level, _BOXES] == 0:
            continue
        scale = _PER_PIXEL[level]
        far_x, far_y = reach * (width + 1 / scale), reach * (height + 1 / scale)
        far_x, far_y = widest if widest < far_x else far_x, tallest if tallest < far_y else far_y
        slot, columns, first_y, last_y = 0, slots, 0, 0
        small = (2 * far_x * scale + 2) * (2 * far_y * scale + 2) < slots
        if small:  # otherwise all slots are fewer than its cells
            first_x = math.floor((across - far_x) * scale)
            columns = math.floor((across + far_x) * scale) - first_x + 1
            first_y, last_y = math.floor((down - far_y) * scale), math.floor((down + far_y) * scale)
        for row in range(first_y, last_y + 1):
            if small:
                slot = (level * 0x85EBCA77 + row * levels[level, _CELLS_A_ROW] + first_x) & (slots - 1)
            left = columns
            while left > 0:  # twice where the row goes on at the table's other end
                stop = slot + left if slot + left < slots else slots
                for k in range(starts[slot], starts[stop]):
                    kx1, ky1, kx2, ky2 = near[k, 0], near[k, 1], near[k, 2], near[k, 3]
                    shared = max(zero, min(kx2, x2) - max(kx1, x1)) * max(zero, min(ky2, y2) - max(ky1, y1))
                    union = (kx2 - kx1) * (ky2 - ky1) + area - shared
                    # First one question that nearly always has the same answer, and no division.
                    if shared > nearly * union and ids[k, _RANK] < rank:
                        iou = shared / union
                        if distance is not None:
                            iou -= box_distance(x1, y1, x2, y2, kx1, ky1, kx2, ky2)
                        if iou > threshold:
                            verdict = judged[ids[k, _RANK]]
                            if verdict == 0:
                                return k
                            if verdict == _KEEP:
                                return _DROP
                left -= stop - slot
                slot = 0
    return _KEEP
