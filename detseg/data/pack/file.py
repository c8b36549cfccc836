"""The form of packed data sets: HDF5 files that are opened with distrust, since others may have written them.

The file, written by `write_pack` (K classes, N images, M objects, side S, chunks of B images):

    attributes        format = "detseg pack", version, task, size = S, mean (3,), std (3,) of training, 0..1
    category_ids      (K,) the data set's own ids; category_names (K,)
    <split>/pixels    (N, S * S * 3) uint8, chunks (B, S * S * 3): rows of height * width * 3 values, then nothing
    <split>/shapes    (N, 2) height and width of the stored image, long side S
    <split>/sizes     (N, 2) width and height of the image it was made from
    <split>/image_ids (N,), names (N,) paths within the data set
    <split>/picture_digests (N,) uint64: equal for images whose files are equal
    classification:   <split>/labels (N,)
    detection:        <split>/offsets (N + 1,): image i has the rows offsets[i] up to offsets[i + 1] of
                      boxes (M, 4) xyxy in pixels of the original, labels, iscrowd, ids, areas (M,); where objects
                      have masks, <split>/segments/ has the arrays of `detseg.data.polygons.Segments`
    segmentation:     <split>/masks (N, S * S) uint8, as pixels with one channel: 0..K-1, 255 is "ignore"
                      <split>/mask_digests (N,) uint64: equal for masks that are equal
                      <split>/mask_offsets (N + 1,): of original_masks uint8, the bytes from offsets[i] up to
                      offsets[i + 1] are mask i in the size of its original, zlib, to evaluate predictions by
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.base import Category, PackRows
from detseg.data.checks.problems import AnnotationError
from detseg.data.pack.heaps import first_heaps_fit, heaps_fit
from detseg.data.pack.idx import read_idx_images
from detseg.data.polygons import FAR, Segments
from detseg.data.shard_members import read_content
from detseg.reading import FileError, cause

FORMAT, VERSION = "detseg pack", 1
EXTENSIONS = (".h5", ".hdf5")
UNDIVIDED = "all"  # the one split of a packed file whose images had no splits
TASKS = ("classification", "detection", "segmentation")
MAX_SIDE = 16384  # pixels

REMEDY = "Pack the data again: detseg pack"
ATTRIBUTES = ("format", "version", "task", "size", "mean", "std")
# name -> kind of numbers (numpy), further axes
_COMMON: dict[str, tuple[str, tuple[int, ...]]] = {
    "shapes": ("i", (2,)),
    "sizes": ("i", (2,)),
    "image_ids": ("i", ()),
    "picture_digests": ("u", ()),
}
# task of a file -> what to do with it when another one is wanted
_OTHERWISE = {
    "classification": "it can train a classifier",
    "detection": "it can train a detector or a localizer (if its data have polygons, --task segmentation packs masks)",
    "segmentation": "it can train a segmenter (if its data have boxes, --task detection packs them)",
}


@dataclass(frozen=True)
class PackInfo:
    """What a packed file says of itself."""

    file: str
    task: str  # one of TASKS
    size: int  # long side of the images, pixels
    categories: tuple[Category, ...]
    mean: tuple[float, float, float]  # of the training images' channels, 0..1
    std: tuple[float, float, float]
    splits: dict[str, int]  # name -> number of images

    def require(self, *, task: str | None = None, split: str | None = None) -> PackInfo:
        """The same, or AnnotationError if it is of another task, or has no such split."""
        if task not in (None, self.task):
            raise AnnotationError(f"{self.file}: packed for {self.task}, not for {task}: {_OTHERWISE[self.task]}")
        if split is not None and split not in self.splits:
            raise AnnotationError(f"{self.file}: has no split {split!r}, only {', '.join(self.splits)}")
        return self


def is_pack(path: str | Path) -> bool:
    """Whether a path looks like a packed file, by its ending."""
    return Path(path).suffix.lower() in EXTENSIONS


def read_pack_info(path: str | Path) -> PackInfo:
    """What is in a packed file; AnnotationError: it is no packed data set, is cut short, or is of another version."""
    with opened(path) as pack:
        return pack.info


@contextmanager
def opened(path: str | Path) -> Iterator[OpenPack]:
    """The open file; errors while reading are raised as AnnotationError of this file."""
    file = open_file(path)
    try:
        yield OpenPack(file, Path(path))
    except (AnnotationError, IndexError):  # IndexError: rows that were asked for are not there
        raise
    except Exception as error:  # h5py raises many kinds
        raise AnnotationError(f"{path}: damaged, cannot be read: {cause(error)}. {REMEDY}") from error
    finally:
        file.close()


def open_file(path: str | Path) -> Any:
    """The h5py.File, for reading; AnnotationError: there is no such file, it is no HDF5 file, or it is cut short."""
    import h5py  # here: 0.4 s, and most work needs none of it

    if not Path(path).is_file():
        raise AnnotationError(f"{path}: does not exist")
    if not h5py.is_hdf5(path):
        raise AnnotationError(f"{path}: not an HDF5 file. {REMEDY}")
    try:
        # Chunks are not compressed, so any row can be read by itself; the cache would read whole chunks instead.
        return h5py.File(path, "r", rdcc_nbytes=0, locking="best-effort")
    except OSError as error:
        raise AnnotationError(f"{path}: damaged or cut short: {error}. {REMEDY}") from error


class OpenPack:
    """An open file whose data are checked as they are read: AnnotationError for what makes no sense."""

    def __init__(self, file: Any, path: Path) -> None:
        self.file, self.path = file, path
        self.info = self._read_info()

    def _read_info(self) -> PackInfo:
        import h5py

        if not first_heaps_fit(self.path):
            raise damaged(self.path, "its texts cannot be read")
        values = {name: self._attribute(name) for name in ATTRIBUTES}
        if not _is(values.get("format"), str, FORMAT):
            raise AnnotationError(f"{self.path}: an HDF5 file, but not one that `detseg pack` wrote")
        version = values.get("version")
        if not _is(version, np.integer, VERSION):
            what = f"version {version!s:.80} of the format; this detseg reads {VERSION}. {REMEDY}"
            raise AnnotationError(f"{self.path}: {what}")
        task, size = values.get("task"), values.get("size")
        if not _is(task, str, *TASKS) or not isinstance(size, np.integer) or not 1 <= size <= MAX_SIDE:
            raise damaged(self.path, f"task {task!r:.80} or size {size!r:.80}")
        mean, std = (np.asarray(values[name]) for name in ("mean", "std"))
        if any(found.shape != (3,) or found.dtype.kind != "f" or not np.isfinite(found).all() for found in (mean, std)):
            raise damaged(self.path, "mean and std must be three numbers each")
        names = self.strings("category_names")
        ids = self.array("category_ids", "i", (len(names),))
        splits = {}
        for split in self.file:
            if isinstance(self._hard(split), h5py.Group):
                splits[split] = len(self.dataset(f"{split}/image_ids", "i", None))
        first = [name for name in ("train", "val", "test") if name in splits]
        return PackInfo(
            file=str(self.path),
            task=str(task),
            size=int(size),
            categories=tuple(Category(int(i), str(name)) for i, name in zip(ids, names, strict=True)),
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            splits={name: splits[name] for name in (*first, *sorted(splits.keys() - first))},
        )

    def _attribute(self, name: str) -> Any:
        """An attribute of text or numbers; None where there is none, or of another type: HDF5 crashes at some."""
        from h5py import h5t

        if name not in self.file.attrs:
            return None
        kind = self.file.attrs.get_id(name).get_type().get_class()
        return self.file.attrs[name] if kind in (h5t.STRING, h5t.INTEGER, h5t.FLOAT) else None

    def images(self, split: str) -> dict[str, NDArray[Any]]:
        """The arrays over the images of a split."""
        from detseg.data.images import MAX_PIXELS  # here: they need OpenCV
        from detseg.data.letterbox import fitted_size

        self.info.require(split=split)
        count = self.info.splits[split]
        names = self.strings(f"{split}/names")
        if len(names) != count:
            raise damaged(self.path, f"{split}/names has {len(names)} entries, expected {count}")
        arrays = {name: self.array(f"{split}/{name}", kind, (count, *axes)) for name, (kind, axes) in _COMMON.items()}
        shapes, sizes = arrays["shapes"].astype(np.int64), arrays["sizes"].astype(np.int64)
        if (shapes < 1).any() or (shapes > self.info.size).any():
            raise damaged(self.path, f"{split}/shapes must lie in 1..{self.info.size}")
        if (sizes < 1).any() or (sizes.astype(np.float64).prod(1) > MAX_PIXELS).any():
            raise damaged(self.path, f"{split}/sizes must be positive and not above {MAX_PIXELS} pixels")
        fitted = np.array([fitted_size(w, h, self.info.size)[::-1] for w, h in sizes.tolist()], np.int64)
        wrong = np.flatnonzero((fitted.reshape(-1, 2) != shapes).any(1))
        if len(wrong):
            raise damaged(self.path, f"{split}/shapes and sizes do not fit each other, at row {wrong[0]}")
        return arrays | {"names": names}

    def offsets(self, place: str, count: int | None = None) -> NDArray[np.int64]:
        """(N + 1,) where the entries of each image, or each of `count` other things, begin and end."""
        count = self.info.splits[place.split("/")[0]] if count is None else count
        offsets = self.array(place, "i", (count + 1,)).astype(np.int64)
        if offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise damaged(self.path, f"{place} must start at 0 and never fall")
        return offsets

    def labels(self, place: str, count: int) -> NDArray[np.int64]:
        """(count,) labels 0..K-1."""
        labels = self.array(place, "i", (count,)).astype(np.int64)
        classes = len(self.info.categories)
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise damaged(self.path, f"{place} must lie in 0..{classes - 1}, they are {labels.min()}..{labels.max()}")
        return labels

    def segments(self, split: str, count: int, sizes: NDArray[np.integer]) -> Segments | None:
        """The masks of M = `count` objects on images of `sizes` (M, 2) width and height; None where there are none."""
        place = f"{split}/segments"
        if self.file[split].get("segments", getlink=True) is None:
            return None
        polygons, runs = (self.offsets(f"{place}/{name}_offsets", count) for name in ("polygon", "rle"))
        points = self.offsets(f"{place}/point_offsets", int(polygons[-1]))
        segments = Segments(
            polygon_offsets=polygons,
            point_offsets=points,
            points=self.array(f"{place}/points", "f", (int(points[-1]), 2)).astype(np.float64),
            rle_offsets=runs,
            rle_bytes=self.array(f"{place}/rle_bytes", "u", (int(runs[-1]),)).astype(np.uint8),
            rle_sizes=self.array(f"{place}/rle_sizes", "i", (count, 2)).astype(np.int32),
        )
        if not (np.abs(segments.points) < FAR).all():  # not NaN either
            raise damaged(self.path, f"{place}/points must lie in -{FAR:g}..{FAR:g}")
        for row in np.flatnonzero(segments.has_rle).tolist():
            if not segments.rle_fits(row, sizes[row].tolist()):
                raise damaged(self.path, f"{place}: object {row} has no mask of its image's size")
        return segments

    def strings(self, place: str) -> NDArray[np.str_]:
        """All of a data set of texts."""
        found = self.dataset(place, "O", None)
        if not heaps_fit(self.path, found):
            raise damaged(self.path, f"{place}: its texts cannot be read")
        return np.array(found.asstr()[()], dtype=np.str_)

    def array(self, place: str, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """All of a data set, see `dataset`."""
        array: NDArray[Any] = self.dataset(place, kind, shape)[()]
        return array

    def dataset(self, place: str, kind: str, shape: tuple[int, ...] | None) -> Any:
        """A data set of this file itself, of this kind (of numpy) and shape (None: any one-dimensional)."""
        import h5py

        found = self._hard(place)
        if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
            raise damaged(self.path, f"{place} must be a data set of this file")
        if found.dtype.kind not in (kind, "u" if kind == "i" else kind):
            raise damaged(self.path, f"{place} holds {found.dtype}")
        if len(found.shape) != 1 if shape is None else found.shape != shape:
            raise damaged(self.path, f"{place} has shape {found.shape}, expected {shape or '(N,)'}")
        if found.size * found.dtype.itemsize > found.id.get_storage_size():  # it may claim any size without having it
            raise damaged(self.path, f"{place} holds less than its shape {found.shape} says")
        return found

    def _hard(self, place: str) -> Any:
        """What lies at a place of this file; links that lead into other files are refused."""
        import h5py

        group = self.file
        for word in place.split("/"):
            link = group.get(word, getlink=True) if isinstance(group, h5py.Group) else None
            if link is None:
                raise damaged(self.path, f"{place} is missing")
            if not isinstance(link, h5py.HardLink):
                raise damaged(self.path, f"{place} is a link, which may lead anywhere")
            group = group[word]
        return group


def _is(value: Any, kind: type, *wanted: Any) -> bool:
    """Whether an attribute is of this kind, and one of these: an array would be compared entry by entry."""
    return isinstance(value, kind) and value in wanted


def damaged(path: str | Path, what: str) -> AnnotationError:
    """An error that says what is damaged."""
    return AnnotationError(f"{path}: damaged: {what}. {REMEDY}")


def image_digests(pack: PackRows) -> NDArray[np.uint64]:
    """(N,) of images in a packed file: equal where their original files were; in an idx file: where the images are."""
    if not is_pack(pack.file):
        images = read_idx_images(pack.file)
        return np.array([content_digest(images[row].tobytes()) for row in pack.rows.tolist()], np.uint64)
    with opened(pack.file) as file:
        count = file.info.require(split=pack.split).splits[pack.split]
        return np.asarray(file.array(f"{pack.split}/picture_digests", "u", (count,))[pack.rows], np.uint64)


def content_digest(content: bytes) -> int:
    """What a packed file keeps of an image's file, or of a mask: equal where the contents are."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def file_digest(path: str) -> int | None:
    """`content_digest` of a file; None if it cannot be read."""
    try:
        return content_digest(read_content(path))
    except (OSError, FileError):
        return None
