"""Images and masks kept decoded and small: in one block of memory that worker processes share, or in one file.

Every image is read and resized to the training size once; an epoch then costs no decoding. Packed images
(`detseg.data.pack`) stay in their file at the size they have there.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.data.base import ImageSet, Track
from detseg.data.images import pixel_moments, read_image, read_sized_image
from detseg.data.letterbox import fitted_size, resize_image, resize_mask
from detseg.data.masks import SemanticMasks
from detseg.data.pack.file import is_pack
from detseg.data.pack.idx import IdxImages
from detseg.data.pack.reader import PackedImages, PackedMasks
from detseg.data.shard_members import place_of


class ArrayCache:
    """Arrays of different shapes as one flat uint8 array, filled once by several threads.

    `place` is "memory", or the folder of the unnamed file that the arrays are in; `megabytes` is their size.
    """

    def __init__(
        self, shapes: NDArray[np.int64], read: Callable[[int], NDArray[np.uint8]], track: Track | None = None
    ) -> None:
        """Read arrays of these shapes (N, D); raises ValueError if neither memory nor disk suffice, or `read` does."""
        self._shapes = shapes
        self._starts = np.concatenate(([0], np.cumsum(shapes.prod(1))))
        total = int(self._starts[-1])
        self.megabytes = total / 1e6
        # A tensor, not an array: processes that are spawned, not forked, get a tensor's memory without a copy.
        self._values, self.place = _allocate(total)

        def fill(index: int) -> int:
            self[index][:] = read(index)
            return index

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = pool.map(fill, range(len(shapes)))
            for _ in track(done, len(shapes)) if track else done:
                pass

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The array at a position, a view into the cache: copy before changing it."""
        values: NDArray[np.uint8] = self._values.numpy()
        return values[self._starts[index] : self._starts[index + 1]].reshape(self._shapes[index])

    def content(self) -> NDArray[np.generic]:
        """What differs if an array does."""
        values: NDArray[np.uint8] = self._values.numpy()[: self._starts[-1]]
        return values


class ResizedImages:
    """Images (H, W, C) with a long side of `long_side` pixels, or larger to have a short side of `short_side`.

    Each is read when it is asked for: in place of an `ImageCache`, for sets in shards that nothing has room for.
    """

    def __init__(
        self,
        paths: Sequence[str] | NDArray[np.str_],
        sizes: NDArray[np.int32],
        long_side: int,
        *,
        short_side: int = 0,
        channels: int = 3,
    ) -> None:
        self.paths, self.sizes, self.long_side, self.channels = paths, sizes, long_side, channels
        shapes = fitted_shapes(sizes, long_side, short_side)
        self.shapes = np.column_stack([shapes, np.full(len(shapes), channels)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The image at a position; ValueError names one that cannot be read, or that has another size than `sizes`."""
        image = read_sized_image(str(self.paths[index]), self.sizes[index].tolist(), self.channels)
        height, width, _ = self.shapes[index].tolist()
        return resize_image(image, (width, height))


class ImageCache(ArrayCache):
    """The images of `ResizedImages`, kept."""

    def __init__(
        self,
        paths: Sequence[str] | NDArray[np.str_],
        sizes: NDArray[np.int32],
        long_side: int,
        track: Track | None = None,
        *,
        short_side: int = 0,
        channels: int = 3,
    ) -> None:
        """Read all images, of which `sizes` (N, 2) are widths and heights, and shrink or enlarge them.

        ValueError names the image that cannot be read, or that has another size.
        """
        images = ResizedImages(paths, sizes, long_side, short_side=short_side, channels=channels)
        self.long_side = long_side
        super().__init__(images.shapes, images.__getitem__, track)


class ResizedMasks:
    """Label maps (H, W), each as large as its image in `ResizedImages` of the same `long_side`, drawn when wanted."""

    def __init__(self, masks: SemanticMasks, long_side: int) -> None:
        self.masks, self.shapes = masks, fitted_shapes(masks.sizes, long_side)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The map at a position; raises `MaskError` (a ValueError) for one that cannot be used."""
        height, width = self.shapes[index].tolist()
        return resize_mask(self.masks.mask(index), (width, height))


class MaskCache(ArrayCache):
    """The masks of `ResizedMasks`, kept."""

    def __init__(self, masks: SemanticMasks, long_side: int, track: Track | None = None) -> None:
        """Read or draw all masks; raises `MaskError` (a ValueError) for one that cannot be used."""
        resized = ResizedMasks(masks, long_side)
        super().__init__(resized.shapes, resized.__getitem__, track)


Images = ImageCache | PackedImages | IdxImages | ResizedImages


def images_of(data: ImageSet, long_side: int, track: Track | None = None, *, short_side: int = 0) -> Images:
    """The images of a data set by position: read once and kept in an `ImageCache`, or where they are packed.

    Those in shards that neither memory nor disk have room for are read again whenever they are asked for.
    """
    if data.pack is not None and not is_pack(data.pack.file):
        return IdxImages(data.pack.file, data.pack.rows)
    if data.pack is not None:
        return PackedImages(data.pack.file, data.pack.split, data.pack.rows)
    options = {"short_side": short_side, "channels": data.channels}
    resized = ResizedImages(data.paths, data.sizes, long_side, **options)
    if _is_too_large(data, resized.shapes):
        return resized
    return ImageCache(data.paths, data.sizes, long_side, track, **options)


def masks_of(masks: SemanticMasks, long_side: int, track: Track | None = None) -> Any:
    """The masks of a data set by position, (H, W), as `images_of` has its images."""
    if masks.pack is not None:
        return PackedMasks(*masks.pack)
    resized = ResizedMasks(masks, long_side)
    return resized if _is_too_large(masks, resized.shapes) else MaskCache(masks, long_side, track)


def _is_too_large(data: ImageSet, shapes: NDArray[np.int64]) -> bool:
    """Whether arrays of a set in shards have no room; of other sets that is an error."""
    in_shards = any(map(place_of, data.paths[:1].tolist()))  # all images are, or none
    return in_shards and not _room_for(int(shapes.prod(1).sum()))


def channel_statistics(images: Images) -> dict[str, list[float]]:
    """ "mean" and "std" (C,) of all pixels by channel, 0..1; of packed images those of the training images of the pack.

    A channel that is the same everywhere has a standard deviation of 1/255, one grey level.
    """
    if isinstance(images, PackedImages):
        mean, std = np.array(images.info.mean), np.array(images.info.std)
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            moments = list(pool.map(lambda index: pixel_moments(images[index]), range(len(images))))
        pixels, *sums = np.sum(moments, axis=0)
        mean, squares = np.array_split(np.array(sums) / pixels, 2)
        std = np.sqrt(np.maximum(squares - mean**2, 0))
    return {"mean": mean.tolist(), "std": np.maximum(std, 1 / 255).tolist()}


def full_images(data: ImageSet, indices: Iterable[int]) -> Iterator[NDArray[np.uint8]]:
    """Some images (H, W, C) of a data set in full size: from their files, or enlarged from what is packed of them."""
    packed = None if data.pack is None else images_of(data, 0)
    for index in indices:
        if packed is None:
            yield read_image(str(data.paths[index]), data.channels)
        else:
            width, height = data.sizes[index].tolist()
            yield resize_image(packed[index], (width, height))


def fitted_shapes(sizes: NDArray[np.int32], long_side: int, short_side: int = 0) -> NDArray[np.int64]:
    """(N, 2) heights and widths of images of `sizes` (N, 2), widths and heights, at a long side of `long_side`.

    A short side is `short_side` at least; but no long side is more than twice `long_side`, so that panoramas do not
    fill the memory.
    """

    def fitted(width: int, height: int) -> tuple[int, int]:
        wanted = round(short_side * max(width, height) / max(1, min(width, height)))
        return fitted_size(width, height, min(max(long_side, wanted), 2 * long_side))[::-1]

    return np.array([fitted(*size) for size in sizes.tolist()], np.int64).reshape(-1, 2)


def _allocate(size: int) -> tuple[Tensor, str]:
    """(size,) uint8 in memory if half of what is free suffices for all processes here, else in a temporary file.

    Ordinary memory, not /dev/shm, which containers limit to 64 MB: forked workers see the same pages all the same.
    """
    place = _room_for(size)
    if place == "memory":
        return torch.empty(size, dtype=torch.uint8), place
    folder = tempfile.gettempdir()
    if not place:  # said here, because writing into a mapped file on a full disk kills the process
        raise ValueError(
            f"the images need {size * _processes() / 1e9:.1f} GB, too much for the memory, and {folder} has only "
            f"{shutil.disk_usage(folder).free / 1e9:.1f} GB left; set TMPDIR to a folder with more, or train at a "
            "smaller size"
        )
    with tempfile.NamedTemporaryFile(prefix="detseg-images-", delete=os.name != "nt") as file:
        return torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=(max(1, size),))), folder


def _room_for(size: int) -> str:
    """Where (size,) uint8 are put: "memory", the folder of temporary files, or "" where neither has room."""
    if size * _processes() <= psutil.virtual_memory().available // 2:
        return "memory"
    folder = tempfile.gettempdir()
    return folder if size <= shutil.disk_usage(folder).free else ""


def _processes() -> int:
    """How many processes of this machine have their own images; set by torchrun and accelerate."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
