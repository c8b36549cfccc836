"""Masks of single objects, maps or COCO run lengths: all of an image in one map of numbers, and their outlines."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

TOLERANCE = 0.75  # of outlines, pixels: the steps of a border at 45 degrees, 0.71 off it, become a line


def number_map(masks: ArrayLike | Sequence[Any], shape: Sequence[int]) -> NDArray[np.uint16]:
    """The number (H, W) of the object at each pixel, 1 for the first, 0 for none; of several the first.

    Args:
        masks: (M, H, W), not 0 where the object is; or M COCO run lengths, of which one at a time is laid out.
        shape: of the image, (H, W).

    Raises ValueError for masks of another size.
    """
    objects: Any = masks if isinstance(masks, Sequence) else np.asarray(masks)
    expected = (len(objects), *shape[:2])
    for mask in objects:
        got = (len(objects), *(mask["size"] if isinstance(mask, Mapping) else np.shape(mask)))
        if got != expected:
            raise ValueError(f"masks must have shape {expected}, got {got}")
    coded = len(objects) > 0 and isinstance(objects[0], Mapping)
    numbers = np.zeros(shape[:2], np.uint16, order="F" if coded else "C")  # as the masks lie in memory
    for i in reversed(range(len(objects))):
        x, y, part = window(objects[i])
        np.copyto(numbers[y : y + part.shape[0], x : x + part.shape[1]], i + 1, where=part)
    return np.ascontiguousarray(numbers)


def window(mask: Any) -> tuple[int, int, NDArray[np.bool_]]:
    """x, y and the part (h, w) of a mask there that holds all of the object; (0, 0) pixels where it has none."""
    if isinstance(mask, Mapping):
        from pycocotools import mask as coco

        x, y, width, height = (int(side) for side in coco.toBbox(mask))
        return x, y, coco.decode(mask)[y : y + height, x : x + width].view(np.bool_)
    whole = np.asarray(mask) != 0
    rows, columns = np.flatnonzero(whole.any(1)), np.flatnonzero(whole.any(0))
    if not len(rows):
        return 0, 0, whole[:0, :0]
    x, y = int(columns[0]), int(rows[0])
    return x, y, whole[y : rows[-1] + 1, x : columns[-1] + 1]


def placed(x: int, y: int, part: NDArray[np.bool_], shape: Sequence[int]) -> dict[str, Any]:
    """COCO run lengths of a mask of `shape` (H, W, …) that is `part` (h, w) at x, y and nothing elsewhere.

    The inverse of `window`; the mask itself is never laid out.
    """
    from pycocotools import mask as coco

    height, width = int(shape[0]), int(shape[1])
    columns = np.pad(part.T.astype(np.int8), ((0, 0), (1, 1)))
    column, row = np.nonzero(np.diff(columns, axis=1))  # where runs begin and, in turn, where they have ended
    borders = (x + column) * height + y + row
    # A run down to the image's lower border goes on at the top of the next column.
    joined = np.flatnonzero(borders[1:] == borders[:-1])
    borders = np.delete(borders, np.concatenate([joined, joined + 1]))
    counts = np.diff(borders, prepend=0, append=height * width)
    counts = counts[: len(counts) - (counts[-1] == 0)]
    coded = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": coded["counts"]}


def outlines(mask: Any, tolerance: float = TOLERANCE) -> list[list[int]]:
    """Polygons x1, y1, x2, y2, … around the parts of a mask, the largest first; pixels that meet at a corner are one.

    Drawn by pycocotools they are the mask with its holes filled, which a list of polygons cannot have, exactly if
    `tolerance` is 0, else with borders at most that many pixels off. A mask without a pixel has none.
    """
    x, y, part = window(mask)
    if not part.size:
        return []
    borders = _borders(np.ascontiguousarray(part, np.uint8))
    polygons = [_simplified(points, tolerance) + np.array([x, y]) for points in borders]
    return [polygon.ravel().tolist() for polygon in sorted(polygons, key=lambda p: -abs(_area(p)))]


def _borders(part: NDArray[np.uint8]) -> Iterator[NDArray[np.int32]]:
    """The corners (n, 2) x, y of the outer borders of what is 1, along the edges of pixels.

    OpenCV's contours join the centres of border pixels. With each pixel as 2 x 2, the centres of these quarters lie a
    quarter beside the edges, left and above with even numbers, right and below with odd ones.
    """
    large = cv2.resize(part, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    for contour in cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
        points = (contour[:, 0] + 1) // 2
        yield points[(points != np.roll(points, 1, 0)).any(1)].astype(np.int32)


def _simplified(points: NDArray[np.int32], tolerance: float) -> NDArray[np.int32]:
    fewer = np.asarray(cv2.approxPolyDP(points, tolerance, closed=True), np.int32)[:, 0] if tolerance else points
    return fewer if len(fewer) >= 3 else points  # a single pixel


def _area(points: NDArray[np.int32]) -> float:
    x, y = points.T.astype(np.float64)
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
