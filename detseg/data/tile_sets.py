"""Annotated images as a set of their tiles: what a detector of small objects in large images is trained on.

The images are read once and kept whole, shrunk as far as the network shrinks their tiles; a tile is a view into them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.base import Track, refuse_pack
from detseg.data.cache import ArrayCache
from detseg.data.coco_ids import NUMBERS
from detseg.data.dataset import DetectionDataset
from detseg.data.images import read_sized_image
from detseg.data.letterbox import resize_image
from detseg.data.sample import Sample, clip_and_filter
from detseg.data.tiles import Tiling, lay_tiles


@dataclass(frozen=True, eq=False, kw_only=True)
class TileAnnotations(Annotations):
    """Annotations of N tiles, each as an image of its own; `paths` are those of the images that they are cut from."""

    whole: Annotations
    parents: NDArray[np.int64]  # (N,) positions of their images in `whole`
    corners: NDArray[np.int64]  # (N, 2) x, y in their images

    def _take(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        return super()._take(chosen) | {"parents": self.parents[chosen], "corners": self.corners[chosen]}


def cut_annotations(data: Annotations, tiling: Tiling, *, seed: int = 0) -> TileAnnotations:
    """The tiles of all images, with what is in them.

    An object is in each tile that shows some of it. As `clip_and_filter` has it, it is one to learn where enough is
    visible, else it is ignored. Of tiles without an object to learn as many are kept as there are with one, drawn by
    `seed`. Masks are left out.

    Raises ValueError for packed images, and without any object.
    """
    refuse_pack(data.pack)
    rng = np.random.default_rng((seed, 4))
    cuts = [_cut(data, image, tiling) for image in range(len(data))]
    learnt = np.concatenate([cut.learnt for cut in cuts]) if cuts else np.zeros(0, bool)
    empty = np.flatnonzero(~learnt)
    kept = learnt.copy()
    kept[rng.permutation(empty)[: int(learnt.sum())]] = True
    if not kept.any():
        raise ValueError(f"{data.source}: there is no object to cut tiles around")
    counts = [len(cut.corners) for cut in cuts]
    first = np.concatenate([[0], np.cumsum(counts)])
    parents = np.repeat(np.arange(len(data)), counts)[kept]
    owners = np.concatenate([cut.tiles + start for cut, start in zip(cuts, first.tolist(), strict=False)])
    inside = kept[owners]
    rows = np.concatenate([cut.rows for cut in cuts])[inside]
    boxes = np.concatenate([cut.boxes for cut in cuts])[inside].astype(np.float64)
    return TileAnnotations(
        whole=data,
        parents=parents,
        corners=np.concatenate([cut.corners for cut in cuts])[kept],
        categories=data.categories,
        image_ids=np.arange(1, len(parents) + 1),
        paths=data.paths[parents],
        sizes=np.minimum(tiling.tile, data.sizes[parents]),
        source=data.source,
        channels=data.channels,
        image_index=(np.cumsum(kept) - 1)[owners[inside]].astype(np.int32),
        boxes=boxes,
        labels=data.labels[rows],
        iscrowd=np.concatenate([cut.ignored for cut in cuts])[inside],
        ids=np.arange(1, len(rows) + 1),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        image_texts=NUMBERS,
        category_texts=data.category_texts,
    )


@dataclass(frozen=True)
class _Cut:
    """The T tiles of an image, and the P parts of objects in them, tile by tile."""

    corners: NDArray[np.int64]  # (T, 2)
    learnt: NDArray[np.bool_]  # (T,) whether there is an object to learn
    tiles: NDArray[np.int64]  # (P,)
    rows: NDArray[np.int64]  # (P,) which object of the data
    boxes: NDArray[np.float32]  # (P, 4) in the pixels of the tile
    ignored: NDArray[np.bool_]  # (P,)


def _cut(data: Annotations, image: int, tiling: Tiling) -> _Cut:
    mine, (width, height) = data.objects(image), data.sizes[image].tolist()
    tiles = lay_tiles(width, height, tiling.tile, tiling.overlap)
    boxes = data.boxes[mine]
    shown = (boxes[None, :, :2] < tiles[:, None, 2:]) & (boxes[None, :, 2:] > tiles[:, None, :2])
    numbers, objects = np.nonzero(shown.all(2))
    rows = mine.start + objects
    size = min(tiling.tile, width), min(tiling.tile, height)
    inside = clip_and_filter(
        boxes[objects] - np.tile(tiles[numbers, :2], 2),
        data.labels[rows].astype(np.int64),
        data.iscrowd[rows],
        size,
    )
    numbers = numbers[inside.rows]
    learnt = np.zeros(len(tiles), bool)
    learnt[numbers[~inside.iscrowd]] = True
    return _Cut(tiles[:, :2], learnt, numbers, rows[inside.rows], inside.boxes, inside.iscrowd)


class ScaledImages(ArrayCache):
    """Images (H, W, C), all shrunk by one factor, at most 1."""

    def __init__(self, data: Annotations, factor: float, track: Track | None = None) -> None:
        """Read the images of `data`; ValueError names the one that cannot be read, or has another size."""
        self.long_side = round(factor * int(data.sizes.max(initial=0)))
        shapes = np.maximum(1, np.round(data.sizes[:, ::-1] * factor)).astype(np.int64)

        def read(index: int) -> NDArray[np.uint8]:
            image = read_sized_image(str(data.paths[index]), data.sizes[index].tolist(), data.channels)
            return resize_image(image, (int(shapes[index, 1]), int(shapes[index, 0])))

        super().__init__(np.column_stack([shapes, np.full(len(shapes), data.channels)]), read, track)


class TileImages:
    """The images of tiles by position, views into `whole`, the images that they are cut from.

    `long_side` is that of the tiles, in pixels; `place` and `megabytes` are as in `ArrayCache`.
    """

    def __init__(self, data: TileAnnotations, factor: float, track: Track | None = None) -> None:
        used, self._rows = np.unique(data.parents, return_inverse=True)
        whole = data.whole.subset(used)
        self.whole = ScaledImages(replace(whole, channels=data.channels), factor, track)
        self._sizes, self._corners = data.sizes, data.corners
        self.scales = np.array([self.whole[i].shape[1::-1] for i in range(len(used))]) / whole.sizes  # (N, 2)
        self.long_side = round(factor * int(data.sizes.max()))
        self.place, self.megabytes = self.whole.place, self.whole.megabytes

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The tile (H, W, C): copy before changing it."""
        left, top, right, bottom = self.window(index)
        return self.whole[int(self._rows[index])][top:bottom, left:right]

    def scale(self, index: int) -> NDArray[np.float64]:
        """(2,) how much smaller the tile is kept, across and down."""
        return np.asarray(self.scales[self._rows[index]])

    def window(self, index: int) -> tuple[int, int, int, int]:
        """xyxy of the tile in its image as that is kept, whole pixels."""
        corner = self._corners[index]
        low, high = np.round([corner * self.scale(index), (corner + self._sizes[index]) * self.scale(index)]).astype(
            int
        )
        height, width = self.whole[int(self._rows[index])].shape[:2]
        low = np.minimum(low, [width - 1, height - 1])
        high = np.maximum(low + 1, high)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])


class TileDataset(DetectionDataset):
    """Samples of tiles, each kept with a long side of `long_side` pixels, or with all that it has."""

    images: TileImages  # type: ignore[assignment]

    def __init__(self, annotations: TileAnnotations, long_side: int, track: Track | None = None) -> None:
        factor = min(1.0, long_side / int(annotations.sizes.max()))
        self.annotations, self.images = annotations, TileImages(annotations, factor, track)
        self.masks, self.labelled = False, None

    def __getitem__(self, index: int) -> Sample:
        """The tile with its boxes in its own pixels; the image is a view into the cache."""
        data, image = self.annotations, self.images[index]
        assert isinstance(data, TileAnnotations)
        objects = data.objects(index)
        moved = np.tile(data.corners[index], 2)
        # By way of the whole image: the tile's borders are rounded to its pixels.
        boxes = (data.boxes[objects] + moved) * np.tile(self.images.scale(index), 2)
        boxes = (boxes - np.tile(self.images.window(index)[:2], 2)).clip(0, [image.shape[1], image.shape[0]] * 2)
        return Sample(
            image, boxes.astype(np.float32), data.labels[objects].astype(np.int64), data.iscrowd[objects].copy()
        )


class ScaledDataset(DetectionDataset):
    """Samples of whole images, so shrunk that a tile of `tile` pixels is `long_side` pixels wide; none is enlarged."""

    def __init__(self, annotations: Annotations, long_side: int, track: Track | None = None, *, tile: int) -> None:
        refuse_pack(annotations.pack)
        self.annotations = annotations
        self.images = ScaledImages(annotations, min(1.0, long_side / tile), track)  # type: ignore[assignment]
        self.masks, self.labelled = False, None
