"""Draws the polygons and run lengths of objects: into one map of classes, or each into a mask of its own."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.index_png import MaskError
from detseg.data.letterbox import resize_mask
from detseg.data.sample import IGNORE


def draw_labels(objects: Annotations, index: int, first_label: int) -> NDArray[np.uint8]:
    """The class of every pixel (H, W) of image `index`; an object with label k gets `first_label` + k.

    Pixels of no object are 0. Where objects overlap, the one with the smaller area is on top (of equal ones the
    later): it would be hidden otherwise. Crowd regions, objects without a polygon (their box) and objects of
    unknown category become 255, "ignore", as far as no other object covers them. MaskError: a run-length mask
    has another size than the image.
    """
    from pycocotools import mask as coco

    width, height = (int(side) for side in objects.sizes[index])
    labels = np.zeros((height, width), np.uint8, order="F")  # as pycocotools' masks lie in memory
    drawn: list[tuple[float, int, dict[str, Any]]] = []
    for row in _rows(objects, index):
        code = None if objects.segments is None else objects.segments.rle(row, height, width)
        if code is None:
            labels[_pixels_of(objects.boxes[row])] = IGNORE
            continue
        _check_size(objects, index, row, code)
        known = objects.labels[row] >= 0 and not objects.iscrowd[row]
        label = first_label + int(objects.labels[row]) if known else IGNORE
        drawn.append((-float(coco.area(code)) if known else -math.inf, label, code))
    for _, label, code in sorted(drawn, key=lambda item: item[0]):  # what is ignored first, then large before small
        np.copyto(labels, np.uint8(label), where=coco.decode(code).view(np.bool_))
    return np.ascontiguousarray(labels)


def draw_objects(objects: Annotations, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The masks (M, H, W) of the objects of image `index`, 1 inside, when it is resized to `size` = (width, height).

    Polygons are scaled and then drawn; run-length masks are resized, each pixel taking the value under its centre, or
    refused as in `draw_labels`. An object without either is its box.
    """
    from pycocotools import mask as coco

    width, height = size
    scale = np.array(size) / objects.sizes[index]
    rows = _rows(objects, index)
    masks = np.zeros((len(rows), height, width), np.uint8)
    for mask, row in zip(masks, rows, strict=True):
        segments = objects.segments
        if segments is not None and segments.has_rle[row]:
            code = segments.rle(row, 0, 0)
            assert code is not None
            _check_size(objects, index, row, code)
            mask[:] = resize_mask(np.ascontiguousarray(coco.decode(code)), size)
        elif segments is not None and (polygons := segments.polygons(row)):
            flat = [(polygon * scale).ravel().tolist() for polygon in polygons]
            mask[:] = coco.decode(coco.merge(coco.frPyObjects(flat, height, width)))
        else:
            mask[_pixels_of(objects.boxes[row] * np.tile(scale, 2))] = 1
    return masks


def _rows(objects: Annotations, index: int) -> range:
    return range(*objects.objects(index).indices(len(objects.ids)))


def _check_size(objects: Annotations, index: int, row: int, code: dict[str, Any]) -> None:
    width, height = objects.sizes[index].tolist()
    if code["size"] != [height, width]:
        what = f"the mask of object {objects.ids[row]} is {code['size'][1]} x {code['size'][0]} pixels"
        remedy = f"the image is {width} x {height}: correct or remove the mask"
        raise MaskError(str(objects.paths[index]), what, remedy, "mask-size")


def _pixels_of(box: NDArray[np.float64]) -> tuple[slice, slice]:
    """The rows and columns of the pixels whose centre lies in a box xyxy; none if it is not finite."""
    if not np.isfinite(box).all():
        return slice(0, 0), slice(0, 0)
    x1, y1, x2, y2 = np.ceil(np.maximum(box, 0) - 0.5).astype(np.int64).tolist()
    return slice(y1, y2), slice(x1, x2)
