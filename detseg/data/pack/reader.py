"""Images and masks of a packed file by position, read from disk as they are needed.

images = PackedImages("flowers.h5", "train")
images[7]  # uint8 (H, W, 3)
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.checks.problems import AnnotationError
from detseg.data.pack.file import (
    REMEDY,
    PackInfo,
    checked_array,
    checked_common,
    checked_dataset,
    checked_offsets,
    damaged,
    info_with,
    of_task,
    open_file,
    opened,
)
from detseg.data.sample import IGNORE


class PackReader:
    """A packed file from which data sets are read as they are asked for, by whatever process asks.

    Every process opens the file for itself, because HDF5's handles must not be shared over a fork; so objects with a
    reader can be used in forked workers, and be pickled.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._open: tuple[int, Any, dict[str, Any]] | None = None  # process id, file, data sets by place

    def rows(self, place: str, index: int | slice, stop: int | None = None) -> NDArray[np.uint8]:
        """`[index]`, or `[index, :stop]`, of a data set.

        Raises:
            AnnotationError: the file is damaged there.
        """
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), open_file(self.path), {})
        _, file, known = self._open
        try:
            if place not in known:
                known[place] = file[place]
            found: NDArray[np.uint8] = known[place][index if stop is None else (index, slice(stop))]
        except (OSError, KeyError) as error:
            raise AnnotationError(f"{self.path}: damaged, cannot be read: {error}. {REMEDY}") from error
        return found

    def close(self) -> None:
        """Close the file; the next access opens it again."""
        if self._open is not None and self._open[0] == os.getpid():
            self._open[1].close()
        self._open = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}


class PackedRows:
    """Arrays of different shapes in one data set of a packed file; each is read when it is asked for.

    Args:
        path: the packed file.
        split: one of its splits.
        rows: positions in the split, in the order wanted; by default all.

    Raises:
        AnnotationError: as `read_pack_info`; or the split is missing, or damaged.
    """

    NAME, CHANNELS, DIGESTS = "pixels", 3, "picture_digests"

    def __init__(self, path: str | Path, split: str, rows: NDArray[np.int64] | None = None) -> None:
        self.path, self.split = str(path), split
        with opened(path) as file:
            self.info = info_with(file, path, split)
            count, size = self.info.splits[split], self.info.size
            shapes = checked_common(file, self.info, split)["shapes"].astype(np.int64)
            stored = checked_dataset(file, self.info, f"{split}/{self.NAME}", "u", (count, size * size * self.CHANNELS))
            if stored.dtype != np.uint8:
                raise damaged(self.info, f"{split}/{self.NAME} must be uint8, it is {stored.dtype}")
            digests = checked_array(file, self.info, f"{split}/{self.DIGESTS}", "u", (count,))
        self.rows = _checked_rows(rows, count)
        self.digests: NDArray[np.uint64] = digests[self.rows]
        self._shapes = shapes[self.rows]
        self._reader = PackReader(path)

    def __len__(self) -> int:
        return len(self.rows)

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
        values = self._reader.rows(f"{self.split}/{self.NAME}", int(self.rows[index]), stop)
        return values.reshape((height, width, self.CHANNELS) if self.CHANNELS > 1 else (height, width))

    def close(self) -> None:
        """Close the file; the next access opens it again."""
        self._reader.close()


class PackedImages(PackedRows):
    """The images of a split, uint8 (H, W, 3), in place of a `ImageCache`."""


class PackedMasks(PackedRows):
    """The label maps of a split, uint8 (H, W), 255 for "ignore", in place of a `MaskCache`.

    Args:
        path, split, rows: as of `PackedRows`.
        labels: (256,) the label that a stored one means; by default itself.
    """

    NAME, CHANNELS, DIGESTS = "masks", 1, "mask_digests"

    def __init__(
        self,
        path: str | Path,
        split: str,
        rows: NDArray[np.int64] | None = None,
        labels: NDArray[np.uint8] | None = None,
    ) -> None:
        super().__init__(path, split, rows)
        self.labels = labels

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The map at a position; raises AnnotationError if it holds what is no class."""
        return _meaning(super().__getitem__(index), self.labels, self.info, f"{self.split}/masks", self.rows[index])


class OriginalMasks:
    """The label maps (H, W) of a split in the sizes of the original images, to evaluate predictions by.

    Args:
        path, split, rows, labels: as of `PackedMasks`.

    Raises:
        AnnotationError: as `PackedRows`; or the file is of another task.
    """

    def __init__(
        self,
        path: str | Path,
        split: str,
        rows: NDArray[np.int64] | None = None,
        labels: NDArray[np.uint8] | None = None,
    ) -> None:
        self.split, self.labels = split, labels
        with opened(path) as file:
            self.info = of_task(info_with(file, path, split), "segmentation")
            self._sizes = checked_common(file, self.info, split)["sizes"]
            self._offsets = checked_offsets(file, self.info, f"{split}/mask_offsets")
            checked_dataset(file, self.info, f"{split}/original_masks", "u", (int(self._offsets[-1]),))
        self.rows = _checked_rows(rows, self.info.splits[split])
        self._reader = PackReader(path)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The map at a position; raises AnnotationError if it is damaged."""
        row = int(self.rows[index])
        width, height = (int(side) for side in self._sizes[row])
        place = f"{self.split}/original_masks"
        start, stop = self._offsets[row : row + 2].tolist()
        unpacker = zlib.decompressobj()
        try:
            # One byte more than there may be, so that more is noticed and not kept.
            values = unpacker.decompress(self._reader.rows(place, slice(start, stop)).tobytes(), height * width + 1)
        except zlib.error as error:
            raise damaged(self.info, f"{place}, mask {row}: {error}") from error
        if len(values) != height * width:
            raise damaged(self.info, f"{place}, mask {row} does not have the {width} x {height} pixels of its image")
        mask = np.frombuffer(values, np.uint8).reshape(height, width)
        return _meaning(mask, self.labels, self.info, place, row)


def _checked_rows(rows: NDArray[np.int64] | None, count: int) -> NDArray[np.int64]:
    chosen = np.arange(count) if rows is None else np.asarray(rows, np.int64)
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < count:
        raise IndexError(f"rows must lie in 0..{count - 1}, got {chosen.min()}..{chosen.max()}")
    return chosen


def _meaning(
    mask: NDArray[np.uint8], labels: NDArray[np.uint8] | None, info: PackInfo, place: str, row: int
) -> NDArray[np.uint8]:
    """A stored map in the labels that are wanted; raises AnnotationError if it holds others than 0..K-1 and 255."""
    highest = int(mask.max(initial=0, where=mask != IGNORE))
    if highest >= len(info.categories):
        raise damaged(info, f"{place}, mask {row} has the label {highest}, of {len(info.categories)} classes")
    return mask if labels is None else labels[mask]
