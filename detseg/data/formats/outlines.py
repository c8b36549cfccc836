"""Shapes of annotation tools as polygons and run lengths: circles, ellipses, rotated rectangles, small PNG masks."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.formats.records import RunLengths
from detseg.data.polygons import Segments, can_be_drawn

POINTS = 64  # of an ellipse: of a radius of 100 pixels the polygon is at most 0.12 pixels inside
MOST_CODED = 2**31  # pixels of a run-length mask
MOST_PIXELS = 2**28  # of a mask: what is larger is damaged, or meant to fill the memory


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0) -> list[float]:
    """The polygon of an ellipse around (x, y) that is turned clockwise; ValueError if it has no area."""
    if not (rx > 0 and ry > 0):
        raise ValueError(f"its radii are {rx:g} and {ry:g}")
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    return _turned(np.stack([rx * np.cos(angles), ry * np.sin(angles)], 1), degrees, (x, y))


def ellipse_in(box: Sequence[float], degrees: float = 0) -> list[float]:
    """The polygon of the ellipse in a box xyxy, turned clockwise about its middle; ValueError if it has no area."""
    x1, y1, x2, y2 = box
    return ellipse((x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2, degrees)


def turned_box(box: Sequence[float], degrees: float) -> list[float]:
    """The polygon of a box xyxy that is turned clockwise about its middle."""
    x1, y1, x2, y2 = box
    half = np.array([x2 - x1, y2 - y1], np.float64) / 2
    unit = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    return _turned(unit * half, degrees, ((x1 + x2) / 2, (y1 + y2) / 2))


def rotated_box(x: float, y: float, width: float, height: float, degrees: float) -> list[float]:
    """The polygon of a rectangle that is turned clockwise around its corner (x, y)."""
    return _turned(np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64), degrees, (x, y))


def _turned(points: NDArray[np.float64], degrees: float, centre: tuple[float, float]) -> list[float]:
    angle = math.radians(degrees % 360)
    cos, sin = math.cos(angle), math.sin(angle)
    turned = points @ np.array([[cos, sin], [-sin, cos]]) + centre  # y points down: clockwise on the screen
    return [float(value) for value in turned.ravel()]


def corners(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """The polygon of a box."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


# ------------------------------------------------------------------ masks


def is_mask(height: int, width: int, counts: str | Sequence[int]) -> bool:
    """Whether run lengths, compressed or not, are those of a mask of that size."""
    if height <= 0 or width <= 0 or height * width > MOST_CODED:
        return False
    if not isinstance(counts, str):
        return min(counts, default=-1) >= 0 and sum(counts) == height * width
    runs = _unpacked(counts)
    return runs is not None and 0 <= runs.min() and runs.max() <= height * width and runs.sum() == height * width


def _unpacked(counts: str) -> NDArray[np.int64] | None:
    """Compressed run lengths as numbers, see `detseg.metrics.detection.run_lengths`; None where they are none.

    Not by pycocotools: it lays the mask out, which takes a hundred times as long, and takes masks that end too soon.
    """
    bits = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not len(bits) or bits.min() < 0 or bits.max() > 63 or bits[-1] & 32:
        return None
    ends = np.flatnonzero(bits & 32 == 0)
    begins = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - begins + 1
    if lengths.max() > 10:
        return None
    shifts = 5 * (np.arange(len(bits)) - np.repeat(begins, lengths))
    runs: NDArray[np.int64] = np.add.reduceat((bits & 31) << shifts, begins)
    runs -= ((bits[ends] & 16) << 1) << shifts[ends]
    # From the fourth on each is the difference from the run before the last.
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs


def run_lengths(mask: NDArray[Any]) -> RunLengths:
    """A mask (H, W) as run lengths; ValueError if nothing is in it."""
    from pycocotools import mask as coco

    if not mask.any():
        raise ValueError("its mask is empty")
    code = coco.encode(np.asfortranarray(mask != 0, np.uint8))
    return RunLengths(mask.shape[0], mask.shape[1], code["counts"])


def pasted(mask: NDArray[Any], x: int, y: int, size: tuple[int, int]) -> RunLengths:
    """The run lengths of a mask (h, w) at x, y of an image of `size` (width, height), which cuts off what is outside.

    ValueError: the size is unknown, or nothing of it is inside.
    """
    width, height = size
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(f"its mask is of an image of {width} x {height} pixels")
    whole = np.zeros((height, width), bool)
    left, top = max(x, 0), max(y, 0)
    inside = mask[top - y : height - y if y < height else 0, left - x : width - x if x < width else 0]
    whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return run_lengths(whole)


def drawn(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of polygons on an image of `size` (width, height)."""
    from pycocotools import mask as coco

    width, height = size
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(f"its mask is of an image of {width} x {height} pixels")
    if not all(len(polygon) >= 6 and can_be_drawn(polygon) for polygon in polygons):
        raise ValueError("its polygons are not finite, or have fewer than 3 points")
    codes = coco.frPyObjects([list(polygon) for polygon in polygons], height, width)
    return np.asarray(coco.decode(coco.merge(codes)), bool)


def decoded(mask: RunLengths) -> NDArray[np.bool_]:
    """The mask (H, W) of run lengths."""
    from pycocotools import mask as coco

    counts = mask.counts.encode("ascii") if isinstance(mask.counts, str) else mask.counts
    return np.asarray(coco.decode({"size": [mask.height, mask.width], "counts": counts}), bool)


def own_mask(segments: Segments | None, row: int) -> NDArray[np.bool_] | None:
    """The mask (H, W) of an object that has run lengths, not polygons."""
    if segments is None or segments.rle_offsets[row + 1] == segments.rle_offsets[row]:
        return None
    height, width = segments.rle_sizes[row].tolist()
    code = segments.rle(row, height, width)
    return None if code is None else decoded(RunLengths(height, width, code["counts"]))


def cropped(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int, int]:
    """The part of a mask that is not empty, and its x and y."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return mask[:1, :1], 0, 0
    top, left = int(rows[0]), int(columns[0])
    return mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1], left, top


def png_mask(png: bytes) -> NDArray[np.bool_]:
    """The mask (H, W) in a PNG: what is not 0, in grey, in a palette, or (with a fourth channel) in transparency."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if not 0 < image.width * image.height <= MOST_PIXELS:
                raise ValueError(f"its mask has {image.width} x {image.height} pixels")
            values = np.asarray(image)
    except ValueError:
        raise
    except Exception as error:  # Pillow raises many kinds, from SyntaxError to struct.error
        raise ValueError(f"its mask is no PNG that can be read: {error}") from error
    if values.ndim == 3:
        values = values[..., -1] if values.shape[2] in (2, 4) else values.max(2)
    return values != 0


def mask_png(mask: NDArray[Any]) -> bytes:
    """A mask (H, W) as a PNG of one bit."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.asarray(mask, bool)).save(content, "PNG")
    return content.getvalue()


def from_base64(text: Any) -> bytes:
    """The bytes of a base64 text; ValueError if it is none."""
    if not isinstance(text, str):
        raise ValueError("its mask is missing")
    return base64.b64decode(text.rpartition("base64,")[2])
