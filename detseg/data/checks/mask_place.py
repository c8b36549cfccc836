"""The check that the mask of an object lies where its box is."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.checks.common_causes import ABSURD
from detseg.data.checks.problems import Problem

IOU = 0.5  # of the mask's box and the object's box
SLACK = 4.0  # pixels; small objects differ by rounding
LOOKED_AT = 20  # masks that are turned to see whether their runs go along rows


def mask_place_problems(a: Annotations) -> Iterator[Problem]:
    """One warning for all objects whose polygons or run lengths have a box far from the object's own."""
    if a.segments is None:
        return
    boxes, drawn = mask_boxes(a)
    usable = drawn & (np.abs(a.boxes) < ABSURD).all(axis=1) & (a.boxes[:, 2:] > a.boxes[:, :2]).all(axis=1)
    sizes = np.tile(a.sizes[a.image_index].astype(np.float64), 2)
    limits = np.where(sizes > 0, sizes, np.inf)  # polygons may go over the border
    boxes, own = (np.clip(both, 0, limits) for both in (boxes, a.boxes))
    with np.errstate(invalid="ignore"):
        far = usable & (np.abs(boxes - own).max(axis=1) > SLACK) & (_ious(boxes, own) < IOU)
    rows = np.flatnonzero(far)
    if not len(rows):
        return
    first = int(rows[0])
    found, expected = (", ".join(f"{value:.6g}" for value in both[first]) for both in (boxes, own))
    what = (
        f"the masks of {len(rows)} of {int(drawn.sum())} objects with masks lie elsewhere than their boxes; this one's "
        f"takes ({found}), the box is ({expected})"
    )
    remedy = "a detector learns the boxes, a segmenter the masks: correct what is wrong"
    if _along_rows(a, rows, own):
        remedy = "their run lengths seem to go along the rows; COCO's go down the columns: write them so"
    image = int(a.image_index[first])
    yield Problem(
        a.file_of(image),
        str(a.paths[image]),
        int(a.ids[first]),
        what,
        remedy,
        "warning",
        "mask-elsewhere",
        image_index=image,
        object_index=first,
    )


def mask_boxes(a: Annotations) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The boxes (M, 4) xyxy of masks, and which objects (M,) have one that is not empty and fits the image."""
    boxes, segments = np.zeros((len(a.ids), 4)), a.segments
    if segments is None:
        return boxes, np.zeros(len(a.ids), bool)
    polygons = np.flatnonzero(segments.has_polygons)
    if len(polygons):
        # Every object's first point; the next one's ends it, for objects without polygons have no points.
        starts = segments.point_offsets[segments.polygon_offsets[polygons]]
        boxes[polygons, :2] = np.minimum.reduceat(segments.points, starts)
        boxes[polygons, 2:] = np.maximum.reduceat(segments.points, starts)
    sizes = a.sizes[a.image_index][:, ::-1]
    rows = np.flatnonzero(segments.has_rle & ((segments.rle_sizes == sizes) | (sizes == 0)).all(axis=1))
    if len(rows):
        from pycocotools import mask

        found = mask.toBbox([segments.rle(row, 0, 0) for row in rows.tolist()]).reshape(-1, 4)
        boxes[rows] = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    return boxes, np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1))


def _ious(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - common
    return np.asarray(common / np.maximum(union, 1e-9))


def _along_rows(a: Annotations, rows: NDArray[Any], own: NDArray[np.float64]) -> bool:
    """Whether run lengths fit their boxes if they are taken to go along the rows of the image."""
    from pycocotools import mask

    segments = a.segments
    assert segments is not None
    looked_at = [row for row in rows.tolist() if segments.has_rle[row]][:LOOKED_AT]
    turned = []
    for row in looked_at:
        drawn = mask.decode(segments.rle(row, 0, 0))
        there = np.argwhere(drawn.ravel(order="F").reshape(drawn.shape))[:, ::-1]
        turned.append([*there.min(axis=0), *(there.max(axis=0) + 1)] if len(there) else [0.0] * 4)
    return bool(turned) and bool((_ious(np.array(turned, np.float64), own[looked_at]) > IOU).all())
