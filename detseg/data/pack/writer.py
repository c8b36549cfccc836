"""Writing a data set of any task into one HDF5 file, see `detseg.data.pack.file` for its form.

A folder of JPEG files costs reading and decoding in every epoch; a packed file costs reading of what is needed. It
is for sets that are larger than the memory; smaller ones are kept in memory anyway (`ImageCache`).
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.images import read_image
from detseg.data.labels import LabelledImages
from detseg.data.letterbox import resize_long_side, resize_mask
from detseg.data.pack.file import FORMAT, MAX_SIDE, VERSION, PackInfo, read_pack_info
from detseg.data.pack.rows import content_digest

if TYPE_CHECKING:
    from detseg.data.masks import SemanticMasks

    Split = Annotations | LabelledImages | SemanticMasks

Track = Callable[[Iterable[int], int], Iterable[int]]

CHUNK = 32
"""Images of a chunk: a batch, so that reading in the file's order reads whole chunks."""


def write_pack(
    path: str | Path,
    splits: Mapping[str, Split],
    size: int,
    *,
    chunk: int = CHUNK,
    seed: int = 0,
    track: Track | None = None,
) -> PackInfo:
    """Write the splits of a data set into one file, which is either complete or not there.

    Images are resized to a long side of `size`, as `ImageCache` does, and stored in random order, so that
    neighbours are of different classes. Masks are also stored in the sizes of the originals, to judge by them.
    Outlines of objects are not stored.

    Args:
        path: the file to write; replaced if it is there.
        splits: "train" and others, all of one kind and with the same categories.
        size: long side of the images, pixels.
        chunk: images to a chunk.
        seed: of the order.
        track: shows progress, see `detseg.data.dataset.Track`.

    Returns:
        What the file says of itself.

    Raises:
        ValueError: an image cannot be read or has another size than the annotations say, the splits do not fit
            together, or there is no room for the file.
    """
    path = Path(path)
    _check(path, splits, size, chunk)
    _check_room(path, splits, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _write(temporary, splits, size, chunk, seed, track)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return read_pack_info(path)


def task_of(data: Split) -> str:
    """The task that a split is for."""
    kinds = {LabelledImages: "classification", Annotations: "detection"}
    return next((task for kind, task in kinds.items() if isinstance(data, kind)), "segmentation")


def _check(path: Path, splits: Mapping[str, Split], size: int, chunk: int) -> None:
    if not 1 <= size <= MAX_SIDE:
        raise ValueError(f"size must lie in 1..{MAX_SIDE} pixels, not {size}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 image, not {chunk}")
    if not splits:
        raise ValueError(f"{path}: there are no splits to write")
    kinds = {(task_of(data), data.categories) for data in splits.values()}
    if len(kinds) > 1:
        raise ValueError(f"{path}: the splits {', '.join(splits)} must be of one task and have the same categories")
    for name, data in splits.items():
        if not len(data):
            raise ValueError(f"{path}: the split {name!r} has no images")
        if data.pack is not None:
            raise ValueError(f"{data.pack.file}: is packed already")
        if not name.isidentifier() or name.startswith("category_"):
            raise ValueError(f"{path}: a split cannot be named {name!r}; use letters, such as train")


def _check_room(path: Path, splits: Mapping[str, Split], size: int) -> None:
    channels = 4 if task_of(next(iter(splits.values()))) == "segmentation" else 3
    needed = sum(map(len, splits.values())) * size * size * channels
    folder = next(folder for folder in path.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{path}: the file needs {needed / 1e9:.2f} GB, {folder} has {free / 1e9:.2f} GB left; choose another "
            "folder or a smaller size"
        )


def _write(path: Path, splits: Mapping[str, Split], size: int, chunk: int, seed: int, track: Track | None) -> None:
    import h5py

    first = next(iter(splits.values()))
    with h5py.File(path, "x") as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "task": task_of(first), "size": size})
        file["category_ids"] = np.array([category.id for category in first.categories], np.int64)
        _write_strings(file, "category_names", [category.name for category in first.categories])
        moments = {}
        total = sum(map(len, splits.values()))
        progress = iter(track(range(total), total) if track else range(total))
        for name, data in splits.items():
            order = np.random.default_rng(seed).permutation(len(data))
            moments[name] = _write_split(file.create_group(name), data.subset(order), size, chunk, progress)
        next(progress, None)  # lets it end
        mean, std = _mean_and_std(moments.get("train", next(iter(moments.values()))))
        file.attrs.update({"mean": mean, "std": std})


class _Prepared(NamedTuple):
    """One image as it is written."""

    image: NDArray[np.uint8]  # at its new size
    size: tuple[int, int]  # width and height of the original
    digest: int
    mask: _PreparedMask | None


class _PreparedMask(NamedTuple):
    """Its mask, where the task has them."""

    mask: NDArray[np.uint8]  # at the image's new size
    original: bytes  # packed, at the original's
    digest: int


def _write_split(group: Any, data: Split, size: int, chunk: int, progress: Iterator[int]) -> list[NDArray[np.float64]]:
    """Write one split; returns the `_moments` of its images."""
    count = len(data)
    group["image_ids"] = np.asarray(data.image_ids, np.int64)
    _write_strings(group, "names", _names(data.paths.tolist()))
    if isinstance(data, LabelledImages):
        group["labels"] = data.labels.astype(np.int64)
    elif isinstance(data, Annotations):
        group["offsets"] = data.offsets
        for name in ("boxes", "labels", "iscrowd", "ids", "areas"):
            group[name] = getattr(data, name)
    rows = _create_rows(group, "pixels", count, size * size * 3, chunk)
    masks = _MaskWriter(group, count, size, chunk) if task_of(data) == "segmentation" else None
    sizes, shapes, digests = np.zeros((count, 2), np.int32), np.zeros((count, 2), np.int32), np.zeros(count, np.uint64)
    moments = []
    # A chunk at a time: what waits to be written must not fill the memory.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, count, chunk):
            members = range(start, min(start + chunk, count))
            pixels = np.zeros((len(members), size * size * 3), np.uint8)
            found = []
            for row, prepared in enumerate(pool.map(lambda i: _prepared(data, i, size), members)):
                image, index = prepared.image, members[row]
                sizes[index], shapes[index], digests[index] = prepared.size, image.shape[:2], prepared.digest
                pixels[row, : image.size] = image.reshape(-1)
                moments.append(_moments(image))
                found.append(prepared.mask)
                next(progress, None)
            rows[members.start : members.stop] = pixels
            if masks is not None:
                masks.write(members.start, [mask for mask in found if mask is not None])
    group["sizes"], group["shapes"], group["picture_digests"] = sizes, shapes, digests
    if masks is not None:
        group["mask_digests"], group["mask_offsets"] = masks.digests, masks.offsets
    return moments


class _MaskWriter:
    """Writes masks, resized in rows like the images and packed in their original sizes one after another."""

    def __init__(self, group: Any, count: int, size: int, chunk: int) -> None:
        self.rows = _create_rows(group, "masks", count, size * size, chunk)
        self.originals = group.create_dataset("original_masks", (0,), np.uint8, maxshape=(None,), chunks=(2**16,))
        self.digests, self.offsets = np.zeros(count, np.uint64), np.zeros(count + 1, np.int64)

    def write(self, start: int, masks: Sequence[_PreparedMask]) -> None:
        """Write the masks of the images from `start` on."""
        stop = start + len(masks)
        values = np.zeros((len(masks), self.rows.shape[1]), np.uint8)
        for row, mask in enumerate(masks):
            values[row, : mask.mask.size] = mask.mask.reshape(-1)
        self.rows[start:stop] = values
        self.digests[start:stop] = [mask.digest for mask in masks]
        self.offsets[start + 1 : stop + 1] = self.offsets[start] + np.cumsum([len(mask.original) for mask in masks])
        self.originals.resize((int(self.offsets[stop]),))
        joined = np.frombuffer(b"".join(mask.original for mask in masks), np.uint8)
        self.originals[int(self.offsets[start]) : int(self.offsets[stop])] = joined


def _create_rows(group: Any, name: str, count: int, width: int, chunk: int) -> Any:
    # Every chunk is written once and whole, so there is nothing to fill in beforehand.
    return group.create_dataset(name, (count, width), np.uint8, chunks=(min(chunk, count), width), fill_time="never")


def _prepared(data: Split, index: int, size: int) -> _Prepared:
    """An image and its mask, read and resized."""
    path = str(data.paths[index])
    image = read_image(path)
    height, width = image.shape[:2]
    said = tuple(int(side) for side in data.sizes[index])
    if min(said) > 0 and said != (width, height):
        raise ValueError(
            f"{path}: the image is {width}x{height} pixels but its annotations say {said[0]}x{said[1]}; correct "
            "the size in the annotation file or the image"
        )
    resized = resize_long_side(image, size)
    mask = None
    if not isinstance(data, Annotations | LabelledImages):
        labels = data.mask(index)
        shrunk = resize_mask(labels, (resized.shape[1], resized.shape[0]))
        mask = _PreparedMask(shrunk, zlib.compress(labels.tobytes()), content_digest(labels.tobytes()))
    return _Prepared(resized, (width, height), content_digest(Path(path).read_bytes()), mask)


def _moments(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(7,): number of pixels, sums of the three channels and of their squares, of values 0..1."""
    mean, deviation = (values.reshape(3) / 255 for values in cv2.meanStdDev(image))
    pixels = image.shape[0] * image.shape[1]
    return np.concatenate([[pixels], pixels * mean, pixels * (deviation**2 + mean**2)])


def _mean_and_std(moments: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total = np.sum(moments, axis=0)
    mean, squares = total[1:4] / total[0], total[4:] / total[0]
    return mean, np.sqrt(np.maximum(squares - mean**2, 0))


def _names(paths: list[str]) -> list[str]:
    """Paths within the folder that all images lie in: where it is on this machine is nobody else's business."""
    absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - links are kept, and speed
    root = os.path.commonpath([os.path.dirname(path) for path in absolute])  # noqa: PTH120 - speed
    return [Path(path).relative_to(root).as_posix() for path in absolute]


def _write_strings(group: Any, name: str, values: list[str]) -> None:
    import h5py

    group.create_dataset(name, data=np.array(values, object), dtype=h5py.string_dtype())
