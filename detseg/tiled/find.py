"""Detectors on images larger than their networks: tile by tile, and what is found in them as of one image.

Each tile is looked at as an image of its own (Akyon et al. 2022, Slicing aided hyper inference, arXiv:2202.06934), and
so are larger tiles, and the whole image, all shrunk alike, for what is larger than a tile can show. What a tile sees in
part is left to the tile that sees all of it. None of this needs torch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.object_masks import placed, window
from detseg.data.tiles import Tiling, cut_by, lay_tiles
from detseg.sources import in_batches
from detseg.tiled.joining import Found, merge

Look = Callable[[Sequence[NDArray[np.uint8]]], Iterable[Mapping[str, Any]]]
"""What a detector finds in each of a few images (H, W, C), as `Found`."""

# Between the sides of tiles from level to level, which adds a third to the time. At 3 and 4 less is found of what is
# larger than the overlap: mAP 0.47 and 0.44 in place of 0.50 in three scenes of benchmarks/tiles.py, 0.42 without.
RATIO = 2
LARGE = 0.5  # of the overlap: what is smaller is looked for in tiles of this level and those before alone


def find_in_tiles(
    look: Look, image: NDArray[np.uint8], tiling: Tiling, *, batch_size: int = 8, agnostic: bool = False
) -> Found:
    """What a detector finds in an image (H, W, C), in its pixels, best first; `agnostic` is that of `merge`.

    Besides the image it holds `batch_size` tiles at a time and what was found so far.
    """
    size = image.shape[1], image.shape[0]
    rectangles: list[NDArray[np.int64]] = []
    views: list[Found] = []
    cuts: list[NDArray[np.bool_]] = []
    for level, least in _levels(max(size), tiling):
        tiles = lay_tiles(*size, level.tile, level.overlap)
        rectangles.append(tiles)
        for numbers in in_batches(range(len(tiles)), batch_size):
            corners = tiles[numbers].tolist()
            for number, found in zip(numbers, look([image[y:v, x:u] for x, y, u, v in corners]), strict=True):
                boxes = found["boxes"] + np.tile(tiles[number, :2], 2).astype(np.float32)
                cut = cut_by(boxes, tiles, size, level.margin)
                # Where another tile sees all of it, and more than this one, that one decides.
                kept = (~cut[:, number] | cut.all(1)) & ((boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) >= least)
                views.append(_moved(_select({**found, "boxes": boxes}, kept), tiles[number], image.shape))
                cuts.append(cut[kept, number])
    return merge(views, np.concatenate(rectangles), cuts, agnostic=agnostic)


def _levels(side: int, tiling: Tiling) -> Iterator[tuple[Tiling, float]]:
    """The tiles that images with a longer `side` are looked at in, the smallest first, the last of the whole image.

    With each the longer side that boxes have in them at least: what is smaller is seen better in the ones before.
    """
    least = 0.0
    while True:
        yield tiling, least
        if tiling.tile >= side:
            return
        least = LARGE * tiling.overlap
        tiling = Tiling(tiling.tile * RATIO, tiling.overlap * RATIO)


def _select(found: Mapping[str, Any], kept: NDArray[np.bool_]) -> Found:
    rows = np.flatnonzero(kept)
    names = ("boxes", "scores", "labels", *(("masks",) if "masks" in found else ()))
    return {n: [found[n][i] for i in rows.tolist()] if n == "masks" else np.asarray(found[n])[rows] for n in names}


def _moved(found: Found, tile: NDArray[np.int64], shape: Sequence[int]) -> Found:
    """The same with masks of a tile laid into the image of `shape` (H, W, …)."""
    if "masks" in found:
        parts = (window(mask) for mask in found["masks"])
        found["masks"] = [placed(int(tile[0]) + x, int(tile[1]) + y, part, shape) for x, y, part in parts]
    return found
