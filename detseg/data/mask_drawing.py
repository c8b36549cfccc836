"""Draws the outlines of objects into one map of classes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.index_png import MaskError
from detseg.data.sample import IGNORE


def draw_labels(objects: Annotations, index: int, first_label: int) -> NDArray[np.uint8]:
    """The class of every pixel (H, W) of image `index`; an object with label k gets `first_label` + k.

    Pixels of no object are 0. Where objects overlap, the one with the smaller area is on top (of equal ones the
    later): it would be hidden otherwise. Crowd regions, objects without an outline (their box) and objects of
    unknown category become 255, "ignore", as far as no other object covers them.

    Raises:
        MaskError: a run-length mask has another size than the image.
    """
    from pycocotools import mask as coco

    width, height = (int(side) for side in objects.sizes[index])
    labels = np.zeros((height, width), np.uint8, order="F")  # as pycocotools' masks lie in memory
    drawn: list[tuple[float, int, dict[str, Any]]] = []
    for row in range(*objects.objects(index).indices(len(objects.ids))):
        code = None if objects.segments is None else objects.segments.rle(row, height, width)
        if code is None:
            _ignore_box(labels, objects.boxes[row])
            continue
        if code["size"] != [height, width]:
            what = f"the mask of object {objects.ids[row]} is {code['size'][1]} x {code['size'][0]} pixels"
            remedy = f"the image is {width} x {height}: correct or remove the mask"
            raise MaskError(str(objects.paths[index]), what, remedy, "mask-size")
        known = objects.labels[row] >= 0 and not objects.iscrowd[row]
        label = first_label + int(objects.labels[row]) if known else IGNORE
        drawn.append((-float(coco.area(code)) if known else -math.inf, label, code))
    for _, label, code in sorted(drawn, key=lambda item: item[0]):  # what is ignored first, then large before small
        np.copyto(labels, np.uint8(label), where=coco.decode(code).view(np.bool_))
    return np.ascontiguousarray(labels)


def _ignore_box(labels: NDArray[np.uint8], box: NDArray[np.float64]) -> None:
    """Mark the pixels whose centre lies in a box xyxy."""
    if np.isfinite(box).all():
        x1, y1, x2, y2 = np.ceil(np.maximum(box, 0) - 0.5).astype(np.int64)
        labels[y1:y2, x1:x2] = IGNORE
