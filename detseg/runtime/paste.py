"""What a model says of a square, laid into the image: detections with their masks, and the class of each pixel.

As `detseg.detect.masks` and `detseg.predict.segmenter` do it with torch and compiled loops.
"""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.letterbox import Letterbox, fitted_size

THRESHOLD = 0.5


def in_image(
    found: dict[str, NDArray[Any]], box: Letterbox, shape: tuple[int, int], *, coded: bool, most: int | None = None
) -> dict[str, Any]:
    """The first `most` detections of a square in the pixels of the image of `shape` (H, W) that lies in it.

    Boxes wholly in the grey border of the square have no area in the image: they are left out, and do not count.
    Masks (D, h, w) and their regions (D, 4) become masks (D, H, W) bool, or COCO run lengths if `coded`.
    """
    height, width = shape
    boxes = box.to_original(found["boxes"], (width, height))
    solid = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1))[:most]
    found = {name: values[solid] for name, values in found.items()}
    result: dict[str, Any] = {"boxes": boxes[solid], "scores": found["scores"], "labels": found["labels"]}
    if "masks" in found:
        regions = box.to_original(found["regions"].astype(np.float64), None)
        parts = list(_windows(found["masks"], regions, result["boxes"], shape))
        if coded:
            result["masks"] = [_run_lengths(part, shape) for part in parts]
        else:
            result["masks"] = np.zeros((len(parts), height, width), bool)
            for mask, (x, y, part) in zip(result["masks"], parts, strict=True):
                mask[y : y + part.shape[0], x : x + part.shape[1]] = part
    return result


Window = tuple[int, int, NDArray[np.bool_]]
"""Left, top and what is there (h, w)."""


def _windows(
    masks: NDArray[np.float32], regions: NDArray[np.float64], boxes: NDArray[np.float32], shape: tuple[int, int]
) -> Iterator[Window]:
    """The pixels whose centres are in each box, and where in them the mask is."""
    height, width = shape
    corners = (boxes.astype(np.float64) - 0.5).clip(0, None)
    windows = np.minimum(np.ceil(corners), [width, height] * 2).astype(np.int64)
    for mask, region, (x1, y1, x2, y2) in zip(masks, regions, windows.tolist(), strict=True):
        if x2 <= x1 or y2 <= y1:
            yield x1, y1, np.zeros((0, 0), bool)
            continue
        rows = _bilinear(y1, y2, region[1], region[3], mask.shape[0])
        columns = _bilinear(x1, x2, region[0], region[2], mask.shape[1])
        yield x1, y1, rows @ mask.astype(np.float64) @ columns.T > THRESHOLD


def _bilinear(first: int, last: int, low: float, high: float, count: int) -> NDArray[np.float64]:
    """(last - first, count): how much of each of `count` cells between `low` and `high` the centre of each pixel sees.

    Bilinear between the centres of cells, and towards 0 beyond the outermost.
    """
    step = max(high - low, 1e-6) / count
    place = ((np.arange(first, last) + 0.5 - low) / step - 0.5).clip(-1, count)
    return (1 - np.abs(place[:, None] - np.arange(count))).clip(0, None)


def _run_lengths(window: Window, shape: tuple[int, int]) -> Any:
    from pycocotools import mask as coco

    x, y, part = window
    whole = np.zeros(shape, np.uint8, order="F")
    whole[y : y + part.shape[0], x : x + part.shape[1]] = part
    return coco.encode(whole)


def decided(probabilities: NDArray[np.float32], shape: tuple[int, int], size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The likeliest class (H, W) uint8 of an image of `shape` (H, W) in a square of `size`, and its probability.

    `probabilities` are (K, s · size, s · size).
    """
    height, width = shape
    box, finer = Letterbox.fit(width, height, size), probabilities.shape[-1] // size
    left, top, across, down = (finer * n for n in (box.pad_x, box.pad_y, *fitted_size(width, height, size)))
    best, labels = np.full(shape, -1, np.float32), np.zeros(shape, np.uint8)
    for label, part in enumerate(probabilities[:, top : top + down, left : left + across]):
        value = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
        better = value > best
        best[better], labels[better] = value[better], label
    return labels, best
