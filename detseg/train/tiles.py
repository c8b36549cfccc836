"""Training on tiles of large images, evaluated on the whole images, in which the model looks at tiles too."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from detseg.console import print_line
from detseg.data.annotations import Annotations
from detseg.data.base import refuse_pack
from detseg.data.dataset import DetectionDataset
from detseg.data.tile_sets import ScaledDataset, TileAnnotations, TileDataset, cut_annotations
from detseg.data.tiles import Tiling, object_sizes, tiling_for
from detseg.predict.predictor import in_full_size
from detseg.tiled import Found, find_in_tiles
from detseg.train.data import open_images


def cut(train: Annotations, val: Annotations, config: Any, console: Console) -> tuple[TileAnnotations, Tiling]:
    """The tiles of the training images, as `config` asks for them; prints what they are.

    Raises ValueError for packed images.
    """
    for data in (train, val):
        refuse_pack(data.pack)
    tiling = tiling_for(object_sizes(train), config.size or config.tiles, config.tiles)
    tiles = cut_annotations(train, tiling, seed=config.seed)
    empty = int((np.bincount(tiles.image_index[~tiles.iscrowd], minlength=len(tiles)) == 0).sum())
    told = f"{len(tiles)} tiles of {tiling.tile} px that overlap by {tiling.overlap} px or more"
    print_line(console, f"training on {told}, {empty} of them without objects; validating on whole images, in tiles")
    return tiles, tiling


def open_tiles(data: Annotations, long_side: int, tiling: Tiling, what: str, console: Console) -> DetectionDataset:
    """The dataset of tiles, or of whole images that are looked at in tiles, a tile kept at `long_side` pixels."""
    whole = partial(ScaledDataset, tile=tiling.tile)
    kind: Any = TileDataset if isinstance(data, TileAnnotations) else whole
    dataset: DetectionDataset = open_images(kind, data, long_side, what, console)
    return dataset


def predict_in_tiles(detect: Any, data: DetectionDataset, indices: Iterable[int], tiling: Tiling) -> Iterator[Found]:
    """What is found in some images of a `ScaledDataset`, boxes in the images' own pixels.

    Args:
        detect: of pairs of an image and the size that its results are wanted in, as `detseg.predict.detect`.
        data: the images.
        indices: which of them.
        tiling: in the images' own pixels.
    """

    def look(images: Sequence[NDArray[np.uint8]]) -> Iterator[Found]:
        for found in detect(in_full_size(images)):
            yield {name: value.numpy() for name, value in found.items()}

    for index in indices:
        image = data.images[index]
        kept = np.array([image.shape[1], image.shape[0]])
        factor = kept / data.annotations.sizes[index]
        tile = max(2, round(tiling.tile * float(factor.max())))
        overlap = min(round(tiling.overlap * float(factor.max())), tile - 1)
        found = find_in_tiles(look, image, Tiling(tile, overlap))
        found["boxes"] = (found["boxes"] / np.tile(factor, 2)).astype(np.float32)
        yield found
