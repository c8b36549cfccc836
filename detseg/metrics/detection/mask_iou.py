"""IoU of run-length masks, for detections and objects of the same class and image.

The compressed run lengths are unpacked image by image into the borders of their runs, counted down the
columns: foreground lies between borders 0 and 1, 2 and 3, and so on. Areas and overlaps are whole numbers, so
the IoU is pycocotools' own to the last digit. Most pairs never meet: their areas and extents already show that
the IoU stays below what is asked for.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.kernels import compiled, helper, shares
from detseg.metrics.detection.inputs import Found, Truth
from detseg.metrics.detection.layout import Layout
from detseg.metrics.detection.loops import Pairs, collect_pairs
from detseg.metrics.detection.records import positions
from detseg.metrics.detection.run_lengths import joined

Wholes = NDArray[np.int64]
# Detections that are worth a thread.
_SHARE = 20_000


class _Side(NamedTuple):
    """D detections or objects, sorted by class and image."""

    start: Wholes  # (K + 1,) class k owns start[k]:start[k + 1]
    images: NDArray[np.int32]  # (D,)
    sources: NDArray[np.int32]  # (D,) which mask
    texts: NDArray[np.uint8]  # of all masks
    text_begin: Wholes  # where each mask begins in it, and ends
    text_end: Wholes


def find_mask_pairs(truth: Truth, found: Found, layout: Layout, lowest: float) -> Pairs:
    """`matching.find_pairs` of masks; raises ValueError where the run lengths of one are damaged."""
    assert truth.masks is not None and found.masks is not None
    sizes = np.array(truth.sizes, dtype=np.int64)[layout.by_id].reshape(-1, 2)
    sources = layout.source[layout.places]
    texts, object_texts = joined(found.masks), joined(truth.masks)
    _check("detection", texts, found.image_ids, truth)
    _check("object of the ground truth", object_texts, truth.object_images, truth)
    sides = (
        _Side(layout.label_start, layout.image_positions[layout.places], sources, *texts),
        _Side(layout.object_start, layout.object_positions, layout.objects, *object_texts),
    )
    options = truth.iscrowd[layout.objects], *np.ascontiguousarray(sizes.T), lowest
    bounds = _shares(layout.label_start)
    with ThreadPoolExecutor(len(bounds)) as threads:
        return _in_one(list(threads.map(lambda labels: _pairs_of(sides, options, *labels), bounds)))


def _check(what: str, masks: tuple[NDArray[np.uint8], Wholes, Wholes], images: Wholes, truth: Truth) -> None:
    """Raise ValueError at the first mask, one without a rival too, whose run lengths are not those of its image."""
    texts, begin, end = masks
    pixels = np.array(truth.sizes, np.int64).reshape(-1, 2).prod(1)[positions(images, truth.image_ids)]
    longest = int((end - begin).max(initial=0))

    def damaged(first: int, last: int) -> int:
        own = slice(first, last)
        bad = int(_first_damaged(texts, begin[own], end[own], pixels[own], np.empty(longest, np.int64)))
        return len(begin) if bad < 0 else first + bad

    cuts = np.linspace(0, len(begin), shares(len(begin), _SHARE) + 1).astype(int).tolist()
    with ThreadPoolExecutor(len(cuts) - 1) as threads:
        bad = min(threads.map(damaged, cuts, cuts[1:]))
    if bad < len(begin):
        raise ValueError(
            f"image {images[bad]}: {what} {bad} (counted from 0): the run lengths of its mask are damaged: they do not "
            "fill the image, or not stay inside; write the mask again with pycocotools.mask.encode"
        )


def _shares(label_start: Wholes) -> list[tuple[int, int]]:
    """The first class and that after the last of each core's share: about as many detections each."""
    count = shares(int(label_start[-1]), _SHARE)
    cuts = np.searchsorted(label_start, np.arange(1, count) * label_start[-1] // count)
    return list(pairwise(sorted({0, *cuts.tolist(), len(label_start) - 1})))


def _pairs_of(sides: tuple[_Side, _Side], options: tuple[Any, ...], first: int, last: int) -> Pairs:
    """The pairs of the classes from `first` to before `last`."""
    begins = [int(side.start[first]) for side in sides]
    found, real = (
        side._replace(
            start=side.start[first : last + 1] - begin, images=side.images[begin:], sources=side.sources[begin:]
        )
        for side, begin in zip(sides, begins, strict=True)
    )
    crowd, heights, widths, lowest = options
    count, objects = int(found.start[-1]), int(real.start[-1])
    mine = real.sources[:objects]
    room = (  # for what is unpacked, of one detection and of the objects of one image and class
        np.empty(int((found.text_end - found.text_begin).max(initial=0)), np.int64),  # never more than characters
        np.empty(int((real.text_end[mine] - real.text_begin[mine]).sum()), np.int64),
        np.zeros(objects + 1, np.int64),  # where the borders of each object start
        np.empty((1, 5), np.int64),  # extents, see `measure`
        np.empty((objects, 5), np.int64),
    )
    fill = partial(_mask_pairs, found, real, crowd[begins[1] :], heights, widths, lowest, room)
    start, partners, ious = collect_pairs(count, fill)
    return start, partners + np.int32(begins[1]), ious


def _in_one(parts: Sequence[Pairs]) -> Pairs:
    """The pairs of consecutive detections, one after the other."""
    before = np.cumsum([0, *(int(start[-1]) for start, *_ in parts)])
    starts = [start[1:] + offset for (start, *_), offset in zip(parts, before, strict=False)]
    objects, ious = (np.concatenate([part[side] for part in parts]) for side in (1, 2))
    return np.concatenate([np.zeros(1, np.int64), *starts]), objects, ious


@compiled
def _first_damaged(texts, begins, ends, pixels, borders):
    """The first mask whose run lengths do not fill its pixels, or -1; `borders` have room for those of any."""
    for i in range(len(begins)):
        if unpack(texts, begins[i], ends[i], pixels[i], borders, np.int64(0)) < 0:
            return i
    return -1


@compiled
def _mask_pairs(found, real, crowd, heights, widths, lowest, room, done, pair_start, objects, ious):
    """`fill` of `loops.collect_pairs`."""
    borders, object_borders, border_start, extent, object_extents = room
    zero = np.int64(0)  # a plain 0 is a type of its own to the compiler, for which it would compile all again
    for label in range(len(found.start) - 1):
        first = real.start[label]
        unpacked = first  # objects before this one have their borders ready
        last = real.start[label + 1]
        for d in range(found.start[label], found.start[label + 1]):
            if d < done:
                continue
            image = found.images[d]
            while first < last and real.images[first] < image:
                first += 1
            pairs = pair_start[d]
            pair_start[d + 1] = pairs
            if first == last or real.images[first] != image:
                continue
            height = heights[image]
            pixels = height * widths[image]
            if unpacked <= first:
                unpacked = first
                border_start[first] = 0
                while unpacked < last and real.images[unpacked] == image:
                    begin, source = border_start[unpacked], real.sources[unpacked]
                    text, end = real.text_begin[source], real.text_end[source]
                    runs = unpack(real.texts, text, end, pixels, object_borders, begin)
                    border_start[unpacked + 1] = begin + runs
                    measure(object_borders, begin, begin + runs, height, object_extents, unpacked)
                    unpacked += 1
            text, end = found.text_begin[found.sources[d]], found.text_end[found.sources[d]]
            runs = unpack(found.texts, text, end, pixels, borders, zero)
            measure(borders, zero, runs, height, extent, zero)
            for g in range(first, unpacked):
                most = _most_overlap(extent, zero, object_extents, g)
                area, object_area = extent[0, 0], object_extents[g, 0]
                if _ratio(most, area, object_area, crowd[g]) < lowest:
                    continue
                begin, stop = border_start[g], border_start[g + 1]
                overlap = _overlap(borders, runs, object_borders, begin, stop)
                iou = _ratio(overlap, area, object_area, crowd[g])
                if iou >= lowest:
                    if pairs == len(objects):
                        return d
                    objects[pairs] = g
                    ious[pairs] = iou
                    pairs += 1
            pair_start[d + 1] = pairs
    return len(found.images)


@helper
def unpack(texts, text, end, pixels, borders, begin):
    """Write the borders of the runs in texts[text:end] (see `run_lengths.py`) from `begin` on; how many, or -1."""
    count, border, before, last = 0, 0, 0, 0
    while text < end:
        value = 0
        shift, more = 0, True
        while more:
            if text == end or shift > 50:
                return -1
            bits = np.int64(texts[text]) - 48
            value |= (bits & 31) << shift
            shift += 5
            text += 1
            more = bits & 32 != 0
            if not more and bits & 16:
                value |= -1 << shift
        if count > 2:
            value += before
        border += value
        if value < 0 or border > pixels:
            return -1
        borders[begin + count] = border
        count += 1
        before, last = last, value
    return count if border == pixels else -1


@helper
def measure(borders, begin, end, height, extents, row):
    """Write area, first and last column, first and last line (inclusive) of a mask to `extents[row]`."""
    area, left, right, top, bottom = 0, 0, -1, height, -1
    for i in range(begin, end - 1, 2):
        start, stop = borders[i], borders[i + 1]
        if stop == start:
            continue
        # Divisions take the most time; only the first and the last run need columns.
        column = start // height
        if area == 0:
            left = column
        right = column
        area += stop - start
        low = start - column * height
        high = low + (stop - start) - 1
        if high >= height:  # it goes on in the next column, from one border of the image to the other
            low, high = 0, height - 1
            right = (stop - 1) // height
        top, bottom = min(top, low), max(bottom, high)
    extents[row, 0], extents[row, 1], extents[row, 2] = area, left, right
    extents[row, 3], extents[row, 4] = top, bottom


@helper
def _most_overlap(a, i, b, j):
    """Pixels that two masks can share at most, by their areas and extents."""
    width = min(a[i, 2], b[j, 2]) - max(a[i, 1], b[j, 1]) + 1
    height = min(a[i, 4], b[j, 4]) - max(a[i, 3], b[j, 3]) + 1
    if width <= 0 or height <= 0:
        return 0
    return min(width * height, min(a[i, 0], b[j, 0]))


@helper
def _ratio(overlap, area, object_area, crowd):
    """IoU, or for a crowd region the part of the detection inside it; 0 without overlap."""
    if overlap == 0:
        return 0.0
    return overlap / (area if crowd else area + object_area - overlap)


@helper
def _overlap(a, runs, b, j, end):
    """Pixels that a[:runs] and b[j:end], the borders of two masks, share."""
    i, shared = 0, 0
    while i + 1 < runs and j + 1 < end:
        start, stop = max(a[i], b[j]), min(a[i + 1], b[j + 1])
        if stop > start:
            shared += stop - start
        if a[i + 1] < b[j + 1]:
            i += 2
        else:
            j += 2
    return shared
