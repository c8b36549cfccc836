"""Non-max suppression on large canvases, compiled by numba: each box is compared with those near it.

Two boxes with IoU > t have sides within a factor of t of each other, and centres within (1 - t) / (1 + t) of the mean
of their sides, in x and in y. So a box lies in one cell, by its centre, of the grid of its level: the power of two
above its longer side, which is also the cells' width. What may drop it lies in a few cells of a few levels. Cells of
all levels share one table; boxes that are in one slot by chance are only one comparison more.

Boxes are copied in the order of the slots and judged in that order too: what is looked at lies side by side in
memory, however many boxes there are. In each slot the best comes first, and those that are kept are moved together, so
that dropped ones are not looked at again. A box that a better one would drop can be judged once that one has been; if
it has not, its slot goes first, up to it. Such a chain never comes back to the same box, for each one in it is better
than the one before.
"""

import math

import numba
import numpy as np

from detseg.detect.nms.dense import box_distance, compiled
from detseg.kernels import njit

# Below this area float32 loses digits, and IoU may come out above what sizes and distances allow.
SMALLEST_SOUND_AREA = 1e-30
# A level for each exponent that float32 can have, and its cells in a pixel: bits 127 stand for sides in [1, 2).
LEVELS = 256
_PER_PIXEL = np.ldexp(1.0, 126 - np.arange(LEVELS))
# Columns. Of the table: where a slot's kept boxes start, where they end, and where those not yet judged do.
_START, _KEPT, _PENDING, _END = 0, 1, 2, 3
_BOXES, _CELLS_A_ROW = 0, 1  # of the levels
_RANK, _SLOT = 4, 5  # of the ids
_KEEP, _DROP = -1, -2

# Called for every pair of neighbours, so a call would cost as much as what it does.
part_of_caller = {"forceinline": True, "error_model": "numpy"}


@njit(**compiled)
def suppress_nearby(
    boxes, order, canvas, threshold, distance, table, levels, sides, bits, near, ids, slots, keeps, kept
):
    """What `suppress_densely` does for one group, without a limit; returns how many are kept.

    Args:
        boxes: (M, 4) xyxy, none with an area below `SMALLEST_SOUND_AREA` other than 0.
        order: (N,) indices of the boxes to look at, best first.
        canvas: left, top and right end of all of them.
        threshold, distance: as in `suppress_densely`.
        table: (S, 4) int32 zeros, S a power of two.
        levels: (LEVELS, 2) int64 zeros.
        sides, bits: (3,) float32 and the same memory as int32, in which exponents are read; room to work in.
        near, ids: (N, 6) float32 and the same memory as int32: corners, rank and slot of each box, sorted by slot.
        slots: (M,) int32, room to work in.
        keeps: (N,) bool, False.
        kept: (N,) int64 gets the result.
    """
    count = _fill(boxes, order, canvas, table, levels, sides, bits, near, ids, slots, keeps)
    stack = slots
    for place in range(count):
        stack[0] = place
        depth = 1
        while depth > 0:
            goal = stack[depth - 1]
            slot = ids[goal, _SLOT]
            at = table[slot, _PENDING]
            if at > goal:
                depth -= 1
                continue
            verdict = _judge(at, canvas, table, levels, sides, bits, near, ids, threshold, distance)
            if verdict >= 0:
                stack[depth] = verdict
                depth += 1
                continue
            table[slot, _PENDING] = at + 1
            if verdict == _KEEP:
                keeps[ids[at, _RANK]] = True
                to = table[slot, _KEPT]
                table[slot, _KEPT] = to + 1
                ids[to, _RANK] = ids[at, _RANK]
                for side in range(4):
                    near[to, side] = near[at, side]
    found = 0
    for rank in range(len(order)):
        if keeps[rank]:
            kept[found] = order[rank]
            found += 1
    return found


@njit(**compiled)
def _fill(boxes, order, canvas, table, levels, sides, bits, near, ids, slots, keeps):
    """Sort boxes into the slots of the table, in each best first; returns how many.

    Boxes without area stay outside: they are kept and drop nothing.
    """
    mask = len(table) - 1
    # All boxes are taken as they lie in memory, which is several times faster than best first.
    all_boxes = len(order) == len(boxes)
    for j in range(len(order)):
        i = j if all_boxes else order[j]
        width, height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        if not width * height > 0:
            slots[i] = -1
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
        slots[i] = slot
        table[slot, _END] += 1
    count = 0
    for slot in range(mask + 1):
        here = table[slot, _END]
        table[slot, _START] = table[slot, _KEPT] = table[slot, _PENDING] = table[slot, _END] = count
        count += here
    for rank in range(len(order)):
        i = order[rank]
        slot = slots[i]
        if slot < 0:
            keeps[rank] = True
            continue
        at = table[slot, _END]
        table[slot, _END] = at + 1
        ids[at, _RANK], ids[at, _SLOT] = rank, slot
        for side in range(4):
            near[at, side] = boxes[i, side]
    return count


@numba.njit(**part_of_caller)
def _judge(at, canvas, table, levels, sides, bits, near, ids, threshold, distance):
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
    mask, waiting = len(table) - 1, _KEEP
    nearly = np.float32(ratio)
    # Its own level first, then the next below and above, and so on: equals drop most boxes.
    turns = own - low if own - low > high - own else high - own
    for turn in range(2 * turns + 1):
        level = own + (turn + 1) // 2 if turn % 2 else own - turn // 2
        if level < low or level > high or levels[level, _BOXES] == 0:
            continue
        scale = _PER_PIXEL[level]
        far_x, far_y = reach * (width + 1 / scale), reach * (height + 1 / scale)
        far_x, far_y = widest if widest < far_x else far_x, tallest if tallest < far_y else far_y
        first_x, last_x, first_y, last_y = 0, mask, 0, 0  # all slots, where they are fewer than its cells
        if (2 * far_x * scale + 2) * (2 * far_y * scale + 2) < mask:
            first_x, last_x = math.floor((across - far_x) * scale), math.floor((across + far_x) * scale)
            first_y, last_y = math.floor((down - far_y) * scale), math.floor((down + far_y) * scale)
        for row in range(first_y, last_y + 1):
            line = level * 0x85EBCA77 + row * levels[level, _CELLS_A_ROW]
            for column in range(first_x, last_x + 1):
                slot = (line + column) & mask
                start, end = table[slot, _START], table[slot, _KEPT]
                if (
                    start < end
                    and _better_one(near, ids, start, end, x1, y1, x2, y2, area, rank, threshold, nearly, distance) >= 0
                ):
                    return _DROP
                start, end = table[slot, _PENDING], table[slot, _END]
                if start < end and waiting == _KEEP:
                    waiting = _better_one(
                        near, ids, start, end, x1, y1, x2, y2, area, rank, threshold, nearly, distance
                    )
    return waiting


@numba.njit(**part_of_caller)
def _better_one(near, ids, start, end, x1, y1, x2, y2, area, rank, threshold, nearly, distance):
    """The first of the places from `start` to `end`, best first, whose box drops the one that is given; or -1."""
    zero = np.float32(0)
    for k in range(start, end):
        if ids[k, _RANK] >= rank:
            break
        kx1, ky1, kx2, ky2 = near[k, 0], near[k, 1], near[k, 2], near[k, 3]
        shared = max(zero, min(kx2, x2) - max(kx1, x1)) * max(zero, min(ky2, y2) - max(ky1, y1))
        union = (kx2 - kx1) * (ky2 - ky1) + area - shared
        # First one question that nearly always has the same answer, and no division.
        if shared > nearly * union:
            iou = shared / union
            if distance is not None:
                iou -= box_distance(x1, y1, x2, y2, kx1, ky1, kx2, ky2)
            if iou > threshold:
                return k
    return -1
