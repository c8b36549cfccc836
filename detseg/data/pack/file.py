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
                      boxes (M, 4) xyxy in pixels of the original, labels, iscrowd, ids, areas (M,)
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

FORMAT, VERSION = "detseg pack", 1
EXTENSIONS = (".h5", ".hdf5")
UNDIVIDED = "all"  # the one split of a packed file whose images had no splits
TASKS = ("classification", "detection", "segmentation")
MAX_SIDE = 16384  # pixels

REMEDY = "Pack the data again: detseg pack"
# name -> kind of numbers (numpy), columns or None
_COMMON = {
    "shapes": ("i", 2),
    "sizes": ("i", 2),
    "image_ids": ("i", None),
    "names": ("O", None),
    "picture_digests": ("u", None),
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


def read_pack_info(path: str | Path) -> PackInfo:
    """What is in a packed file.

    Raises:
        AnnotationError: it is no packed data set, is cut short, or is of another version.
    """
    with opened(path) as file:
        return checked_info(file, Path(path))


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """The open file; errors while reading are told as such of this file."""
    file = open_file(path)
    try:
        yield file
    except (OSError, KeyError, RuntimeError, UnicodeDecodeError, TypeError) as error:
        raise AnnotationError(f"{path}: damaged, cannot be read: {error}. {REMEDY}") from error
    finally:
        file.close()


def open_file(path: str | Path) -> Any:
    """The h5py.File, for reading.

    Raises:
        AnnotationError: there is no such file, it is no HDF5 file, or it is cut short.
    """
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


def checked_info(file: Any, path: Path) -> PackInfo:
    """What an open file says of itself; raises AnnotationError if that makes no sense."""
    import h5py

    attributes = dict(file.attrs)
    if attributes.get("format") != FORMAT:
        raise AnnotationError(f"{path}: an HDF5 file, but not one that `detseg pack` wrote")
    if attributes.get("version") != VERSION:
        raise AnnotationError(
            f"{path}: version {attributes.get('version')} of the format; this detseg reads {VERSION}. {REMEDY}"
        )
    task, size = attributes.get("task"), attributes.get("size")
    mean, std = (np.asarray(attributes.get(name, ()), np.float64) for name in ("mean", "std"))
    bare = PackInfo(str(path), str(task), 0, (), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), {})
    if task not in TASKS or not isinstance(size, int | np.integer) or not 1 <= size <= MAX_SIDE:
        raise damaged(bare, f"task {task!r} or size {size!r}")
    if mean.shape != (3,) or std.shape != (3,) or not np.isfinite([mean, std]).all():
        raise damaged(bare, "mean and std must be three numbers each")
    names = _strings(file, bare, "category_names")
    ids = checked_array(file, bare, "category_ids", "i", (len(names),))
    splits = {}
    for split in file:
        if isinstance(_hard(file, bare, split), h5py.Group):
            splits[split] = len(checked_dataset(file, bare, f"{split}/image_ids", "i", None))
    order = [name for name in ("train", "val", "test") if name in splits]
    order += sorted(set(splits) - set(order))
    return PackInfo(
        file=str(path),
        task=str(task),
        size=int(size),
        categories=tuple(Category(int(i), str(name)) for i, name in zip(ids, names, strict=True)),
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        splits={name: splits[name] for name in order},
    )


def checked_common(file: Any, info: PackInfo, split: str) -> dict[str, NDArray[Any]]:
    """The checked arrays over the images of a split."""
    from detseg.data.images import MAX_PIXELS  # here: they need OpenCV
    from detseg.data.letterbox import fitted_size

    count = info.splits[split]
    arrays: dict[str, NDArray[Any]] = {}
    for name, (kind, columns) in _COMMON.items():
        place = f"{split}/{name}"
        if kind == "O":
            arrays[name] = _strings(file, info, place)
            if len(arrays[name]) != count:
                raise damaged(info, f"{place} has {len(arrays[name])} entries, expected {count}")
        else:
            arrays[name] = checked_array(file, info, place, kind, (count, columns) if columns else (count,))
    shapes, sizes = arrays["shapes"].astype(np.int64), arrays["sizes"].astype(np.int64)
    if (shapes < 1).any() or (shapes > info.size).any():
        raise damaged(info, f"{split}/shapes must lie in 1..{info.size}")
    if (sizes < 1).any() or (sizes.astype(np.float64).prod(1) > MAX_PIXELS).any():
        raise damaged(info, f"{split}/sizes must be positive and not above {MAX_PIXELS} pixels")
    fitted = np.array([fitted_size(w, h, info.size)[::-1] for w, h in sizes.tolist()], np.int64).reshape(-1, 2)
    if (fitted != shapes).any():
        row = int(np.flatnonzero((fitted != shapes).any(1))[0])
        raise damaged(info, f"{split}/shapes and sizes do not fit each other, at row {row}")
    return arrays


def checked_offsets(file: Any, info: PackInfo, place: str) -> NDArray[np.int64]:
    """(N + 1,) where the entries of each image begin and end."""
    count = info.splits[place.split("/")[0]]
    offsets = checked_array(file, info, place, "i", (count + 1,)).astype(np.int64)
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise damaged(info, f"{place} must start at 0 and never fall")
    return offsets


def checked_dataset(file: Any, info: PackInfo, place: str, kind: str, shape: tuple[int, ...] | None) -> Any:
    """A data set of this file itself, of this kind and shape (None: any one-dimensional)."""
    found = _hard(file, info, place)
    if not hasattr(found, "dtype") or found.is_virtual or found.external:
        raise damaged(info, f"{place} must be a data set of this file")
    if found.dtype.kind not in (kind, "u" if kind == "i" else kind):
        raise damaged(info, f"{place} holds {found.dtype}")
    if len(found.shape) != 1 if shape is None else found.shape != shape:
        raise damaged(info, f"{place} has shape {found.shape}, expected {shape or '(N,)'}")
    if found.size * found.dtype.itemsize > found.id.get_storage_size():  # it may claim any size without having it
        raise damaged(info, f"{place} holds less than its shape {found.shape} says")
    return found


def _hard(file: Any, info: PackInfo, place: str) -> Any:
    """What lies at a place of this file; links that lead into other files are refused."""
    import h5py

    group = file
    for word in place.split("/"):
        link = group.get(word, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise damaged(info, f"{place} is missing")
        if not isinstance(link, h5py.HardLink):
            raise damaged(info, f"{place} is a link, which may lead anywhere")
        group = group[word]
    return group


def checked_array(file: Any, info: PackInfo, place: str, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """All of a data set (`checked_dataset`)."""
    array: NDArray[Any] = checked_dataset(file, info, place, kind, shape)[()]
    return array


def _strings(file: Any, info: PackInfo, place: str) -> NDArray[np.str_]:
    return np.array(checked_dataset(file, info, place, "O", None).asstr()[()], dtype=np.str_)


def check_labels(labels: NDArray[Any], classes: int, info: PackInfo, place: str) -> None:
    """Raise AnnotationError for labels outside 0..K-1."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise damaged(info, f"{place} must lie in 0..{classes - 1}, they are {labels.min()}..{labels.max()}")


def of_task(info: PackInfo, task: str) -> PackInfo:
    """The same, or AnnotationError if it is of another task."""
    if info.task != task:
        raise AnnotationError(f"{info.file}: packed for {info.task}, not for {task}: {_OTHERWISE[info.task]}")
    return info


def damaged(info: PackInfo, what: str) -> AnnotationError:
    """An error that says so."""
    return AnnotationError(f"{info.file}: damaged: {what}. {REMEDY}")


def is_pack(path: str | Path) -> bool:
    """Whether a path looks like a packed file, by its ending."""
    return Path(path).suffix.lower() in EXTENSIONS


def content_digest(content: bytes) -> int:
    """What a packed file keeps of an image's file, or of a mask: equal where the contents are."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def file_digest(path: str) -> int | None:
    """`content_digest` of a file; None if it cannot be read."""
    try:
        return content_digest(Path(path).read_bytes())
    except OSError:
        return None


def info_with(file: Any, path: str | Path, split: str) -> PackInfo:
    """What a file that has to have a split says of itself."""
    info = checked_info(file, Path(path))
    if split not in info.splits:
        raise AnnotationError(f"{path}: has no split {split!r}, only {', '.join(info.splits)}")
    return info


def image_digests(pack: PackRows) -> NDArray[np.uint64]:
    """(N,) of images in a packed file: equal where their original files were."""
    with opened(pack.file) as file:
        info = info_with(file, pack.file, pack.split)
        found = checked_array(file, info, f"{pack.split}/picture_digests", "u", (info.splits[pack.split],))
    return np.asarray(found[pack.rows], np.uint64)
