"""Draws the polygons and run lengths of objects: into one map of classes, or each into a mask of its own."""

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


def draw_objects(
    objects: Annotations, index: int, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The masks (M, H, W) of the objects of image `index`, 1 inside, when it is resized to `size` = (width, height).

    A pixel is inside where its centre is: of polygons once they are scaled, of run-length masks before. Those of
    another size than the image are refused as in `draw_labels`. An object without either has an empty mask, which
    means that it is not known. Also returns windows (M, 4) xyxy, outside of which the masks have nothing.
    """
    width, height = size
    rows = objects.objects(index)
    count = rows.stop - rows.start
    masks, windows = np.zeros((count, height, width), np.uint8), np.tile([width, height, 0, 0], (count, 1))
    segments = objects.segments
    if segments is None:
        return masks, np.zeros_like(windows)
    first, last = (int(offset) for offset in segments.polygon_offsets[[rows.start, rows.stop]])
    if first < last:
        from detseg.data.mask_loops import fill_polygons  # here: numba takes half a second to load

        owners = np.repeat(np.arange(count), np.diff(segments.polygon_offsets[rows.start : rows.stop + 1]))
        scale, marks = np.array(size) / objects.sizes[index], np.zeros((height, width + 1), np.uint8)
        offsets = segments.point_offsets[first : last + 1]
        fill_polygons(masks, windows, owners, segments.points, offsets, scale, marks)
    for i in np.flatnonzero(np.diff(segments.rle_offsets[rows.start : rows.stop + 1])):
        code = segments.rle(rows.start + i, 0, 0)
        assert code is not None
        _check_size(objects, index, rows.start + i, code)
        windows[i] = _draw_run_lengths(masks[i], code)
    windows[windows[:, 0] >= windows[:, 2]] = 0
    return masks, windows


def _draw_run_lengths(mask: NDArray[np.uint8], code: dict[str, Any]) -> tuple[int, int, int, int]:
    """Resize a run-length mask into `mask` (H, W) zeros: each pixel takes the value under its centre. Its window."""
    from pycocotools import mask as coco

    x, y, wide, high = coco.toBbox(code).astype(int).tolist()
    (down, from_y), (across, from_x) = (
        _pixels_from(*of) for of in zip((y, x), (high, wide), code["size"], mask.shape, strict=True)
    )
    if not len(down) or not len(across):
        return 0, 0, 0, 0
    mask[np.ix_(down, across)] = coco.decode(code)[np.ix_(from_y, from_x)]
    return int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1


def _pixels_from(start: int, length: int, size: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pixels of `wanted` whose centre lies in a stretch of `size` pixels, and in which of these each lies."""
    first, last = ((2 * end * wanted - size) // (2 * size) for end in (start, start + length))
    pixels = np.arange(max(0, first), min(wanted, last + 2))
    under = (2 * pixels + 1) * size // (2 * wanted)
    inside = (under >= start) & (under < start + length)
    return pixels[inside], under[inside]


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
