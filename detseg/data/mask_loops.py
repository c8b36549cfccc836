"""Compiled loops over the pixels of instance masks: polygons filled, masks warped, the hulls of their outlines.

One call for all objects of an image, each in its own window: in OpenCV's and pycocotools' calls, one an object over the
whole image, 30 objects took six times as long as all else that is done to a training image. Import it where it is
needed: numba takes half a second to load.
"""

import math

import numpy as np

from detseg.kernels import compiled, helper, inlined

_FRACTION = 32  # bits behind the point: after 16 384 steps a coordinate is wrong by less than 1e-5 pixels


@inlined
def _fixed(value):
    """A coordinate as a whole number of parts of a pixel: those of a line of pixels are sums then, not products."""
    return np.int64(math.floor(value * (1 << _FRACTION)))


@inlined
def _first_pixel(position, pixels):
    """The first of so many pixels whose centre does not lie before a position; `pixels` if all do."""
    return min(max(math.ceil(position - 0.5), 0), pixels)


@compiled
def fill_polygons(masks, windows, owners, points, point_offsets, scale, marks):
    """Set `masks[owners[p]]` to 1 where a pixel's centre lies in polygon p, by the even-odd rule.

    Args:
        masks: (M, H, W) uint8.
        windows: (M, 4) xyxy, are made larger to hold what is drawn; before, xy is at the far corner and the rest 0.
        owners: (P,) of each polygon.
        points: (Q, 2) x, y; polygon p has `point_offsets[p]:point_offsets[p + 1]` of them, times `scale` (2,) pixels.
        marks: (H, W + 1) uint8 zeros, room to work in, and zeros again afterwards.
    """
    height, width = masks.shape[1:]
    for p in range(len(owners)):
        first, last = point_offsets[p], point_offsets[p + 1]
        top, bottom, left, right = height, 0, width, 0
        x1, y1 = points[last - 1, 0] * scale[0], points[last - 1, 1] * scale[1]
        for q in range(first, last):  # each edge marks, in each row it crosses, where inside and outside change
            x2, y2 = points[q, 0] * scale[0], points[q, 1] * scale[1]
            begin, end = _first_pixel(min(y1, y2), height), _first_pixel(max(y1, y2), height)
            for y in range(begin, end):
                x = _first_pixel(x1 + (y + 0.5 - y1) * (x2 - x1) / (y2 - y1), width)
                marks[y, x] ^= 1
                left, right = min(left, x), max(right, x)
            if begin < end:
                top, bottom = min(top, begin), max(bottom, end)
            x1, y1 = x2, y2
        mask, window = masks[owners[p]], windows[owners[p]]
        window[0], window[1] = min(window[0], left), min(window[1], top)
        window[2], window[3] = max(window[2], right), max(window[3], bottom)
        for y in range(top, bottom):
            inside = 0
            for x in range(left, right):
                inside ^= marks[y, x]
                mask[y, x] |= inside
                marks[y, x] = 0
            marks[y, right] = 0


@compiled
def warp(masks, rows, windows, matrix, warped, areas):
    """Set `warped[k]`, at each pixel, to `masks[rows[k]]` at the pixel that its centre comes from.

    Args:
        masks: (M, H, W) uint8.
        rows: (K,).
        windows: (M, 4) xyxy, outside of which a mask has nothing.
        matrix: (2, 3), of x' = matrix @ (x, y, 1).
        warped: (K, h, w) uint8 zeros.
        areas: (K,) int64, get the number of pixels that are set.
    """
    height, width = warped.shape[1:]
    grown = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    x_by_x, x_by_y = matrix[1, 1] / grown, -matrix[0, 1] / grown  # the way back
    y_by_x, y_by_y = -matrix[1, 0] / grown, matrix[0, 0] / grown
    step_x, step_y = _fixed(x_by_x), _fixed(y_by_x)
    for k in range(len(rows)):
        left, top, right, bottom = windows[rows[k]]
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        wide = (abs(matrix[0, 0]) * (right - left) + abs(matrix[0, 1]) * (bottom - top)) / 2
        high = (abs(matrix[1, 0]) * (right - left) + abs(matrix[1, 1]) * (bottom - top)) / 2
        across = matrix[0, 0] * middle_x + matrix[0, 1] * middle_y + matrix[0, 2]
        down = matrix[1, 0] * middle_x + matrix[1, 1] * middle_y + matrix[1, 2]
        first, last = _first_pixel(across - wide, width), _first_pixel(across + wide, width)
        mask, result, area = masks[rows[k]], warped[k], 0
        for y in range(_first_pixel(down - high, height), _first_pixel(down + high, height)):
            begin, end = first, last
            u, v = begin + 0.5 - matrix[0, 2], y + 0.5 - matrix[1, 2]
            from_x, from_y = _fixed(x_by_x * u + x_by_y * v), _fixed(y_by_x * u + y_by_y * v)
            last_x, last_y = from_x + step_x * (end - begin), from_y + step_y * (end - begin)
            # What comes from a window lies together: nothing before it, and nothing after it.
            while begin < end and not (left <= from_x >> _FRACTION < right and top <= from_y >> _FRACTION < bottom):
                begin, from_x, from_y = begin + 1, from_x + step_x, from_y + step_y
            while begin < end and not (
                left <= (last_x - step_x) >> _FRACTION < right and top <= (last_y - step_y) >> _FRACTION < bottom
            ):
                end, last_x, last_y = end - 1, last_x - step_x, last_y - step_y
            for x in range(begin, end):
                value = mask[from_y >> _FRACTION, from_x >> _FRACTION]
                result[y, x] = value
                area += value != 0
                from_x += step_x
                from_y += step_y
        areas[k] = area


@helper
def _ends(mask, y, left, right):
    """The first pixel of a row between two columns that is set, and the one after the last; alike if none is."""
    first, last = left, right
    while first < last and not mask[y, first]:
        first += 1
    while first < last and not mask[y, last - 1]:
        last -= 1
    return first, last


@compiled
def warp_hulls(masks, windows, boxes, linear, hulls):
    """Set `hulls[i]` to the box xyxy of mask i after a map, stretched to its own box before; leave those of empty ones.

    The box is finer than pixels, or has a margin: so without rotation the hull is exactly the warped box.

    Args:
        masks: (M, H, W) uint8.
        windows: (M, 4) xyxy, outside of which a mask has nothing.
        boxes: (M, 4) xyxy.
        linear: (2, 2), of x' = linear @ (x, y).
        hulls: (M, 4) float64.
    """
    for i in range(len(masks)):
        mask, left, right, top, bottom = masks[i], masks.shape[2], 0, masks.shape[1], 0
        for y in range(windows[i, 1], windows[i, 3]):
            first, last = _ends(mask, y, windows[i, 0], windows[i, 2])
            if first < last:
                left, right, top, bottom = min(left, first), max(right, last), min(top, y), y + 1
        if left >= right:
            continue
        wide, high = (boxes[i, 2] - boxes[i, 0]) / (right - left), (boxes[i, 3] - boxes[i, 1]) / (bottom - top)
        x1 = y1 = math.inf
        x2 = y2 = -math.inf
        for y in range(top, bottom):
            first, last = _ends(mask, y, left, right)
            if first == last:
                continue
            for column in (first, last):
                u = boxes[i, 0] + (column - left) * wide
                for edge in range(2):
                    v = boxes[i, 1] + (y + edge - top) * high
                    across, down = linear[0, 0] * u + linear[0, 1] * v, linear[1, 0] * u + linear[1, 1] * v
                    x1, x2, y1, y2 = min(x1, across), max(x2, across), min(y1, down), max(y2, down)
        hulls[i, 0], hulls[i, 1], hulls[i, 2], hulls[i, 3] = x1, y1, x2, y2
