"""Compiled loops that lay masks into an image and code them; import them only where used, because they load numba."""

import numpy as np

from detseg.kernels import compiled, helper


@compiled
def draw_window(mask, region, window, threshold, columns):
    """Write to `columns` (width, height) bool where a mask is above the threshold in a window of the image.

    Args:
        mask: (h, w) float32, bilinear between the centres of its cells and 0 beyond its border.
        region: (4,) float64 xyxy, what it lies over.
        window: (4,) int64 xyxy, whole pixels; as wide and high as `columns`.
    """
    height, width = mask.shape
    rows, row_parts = _places(window[1], window[3], region[1], region[3], height)
    cells, cell_parts = _places(window[0], window[2], region[0], region[2], width)
    line = np.zeros(height + 3)  # the mask along a column of pixels: 0, its h cells, 0, 0
    for x in range(len(cells)):
        left, part = cells[x], cell_parts[x]
        for row in range(rows[0], min(rows[-1] + 2, height + 1)):
            if row > 0:
                before = mask[row - 1, left - 1] if 0 < left <= width else np.float32(0)
                after = mask[row - 1, left] if left < width else np.float32(0)
                line[row] = before + part * (np.float64(after) - before)
        for y in range(len(rows)):
            above = line[rows[y]]
            columns[x, y] = above + row_parts[y] * (line[rows[y] + 1] - above) > threshold


@helper
def _places(first, last, low, high, count):
    """Where the centres of pixels `first` to `last` - 1 lie among `count` cells between `low` and `high`.

    The number i of the cell, from 1, whose centre is before that of the pixel, and how far between the centres of i and
    i + 1. Cells 0 and `count` + 1 are beyond the border.
    """
    step = max(high - low, 1e-6) / count
    cells, parts = np.empty(last - first, np.int64), np.empty(last - first)
    for i in range(last - first):
        place = min(max((first + i + 0.5 - low) / step + 0.5, 0.0), count + 1.0)
        cells[i] = np.int64(place)
        parts[i] = place - cells[i]
    return cells, parts


@compiled
def write_runs(columns, left, top, height, pixels, text):
    """Code a mask that is empty but for a window as COCO's compressed run lengths; how many characters of `text`.

    Args:
        columns: (width, height) bool, the window.
        left, top: where it begins in the image.
        height, pixels: of the image.
        text: uint8, room for seven characters a run, of which there are `columns.size` + width + 1 at most.
    """
    end, runs = 0, 0
    border, last, before = 0, 0, 0  # where the current run began, and the lengths of the last two
    inside = False
    for x in range(columns.shape[0]):
        for y in range(columns.shape[1]):
            if columns[x, y] == inside:
                continue
            place = (left + x) * height + top + y
            end = _write(place - border, before if runs > 2 else 0, text, end)
            before, last, border = last, place - border, place
            inside, runs = not inside, runs + 1
        # In a window as high as the image a run may go on in the next column.
        if inside and (columns.shape[1] < height or x + 1 == columns.shape[0]):
            place = (left + x) * height + top + columns.shape[1]
            end = _write(place - border, before if runs > 2 else 0, text, end)
            before, last, border = last, place - border, place
            inside, runs = False, runs + 1
    if border < pixels or runs == 0:
        end = _write(pixels - border, before if runs > 2 else 0, text, end)
    return end


@helper
def _write(length, before, text, end):
    """Write a run's difference from the run before the last, see `detseg.metrics.detection.run_lengths`."""
    value = length - before
    more = True
    while more:
        bits = value & 31
        value >>= 5
        more = value != (-1 if bits & 16 else 0)
        text[end] = bits + (80 if more else 48)
        end += 1
    return end
