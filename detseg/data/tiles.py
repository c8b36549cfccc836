"""Tiles of images larger than a network sees: where they lie, and how large they ought to be."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations

SHARES = (0.05, 0.5, 0.95)  # of the objects of training that are smaller than the sides that a description keeps
MARGIN = 0.02  # of a tile: what ends so near its border may go on beyond
OVERLAP = 0.2  # of a tile, where the sizes of objects are not known
# An object with a longer side of so many pixels before the network is large enough to be found and boxed well.
ENOUGH = 32


class Tiling(NamedTuple):
    """How images are cut into tiles."""

    tile: int  # side, pixels of the image
    overlap: int  # pixels that neighbours share at least: as large as a large object
    reason: str = ""  # why so, for people

    @property
    def margin(self) -> float:
        """How near to the border of a tile, in pixels, a box counts as cut by it."""
        return MARGIN * self.tile


def lay_tiles(width: int, height: int, tile: int, overlap: int) -> NDArray[np.int64]:
    """The tiles (T, 4) xyxy of an image, row by row.

    Together they are the image. Each is as wide and high as `tile`, or as the image where that is smaller; neighbours
    share `overlap` pixels at least. So what is at most `overlap` wide and high lies wholly in one of them.

    Raises ValueError for an overlap that is negative or not smaller than the tile.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tiles of {tile} px must overlap by 0 to {tile - 1} px, not {overlap}")
    x, y = np.meshgrid(_starts(width, tile, overlap), _starts(height, tile, overlap))
    corners = np.column_stack([x.ravel(), y.ravel()])
    return np.hstack([corners, corners + np.minimum(tile, [width, height])])


def _starts(length: int, tile: int, overlap: int) -> NDArray[np.int64]:
    """Where tiles begin along a side, evenly."""
    room = max(0, length - tile)
    steps = math.ceil(room / (tile - overlap))
    return np.arange(steps + 1, dtype=np.int64) * room // max(1, steps)


def cut_by(
    boxes: NDArray[np.floating], tiles: NDArray[np.int64], size: tuple[int, int], margin: float
) -> NDArray[np.bool_]:
    """(D, T) whether a tile shows less than all of an object, by its box (D, 4).

    So it does where the box comes nearer than `margin` to a border of the tile, or crosses it, unless the image ends
    there too; `size` is its (width, height).
    """
    low = np.where(tiles[:, :2] > 0, tiles[:, :2] + margin, -np.inf)
    high = np.where(tiles[:, 2:] < np.array(size), tiles[:, 2:] - margin, np.inf)
    crossed: NDArray[np.bool_] = (boxes[:, None, :2] < low) | (boxes[:, None, 2:] > high)
    return np.asarray(crossed.any(2))


def object_sizes(data: Annotations) -> dict[str, Any]:
    """What the description of a model keeps of the sizes of its training objects, as its entry "objects".

    "sides": the longer sides that 5, 50 and 95 % of the objects stay below, "long_side": that of half of the images;
    all in pixels of the images as they are on disk. Crowds are left out; {} of a set without objects.
    """
    boxes = data.boxes[~data.iscrowd]
    if not len(boxes):
        return {}
    sides = np.quantile((boxes[:, 2:] - boxes[:, :2]).max(1), SHARES)
    return {"sides": [round(side, 1) for side in sides.tolist()], "long_side": int(np.median(data.sizes.max(1)))}


def tiling_for(
    objects: Mapping[str, Any] | None, size: int, tile: int | None = None, overlap: int | None = None
) -> Tiling:
    """The tiles for a model, by the objects that it was trained on.

    Tiles are as large as its training images: objects have the sizes then that it knows. Where half of them were
    smaller than `ENOUGH` pixels before the network, tiles are smaller, and objects are shown larger, the median one
    as large as the largest known at most. Pixels are not enlarged more than in training. The overlap is the side that
    95 % of the objects stay below, and twice the margin of `Tiling`; at most half a tile.

    Args:
        objects: what `object_sizes` gave, and "tile" and "overlap" of a model that was trained on tiles; if there is
            none, tiles are as large as the network's input and overlap by `OVERLAP` of it.
        size: of the network's input, pixels.
        tile, overlap: where they are given, pixels of the image.

    Raises ValueError for a tile or overlap that is none.
    """
    chosen, reason = tile, "as asked for"
    if chosen is None:
        chosen, reason = _tile(objects, size)
    if chosen < 1:
        raise ValueError(f"tiles must be at least 1 px wide, not {chosen}")
    if overlap is None:
        overlap = _overlap(objects, chosen, asked=tile is not None)
    lay_tiles(1, 1, chosen, overlap)  # which checks them
    return Tiling(chosen, overlap, reason)


def _tile(objects: Mapping[str, Any] | None, size: int) -> tuple[int, str]:
    if not objects:
        told = "the model does not tell how large the objects of its training were; --tiles SIZE sets another"
        return size, f"as large as its input, for {told}"
    if objects.get("tile") is not None:
        return int(objects["tile"]), "as in training"
    _, median, large = objects["sides"]
    longest = int(objects["long_side"])
    shown = max(median * size / longest, 1e-6)
    larger = max(1.0, min(ENOUGH / shown, large / max(median, 1e-6)))
    tile = max(round(longest / larger), min(longest, size))
    if tile == longest:
        return tile, "as large as the images of training"
    return (
        tile,
        f"half of the objects of training are less than {shown:.0f} px large before the network, so larger here",
    )


def _overlap(objects: Mapping[str, Any] | None, tile: int, *, asked: bool) -> int:
    if not objects:
        return round(OVERLAP * tile)
    if objects.get("overlap") is not None and not asked:
        return int(objects["overlap"])
    large = objects["sides"][2] if objects.get("sides") else OVERLAP * tile
    return min(math.ceil(large + 2 * MARGIN * tile), tile // 2)
