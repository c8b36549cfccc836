"""Hard suppression on large canvases, compiled by numba: each box is compared with those near it.

Two boxes with IoU > t have sides within a factor of t of each other, and centres within (1 - t) / (1 + t) of the mean
of their sides, in x and in y. So a box lies in one cell, by its centre, of the grid of its level: the power of two
above its longer side, which is also the cells' width. What may drop it lies in a few cells of a few levels. Cells of
all levels share one table; boxes that are in one slot by chance are only one comparison more.

Boxes are copied and judged slot by slot, so that what is looked at lies side by side in memory. In each slot the best
comes first, and those that are kept are moved together. A box that a better one would drop is judged after that one,
whose slot goes first, up to it. Such a chain never comes back to the same box, for each one in it is better.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.detect.nms.checks import Order, Rule
from detseg.detect.nms.dense import Box, box_distance
from detseg.kernels import compiled, inlined, shared_area

# Below this area float32 loses digits, and IoU may come out above what sizes and distances allow.
SMALLEST_SOUND_AREA = 1e-30
# A level for each exponent that float32 can have, and its cells in a pixel: bits 127 stand for sides in [1, 2). In the
# last one are sides of float64 that float32 does not hold, all in one cell.
_LEVELS = 256
_PER_PIXEL = np.ldexp(1.0, 126 - np.arange(_LEVELS)) * (np.arange(_LEVELS) < _LEVELS - 1)
# A place less the left end is rounded by less than this share of the two.
_ROUNDING = 2.0**-50
# Looking into a cell takes about as long as this many comparisons of the dense way.
_CELL = 8
# Columns. Of the table: where a slot's kept boxes start, where they end, and where those not yet judged do.
_START, _KEPT, _PENDING, _END = 0, 1, 2, 3
_BOXES, _CELLS_A_ROW = 0, 1  # of the levels
_RANK, _SLOT = 4, 5  # of the ids
_KEEP, _DROP = -1, -2


class Index(NamedTuple):
    """The boxes in their cells, and room to work in."""

    canvas: tuple[float, float, float]  # left, top and right end of all boxes
    table: NDArray[np.int32]  # (S, 4), S a power of two
    levels: NDArray[np.int64]  # (_LEVELS, 2)
    near: NDArray[np.floating[Any]]  # (N, 6) corners, rank and slot of each box, sorted by slot;
    ids: NDArray[np.signedinteger[Any]]  # the last two through this, the same memory


def suppress_nearby(
    boxes: NDArray[np.floating[Any]], order: Order, canvas: tuple[float, float, float], rule: Rule
) -> Order | None:
    """Kept ones of the boxes (M, 4) xyxy that `order` (N,) names best first; no area below `SMALLEST_SOUND_AREA` but 0.

    None where the dense way is faster: under low thresholds, large boxes would look for small ones in too many cells.
    """
    count = len(order)
    slots = 1 << max(6, (count - 1).bit_length())
    table, levels = np.zeros((slots, 4), np.int32), np.zeros((_LEVELS, 2), np.int64)
    near, places = np.empty((count, 6), boxes.dtype), np.empty(len(boxes), np.int32)
    index = Index(canvas, table, levels, near, near.view(np.int32 if boxes.itemsize == 4 else np.int64))
    keeps = np.zeros(count, bool)
    done = _suppress(boxes, order, index, rule.threshold, rule.distance, places, keeps)
    return order[keeps] if done else None


@compiled
def _suppress(boxes, order, index, threshold, distance, places, keeps):
    """Set `keeps` (N,), which holds False, where `order` is kept; `places` (M,) is room to work in.

    Returns whether that was worth it, see `suppress_nearby`.
    """
    canvas, table, levels, near, ids = index
    count = _fill(boxes, order, index, places, keeps)
    if _cells(levels, len(table), float(threshold)) * _CELL > 0.5 * float(count) * float(count):
        return False
    stack = places
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
            verdict = _judge(at, canvas, table, levels, near, ids, threshold, distance)
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
    return True


@compiled
def _cells(levels, slots, threshold):
    """About how many cells all boxes look into at most, were each as large as its level allows."""
    ratio = threshold * (1 - 1e-5)
    reach = 0.5 * (1 - ratio) / (1 + ratio)
    total = 0.0
    for own in range(_LEVELS):
        if levels[own, _BOXES] == 0:
            continue
        for other in range(_LEVELS):
            apart = math.ldexp(1.0, -abs(own - other))  # of the longer sides
            if levels[other, _BOXES] > 0 and 2 * apart > ratio:
                across = 2 * reach * (1 + math.ldexp(1.0, own - other)) + 1
                total += levels[own, _BOXES] * min(float(slots), across * across)
    return total


@compiled
def _fill(boxes, order, index, slots, keeps):
    """Sort boxes into the slots of the table, in each best first, but those without area: they are kept, drop nothing.

    Returns how many boxes are in slots.
    """
    canvas, table, levels, near, ids = index
    mask = len(table) - 1
    # All boxes are taken as they lie in memory, which is several times faster than best first.
    all_boxes = len(order) == len(boxes)
    for j in range(len(order)):
        i = j if all_boxes else order[j]
        width, height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        if not width * height > 0:
            slots[i] = -1
            continue
        level = _level(max(width, height))
        scale = _PER_PIXEL[level]
        if levels[level, _BOXES] == 0:
            levels[level, _CELLS_A_ROW] = np.int64((canvas[2] - canvas[0]) * scale) + 1
        levels[level, _BOXES] += 1
        column = np.int64((_middle(boxes[i, 0], boxes[i, 2]) - canvas[0]) * scale)
        row = np.int64((_middle(boxes[i, 1], boxes[i, 3]) - canvas[1]) * scale)
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


@inlined
def _level(side):
    """The exponent in the bits of a float32."""
    return np.int64(np.float32(side).view(np.int32) >> 23)


@inlined
def _middle(low, high):
    """In float64, which `float` of a float32 would not be: numba leaves it as it is."""
    return 0.5 * (np.float64(low) + np.float64(high))


# The arrays one by one, for taking them out of a tuple costs two atomic operations each: too much for every box.
@inlined
def _judge(at, canvas, table, levels, near, ids, threshold, distance):
    """_KEEP or _DROP for box `at` of `near`, or the place of another one that has to be judged before."""
    x1, y1, x2, y2, rank = near[at, 0], near[at, 1], near[at, 2], near[at, 3], ids[at, _RANK]
    width, height = x2 - x1, y2 - y1
    box = Box(x1, y1, x2, y2, width * height)
    across, down = _middle(x1, x2) - canvas[0], _middle(y1, y2) - canvas[1]
    ratio = float(threshold) * (1 - 1e-5)  # a little more than the rule says, for float32 rounds
    reach = 0.5 * (1 - ratio) / (1 + ratio)
    longest = 1 / ratio if ratio > 0 else np.inf
    widest, tallest = reach * width * (1 + longest), reach * height * (1 + longest)
    side = max(width, height)
    own, low, high = _level(side), _level(side * ratio), _level(side * longest)
    mask, waiting = len(table) - 1, _KEEP
    nearly = type(threshold)(ratio)
    doubt_x, doubt_y = (abs(canvas[0]) + across) * _ROUNDING, (abs(canvas[1]) + down) * _ROUNDING
    # Its own level first, then the next below and above, and so on: equals drop most boxes.
    turns = own - low if own - low > high - own else high - own
    for turn in range(2 * turns + 1):
        level = own + (turn + 1) // 2 if turn % 2 else own - turn // 2
        if level < low or level > high or levels[level, _BOXES] == 0:
            continue
        scale = _PER_PIXEL[level]
        far_x, far_y = reach * (width + 1 / scale), reach * (height + 1 / scale)
        far_x, far_y = widest if widest < far_x else far_x, tallest if tallest < far_y else far_y
        far_x, far_y = far_x + doubt_x, far_y + doubt_y
        first_x, last_x, first_y, last_y = 0, mask, 0, 0  # all slots, where they are fewer than its cells
        told = doubt_x * scale < 1 and doubt_y * scale < 1  # or cells mean nothing, nor do their numbers fit
        if told and (2 * far_x * scale + 2) * (2 * far_y * scale + 2) < mask:
            first_x, last_x = math.floor((across - far_x) * scale), math.floor((across + far_x) * scale)
            first_y, last_y = math.floor((down - far_y) * scale), math.floor((down + far_y) * scale)
        for row in range(first_y, last_y + 1):
            line = level * 0x85EBCA77 + row * levels[level, _CELLS_A_ROW]
            for column in range(first_x, last_x + 1):
                slot = (line + column) & mask
                start, end = table[slot, _START], table[slot, _KEPT]
                if start < end and _better_one(near, ids, start, end, box, rank, threshold, nearly, distance) >= 0:
                    return _DROP
                start, end = table[slot, _PENDING], table[slot, _END]
                if start < end and waiting == _KEEP:
                    waiting = _better_one(near, ids, start, end, box, rank, threshold, nearly, distance)
    return waiting


@inlined
def _better_one(near, ids, start, end, box, rank, threshold, nearly, distance):
    """The first of the places from `start` to `end`, best first, whose box drops the one that is given; or -1."""
    for k in range(start, end):
        if ids[k, _RANK] >= rank:
            break
        x1, y1, x2, y2 = near[k, 0], near[k, 1], near[k, 2], near[k, 3]
        shared = shared_area(x1, y1, x2, y2, box.x1, box.y1, box.x2, box.y2)
        union = (x2 - x1) * (y2 - y1) + box.area - shared
        # First one question that nearly always has the same answer, and no division.
        if shared > nearly * union:
            iou = shared / union
            if distance is not None:
                iou -= box_distance(box.x1, box.y1, box.x2, box.y2, x1, y1, x2, y2)
            if iou > threshold:
                return k
    return -1
