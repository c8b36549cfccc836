"""Packed data sets: one HDF5 file with resized raw pictures, read from disk as they are needed.

    pictures = PackedPictures("flowers.h5", "train")
    pictures[7]  # uint8 (H, W, 3)

The form of the file is told in `detseg.data.pack_file`, whose `read_pack_info` tells what is in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.labelled import LabelledPictures, PackRows
from detseg.data.pack_file import (
    check_labels,
    checked_array,
    checked_common,
    checked_dataset,
    checked_info,
    damaged,
    of_task,
    open_file,
    opened,
)

if TYPE_CHECKING:
    import h5py

# name -> kind of numbers (numpy), columns or None
_OBJECTS = {"boxes": ("f", 4), "labels": ("i", None), "iscrowd": ("b", None), "ids": ("i", None), "areas": ("f", None)}


def read_packed_labels(path: str | Path) -> dict[str, LabelledPictures]:
    """The splits of a packed classification set; their pictures stay in the file.

    Raises:
        AnnotationError: as `read_pack_info`; or it is of another task, or damaged.
    """
    result = {}
    with opened(path) as file:
        info = of_task(checked_info(file, Path(path)), "classification")
        for split in info.splits:
            common = checked_common(file, info, split)
            labels = checked_array(file, info, f"{split}/labels", "i", (info.splits[split],))
            check_labels(labels, len(info.categories), info, f"{split}/labels")
            result[split] = LabelledPictures(
                categories=info.categories,
                image_ids=common["image_ids"].astype(np.int64),
                paths=common["names"],
                sizes=common["sizes"].astype(np.int32),
                labels=labels.astype(np.int64),
                source=f"{path} ({split})",
                pack=PackRows(str(path), split, np.arange(info.splits[split])),
            )
    return result


def read_packed_annotations(path: str | Path) -> dict[str, Annotations]:
    """The splits of a packed detection set, boxes in the pixels of the original pictures.

    `paths` are the names that the pictures had; the pictures themselves come from `PackedPictures`.

    Raises:
        AnnotationError: as `read_pack_info`; or it is of another task, or damaged.
    """
    result = {}
    with opened(path) as file:
        info = of_task(checked_info(file, Path(path)), "detection")
        for split, count in info.splits.items():
            common = checked_common(file, info, split)
            offsets = checked_array(file, info, f"{split}/offsets", "i", (count + 1,)).astype(np.int64)
            if offsets[0] != 0 or (np.diff(offsets) < 0).any():
                raise damaged(info, f"{split}/offsets must start at 0 and never fall")
            objects = {}
            for name, (kind, columns) in _OBJECTS.items():
                shape = (int(offsets[-1]), columns) if columns else (int(offsets[-1]),)
                objects[name] = checked_array(file, info, f"{split}/{name}", kind, shape)
            check_labels(objects["labels"], len(info.categories), info, f"{split}/labels")
            result[split] = Annotations(
                categories=info.categories,
                image_ids=common["image_ids"].astype(np.int64),
                paths=common["names"],
                sizes=common["sizes"].astype(np.int32),
                image_index=np.repeat(np.arange(count, dtype=np.int32), np.diff(offsets)),
                boxes=objects["boxes"].astype(np.float64),
                labels=objects["labels"].astype(np.int32),
                iscrowd=objects["iscrowd"],
                ids=objects["ids"].astype(np.int64),
                areas=objects["areas"].astype(np.float64),
                source=f"{path} ({split})",
            )
    return result


class PackedRows:
    """Arrays of different shapes in one data set of a packed file; each is read when it is asked for.

    Every process opens the file for itself, so instances can be used in forked workers, and be pickled.

    Args:
        path: the packed file.
        split: one of its splits.
        rows: positions in the split, in the order wanted; by default all.

    Raises:
        AnnotationError: as `read_pack_info`; or the split is missing, or damaged.
    """

    NAME, CHANNELS = "pixels", 3

    def __init__(self, path: str | Path, split: str, rows: NDArray[np.int64] | None = None) -> None:
        self.path, self.split = str(path), split
        with opened(path) as file:
            self.info = checked_info(file, Path(path))
            if split not in self.info.splits:
                raise AnnotationError(f"{path}: has no split {split!r}, only {', '.join(self.info.splits)}")
            count, size = self.info.splits[split], self.info.size
            shapes = checked_common(file, self.info, split)["shapes"].astype(np.int64)
            stored = checked_dataset(file, self.info, f"{split}/{self.NAME}", "u", (count, size * size * self.CHANNELS))
            if stored.dtype != np.uint8:
                raise damaged(self.info, f"{split}/{self.NAME} must be uint8, it is {stored.dtype}")
            self.chunk = int(stored.chunks[0]) if stored.chunks else count
        self.rows = np.arange(count) if rows is None else np.asarray(rows, np.int64)
        if len(self.rows) and not 0 <= self.rows.min() <= self.rows.max() < count:
            raise IndexError(f"rows must lie in 0..{count - 1}, got {self.rows.min()}..{self.rows.max()}")
        self._shapes = shapes[self.rows]
        self._open: tuple[int, h5py.File, h5py.Dataset] | None = None  # of the process with this id

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def place(self) -> str:
        """Where the arrays are, as in `PictureCache`."""
        return self.path

    @property
    def megabytes(self) -> float:
        """Size of the arrays on disk."""
        return float(self._shapes.prod(1).sum()) * self.CHANNELS / 1e6

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The array at a position, (H, W, 3) for pictures, (H, W) for masks."""
        height, width = (int(side) for side in self._shapes[index])
        values = self._stored()[int(self.rows[index]), : height * width * self.CHANNELS]
        shape = (height, width, self.CHANNELS) if self.CHANNELS > 1 else (height, width)
        array: NDArray[np.uint8] = values.reshape(shape)
        return array

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """(N,) positions in random order, chunk by chunk: for files on disks that are slow at jumping about.

        The chunks come in random order, and within each its pictures. Less random than a permutation of all: a
        set whose rows are sorted by class gives batches of few classes (`detseg pack` mixes them).
        """
        chunks = self.rows // self.chunk
        places = rng.permutation(int(chunks.max(initial=0)) + 1)[chunks]
        return np.lexsort((rng.random(len(self)), places)).astype(np.int64)

    def close(self) -> None:
        """Close the file; the next access opens it again."""
        if self._open is not None and self._open[0] == os.getpid():
            self._open[1].close()
        self._open = None

    def _stored(self) -> Any:
        if self._open is None or self._open[0] != os.getpid():
            file = open_file(self.path)
            self._open = (os.getpid(), file, file[f"{self.split}/{self.NAME}"])
        return self._open[2]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}


class PackedPictures(PackedRows):
    """The pictures of a split, uint8 (H, W, 3), in place of a `PictureCache`."""


class PackedMasks(PackedRows):
    """The label maps of a split, uint8 (H, W), 255 for "ignore"."""

    NAME, CHANNELS = "masks", 1
