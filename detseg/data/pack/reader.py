"""Images and masks of a packed file by position, read from disk as they are needed.

    images = PackedImages("flowers.h5", "train")
    images[7]  # uint8 (H, W, 3)

Every process opens the file for itself, because HDF5's handles must not be shared over a fork; so these objects can be
used in forked workers, and be pickled.
"""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.checks.problems import AnnotationError
from detseg.data.pack.file import REMEDY, OpenPack, damaged, open_file, opened
from detseg.data.sample import IGNORE
from detseg.reading import cause


class PackedImages:
    """The images of a split, uint8 (H, W, 3), in place of an `ImageCache`.

    `rows` are positions in the split, in the order wanted; by default all. Raises AnnotationError: as `read_pack_info`;
    or the split is missing, or damaged.
    """

    NAME, CHANNELS, DIGESTS = "pixels", 3, "picture_digests"

    def __init__(self, path: str | Path, split: str, rows: NDArray[np.int64] | None = None) -> None:
        self.path, self.split = str(path), split
        self._open: tuple[int, Any, dict[str, Any]] | None = None  # process id, file, data sets by place
        self._mark = _mark(self.path)
        with opened(path) as pack:
            self.info = pack.info.require(split=split)
            count = self.info.splits[split]
            self.rows = np.arange(count) if rows is None else np.asarray(rows, np.int64)
            if len(self.rows) and not 0 <= self.rows.min() <= self.rows.max() < count:
                raise IndexError(f"rows must lie in 0..{count - 1}, got {self.rows.min()}..{self.rows.max()}")
            self._check(pack, pack.images(split))

    def _check(self, pack: OpenPack, images: dict[str, NDArray[Any]]) -> None:
        count, size = self.info.splits[self.split], self.info.size
        stored = pack.dataset(f"{self.split}/{self.NAME}", "u", (count, size * size * self.CHANNELS))
        if stored.dtype != np.uint8:
            raise damaged(self.path, f"{self.split}/{self.NAME} must be uint8, it is {stored.dtype}")
        self.digests: NDArray[np.uint64] = pack.array(f"{self.split}/{self.DIGESTS}", "u", (count,))[self.rows]
        self._shapes = images["shapes"].astype(np.int64)[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self, place: str, index: int | slice, stop: int | None = None) -> NDArray[np.uint8]:
        """`[index]`, or `[index, :stop]`, of a data set; AnnotationError: the file is damaged there, or has changed."""
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), open_file(self.path), {})
        _, file, known = self._open
        try:
            if place not in known:
                known[place] = file[place]
            found: NDArray[np.uint8] = known[place][index if stop is None else (index, slice(stop))]
        except Exception as error:  # h5py raises many kinds
            raise AnnotationError(f"{self.path}: damaged, cannot be read: {cause(error)}. {REMEDY}") from error
        if _mark(self.path) != self._mark:  # looked at last: HDF5 reads zeros where a file has been cut
            raise AnnotationError(f"{self.path}: has been changed or removed since it was opened; put it back")
        return found

    def close(self) -> None:
        """Close the file; the next access opens it again."""
        if self._open is not None and self._open[0] == os.getpid():
            self._open[1].close()
        self._open = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    @property
    def place(self) -> str:
        """Where the arrays are, as in `ImageCache`."""
        return self.path

    @property
    def long_side(self) -> int:
        """Of the arrays, in pixels, as in `ImageCache`."""
        return self.info.size

    @property
    def megabytes(self) -> float:
        """Size of the arrays on disk."""
        return float(self._shapes.prod(1).sum()) * self.CHANNELS / 1e6

    def content(self) -> NDArray[np.generic]:
        """What differs if an array does, as in `ImageCache`; nothing large is read for it."""
        return self.digests

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The array at a position, (H, W, 3) for images, (H, W) for masks."""
        height, width = (int(side) for side in self._shapes[index])
        stop = height * width * self.CHANNELS
        values = self._read(f"{self.split}/{self.NAME}", int(self.rows[index]), stop)
        return values.reshape((height, width, self.CHANNELS) if self.CHANNELS > 1 else (height, width))


def _mark(path: str) -> tuple[int, int] | None:
    """What differs if a file does, nearly always: its size and when it was written; None if it is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116 - speed, once an image
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


class PackedMasks(PackedImages):
    """The label maps of a split, uint8 (H, W), 255 for "ignore", in place of a `MaskCache`."""

    NAME, CHANNELS, DIGESTS = "masks", 1, "mask_digests"

    def __init__(
        self,
        path: str | Path,
        split: str,
        rows: NDArray[np.int64] | None = None,
        labels: NDArray[np.uint8] | None = None,  # (256,) the label that a stored one means; by default itself
    ) -> None:
        super().__init__(path, split, rows)
        self.labels = labels

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The map at a position; raises AnnotationError if it holds what is no class."""
        return self._relabelled(super().__getitem__(index), f"{self.split}/masks, mask {self.rows[index]}")

    def _relabelled(self, mask: NDArray[np.uint8], place: str) -> NDArray[np.uint8]:
        """A stored map in the labels that are wanted."""
        highest, classes = int(mask.max(initial=0, where=mask != IGNORE)), len(self.info.categories)
        if highest >= classes:
            raise damaged(self.path, f"{place} has the label {highest}, of {classes} classes")
        return mask if self.labels is None else self.labels[mask]


class OriginalMasks(PackedMasks):
    """The same in the sizes of the original images, to evaluate predictions by."""

    def _check(self, pack: OpenPack, images: dict[str, NDArray[Any]]) -> None:
        self.info.require(task="segmentation")
        self._shapes = images["sizes"][:, ::-1].astype(np.int64)[self.rows]
        self._offsets = pack.offsets(f"{self.split}/mask_offsets")
        pack.dataset(f"{self.split}/original_masks", "u", (int(self._offsets[-1]),))

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The map at a position; raises AnnotationError if it is damaged."""
        row, shape = int(self.rows[index]), tuple(self._shapes[index].tolist())
        place = f"{self.split}/original_masks, mask {row}"
        stored = self._read(f"{self.split}/original_masks", slice(*self._offsets[row : row + 2].tolist()))
        try:
            # One byte more than there may be, so that more is noticed and not kept.
            values = zlib.decompressobj().decompress(stored.tobytes(), shape[0] * shape[1] + 1)
        except zlib.error as error:
            raise damaged(self.path, f"{place}: {error}") from error
        if len(values) != shape[0] * shape[1]:
            raise damaged(self.path, f"{place} does not have the {shape[1]} x {shape[0]} pixels of its image")
        return self._relabelled(np.frombuffer(values, np.uint8).reshape(shape), place)
