"""Boundary IoU of instance masks (Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation",
CVPR 2021, arXiv:2103.16562).

The boundary of a mask are its pixels that have a pixel outside of it, or outside the image, at most d pixels away (see
`detseg.metrics.segmentation.boundary`). As in the authors' program two objects overlap by the smaller one of two IoUs,
of their masks and of their boundaries; for a crowd region that of the masks alone counts.

Boundaries are found and kept as run lengths, column by column, and only those of masks that overlap enough.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.kernels import compiled, helper
from detseg.metrics.detection.inputs import Found, Truth
from detseg.metrics.detection.layout import Layout
from detseg.metrics.detection.loops import Pairs
from detseg.metrics.detection.mask_iou import find_mask_pairs, measure, unpack
from detseg.metrics.detection.records import Rle
from detseg.metrics.detection.run_lengths import joined
from detseg.metrics.segmentation.boundary import boundary_distance


def find_boundary_pairs(truth: Truth, found: Found, layout: Layout, lowest: float) -> Pairs:
    """`matching.find_pairs` of masks and their boundaries; raises ValueError where run lengths are damaged."""
    assert truth.masks is not None and found.masks is not None
    start, objects, ious = find_mask_pairs(truth, found, layout, lowest)
    detections = np.repeat(np.arange(len(start) - 1), np.diff(start))
    edges = find_mask_pairs(
        replace(truth, masks=_boundaries(truth.masks, layout.objects[objects])),
        replace(found, masks=_boundaries(found.masks, layout.source[layout.places[detections]])),
        layout,
        lowest,
    )
    edge_detections = np.repeat(np.arange(len(start) - 1), np.diff(edges[0]))
    keys, edge_keys = (d * len(layout.objects) + g for d, g in ((detections, objects), (edge_detections, edges[1])))
    _, both, at = np.intersect1d(keys, edge_keys, assume_unique=True, return_indices=True)
    crowd = truth.iscrowd[layout.objects[objects]]
    kept, ious = crowd.copy(), ious.copy()
    kept[both] = True
    ious[both] = np.where(crowd[both], ious[both], np.minimum(ious[both], edges[2][at]))
    counts = np.bincount(detections[kept], minlength=len(start) - 1)
    return np.concatenate([[0], np.cumsum(counts)]), objects[kept], ious[kept]


def mask_boundary(mask: Rle) -> Rle:
    """The boundary of a mask, as compressed run lengths of its size."""
    from pycocotools import mask as coco_mask

    height, width = (int(side) for side in mask["size"])
    text = joined([mask])[0]
    room = np.empty(len(text), np.int64), np.empty(height, np.int64), np.empty((1, 5), np.int64)
    written = np.empty(4 * len(text) + 16, np.int64)
    while (runs := _write_boundary(text, height, width, boundary_distance(height, width), room, written)) < 0:
        written = np.empty(2 * len(written), np.int64)
    return dict(coco_mask.frPyObjects({"size": [height, width], "counts": written[:runs].tolist()}, height, width))


@cache
def _nothing(height: int, width: int) -> Rle:
    """A mask without any pixel."""
    from pycocotools import mask as coco_mask

    return dict(coco_mask.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width))


def _boundaries(masks: Sequence[Rle], wanted: NDArray[np.integer[Any]]) -> list[Rle]:
    """The boundaries of the masks (n,) that are wanted, and nothing of the others."""
    result = [_nothing(*mask["size"]) for mask in masks]
    for i in np.unique(wanted).tolist():
        result[i] = mask_boundary(masks[i])
    return result


@compiled
def _write_boundary(text, height, width, distance, room, written):
    """Write the boundary's runs, background first; how many, or -1 where there is no room for them.

    A pixel is no boundary if the 2 d + 1 pixels of its column around it are foreground, in its column and in d columns
    on each side. `broken` (height,) holds for each line the last column, of those looked at, where that is not so.
    """
    borders, broken, extent = room
    zero = np.int64(0)
    runs = _join_touching(borders, unpack(text, zero, len(text), height * width, borders, zero))
    measure(borders, zero, runs, height, extent, zero)
    left, right, top, bottom = extent[0, 1], extent[0, 2], extent[0, 3], extent[0, 4] + 1
    broken[top:bottom] = left - 1
    ahead, behind, count = zero, zero, zero  # two runs: of the column that is looked at, and of the one d before it
    for column in range(left, right + distance + 1):
        ahead = _look_at(borders, ahead, runs, column, height, distance, top, bottom, broken)
        done = column - distance
        behind, count = _write_column(borders, behind, runs, done, height, distance, broken, written, count)
        if count < 0:
            return count
    written[count] = height * width
    for i in range(count, 0, -1):
        written[i] -= written[i - 1]
    return count + 1


@helper
def _join_touching(borders, count):
    """Join runs of foreground with no background between them, in place; how many borders are left."""
    kept = 0
    for i in range(0, count - 1, 2):
        if borders[i] == borders[i + 1]:
            continue
        if kept and borders[kept - 1] == borders[i]:
            borders[kept - 1] = borders[i + 1]
        else:
            borders[kept], borders[kept + 1] = borders[i], borders[i + 1]
            kept += 2
    return kept


@helper
def _look_at(borders, run, runs, column, height, distance, top, bottom, broken):
    """Note the lines from top to bottom whose pixel in the column is less than d from its background; the next run."""
    row, first = top, column * height
    while run < runs and borders[run] < first + height:
        whole = max(borders[run] - first, 0) + distance
        end = min(borders[run + 1] - first, height) - distance
        if whole < end:
            broken[row:whole] = column
            row = end
        if borders[run + 1] > first + height:  # it goes on in the next column
            break
        run += 2
    broken[row:bottom] = column
    return run


@helper
def _write_column(borders, run, runs, column, height, distance, broken, written, count):
    """Write the borders of what is boundary in a column; the next run, and how many there are now (-1: no room)."""
    first = column * height
    while run < runs and borders[run] < first + height:
        for row in range(max(borders[run] - first, 0), min(borders[run + 1] - first, height)):
            if broken[row] < column - distance:
                continue
            place = first + row
            if count and written[count - 1] == place:
                written[count - 1] = place + 1
                continue
            if count + 2 >= len(written):  # one more is for what comes after
                return run, np.int64(-1)
            written[count], written[count + 1] = place, place + 1
            count += 2
        if borders[run + 1] > first + height:
            break
        run += 2
    return run, count
