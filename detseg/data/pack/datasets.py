"""Data sets of any task into one HDF5 file, and back; `detseg.data.pack.file` has its form.

A folder of JPEG files costs reading and decoding in every epoch; a packed file costs reading of what is needed. It
is for sets that are larger than the memory; smaller ones are kept in memory anyway (`ImageCache`). The `paths` of what
is read back are the names that the images had; their pixels come from `PackedImages`.
"""

import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.console import text_of_bytes
from detseg.data.annotations import Annotations
from detseg.data.base import PackRows, Track
from detseg.data.images import pixel_moments, read_sized_image
from detseg.data.labels import LabelledImages
from detseg.data.letterbox import resize_long_side, resize_mask
from detseg.data.masks import SemanticMasks
from detseg.data.pack.file import FORMAT, MAX_SIDE, VERSION, OpenPack, PackInfo, content_digest, opened, read_pack_info
from detseg.data.shard_members import read_content
from detseg.files import replacing

Split = Annotations | LabelledImages | SemanticMasks

CHUNK = 32  # images: a batch, so that reading in the file's order reads whole chunks


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

    Images are resized to a long side of `size` pixels, as `ImageCache` does, and stored in random order, so that
    neighbours are of different classes. Masks are also stored in the sizes of the originals, to evaluate by them.
    The splits ("train" and others) are of one kind, with the same categories.

    Raises:
        ValueError: an image cannot be read or has another size than the annotations say, the splits do not fit
            together, or there is no room for the file.
    """
    path = Path(path)
    _check(path, splits, size, chunk)
    with replacing(path) as temporary:
        _write(temporary, splits, size, chunk, seed, track)
    return read_pack_info(path)


def task_of(data: Split) -> str:
    """The task that a split is for."""
    if isinstance(data, LabelledImages):
        return "classification"
    return "detection" if isinstance(data, Annotations) else "segmentation"


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
    channels = 4 if isinstance(data, SemanticMasks) else 3
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
    with h5py.File(path, "w") as file:
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
        pixels, *sums = np.sum(moments.get("train", next(iter(moments.values()))), axis=0)
        mean, squares = np.array(sums[:3]) / pixels, np.array(sums[3:]) / pixels
        file.attrs.update({"mean": mean, "std": np.sqrt(np.maximum(squares - mean**2, 0))})


class _Prepared(NamedTuple):
    """One image as it is written, and its mask, where the task has them."""

    image: NDArray[np.uint8]  # at its new size
    size: tuple[int, int]  # width and height of the original
    digest: int
    mask: NDArray[np.uint8] | None = None  # at the image's new size
    original_mask: bytes = b""  # packed, at the original's
    mask_digest: int = 0


def _write_split(group: Any, data: Split, size: int, chunk: int, progress: Iterator[int]) -> list[NDArray[np.float64]]:
    """Write one split; returns the `pixel_moments` of its images."""
    count = len(data)
    group["image_ids"] = np.asarray(data.image_ids, np.int64)
    _write_strings(group, "names", _names(data.paths.tolist()))
    if isinstance(data, LabelledImages):
        group["labels"] = data.labels.astype(np.int64)
    elif isinstance(data, Annotations):
        group["offsets"] = data.offsets
        for name in ("boxes", "labels", "iscrowd", "ids", "areas"):
            group[name] = getattr(data, name)
        for field in fields(data.segments) if data.segments is not None else ():
            group[f"segments/{field.name}"] = getattr(data.segments, field.name)

    def create_rows(name: str, width: int) -> Any:
        # Every chunk is written once and whole, so there is nothing to fill in beforehand.
        chunks = (min(chunk, count), width)
        return group.create_dataset(name, (count, width), np.uint8, chunks=chunks, fill_time="never")

    rows, masks, originals = create_rows("pixels", size * size * 3), None, None
    if isinstance(data, SemanticMasks):
        masks = create_rows("masks", size * size)
        originals = group.create_dataset("original_masks", (0,), np.uint8, maxshape=(None,), chunks=(2**16,))
    sizes, shapes = np.zeros((count, 2), np.int32), np.zeros((count, 2), np.int32)
    digests, mask_digests = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    mask_offsets = np.zeros(count + 1, np.int64)
    moments = []
    # A chunk at a time: what waits to be written must not fill the memory.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, count, chunk):
            members = range(start, min(start + chunk, count))
            found = []
            for index, prepared in zip(members, pool.map(lambda i: _prepared(data, i, size), members), strict=True):
                sizes[index], shapes[index] = prepared.size, prepared.image.shape[:2]
                digests[index], mask_digests[index] = prepared.digest, prepared.mask_digest
                mask_offsets[index + 1] = mask_offsets[index] + len(prepared.original_mask)
                moments.append(pixel_moments(prepared.image))
                found.append(prepared)
                next(progress, None)
            rows[members.start : members.stop] = _padded_rows([one.image for one in found], size * size * 3)
            if masks is not None and originals is not None:
                small = [one.mask for one in found if one.mask is not None]
                masks[members.start : members.stop] = _padded_rows(small, size * size)
                begin, end = mask_offsets[[members.start, members.stop]].tolist()
                originals.resize((end,))
                originals[begin:end] = np.frombuffer(b"".join(one.original_mask for one in found), np.uint8)
    group["sizes"], group["shapes"], group["picture_digests"] = sizes, shapes, digests
    if masks is not None:
        group["mask_digests"], group["mask_offsets"] = mask_digests, mask_offsets
    return moments


def _padded_rows(arrays: Sequence[NDArray[np.uint8]], width: int) -> NDArray[np.uint8]:
    """(n, width): each array's values, then zeros."""
    rows = np.zeros((len(arrays), width), np.uint8)
    for row, array in zip(rows, arrays, strict=True):
        row[: array.size] = array.reshape(-1)
    return rows


def _prepared(data: Split, index: int, size: int) -> _Prepared:
    """An image and its mask, read and resized."""
    path = str(data.paths[index])
    image = read_sized_image(path, data.sizes[index].tolist())
    resized = resize_long_side(image, size)
    original, digest = (image.shape[1], image.shape[0]), content_digest(read_content(path))
    if not isinstance(data, SemanticMasks):
        return _Prepared(resized, original, digest)
    labels = data.mask(index)
    small = resize_mask(labels, (resized.shape[1], resized.shape[0]))
    content = labels.tobytes()
    return _Prepared(resized, original, digest, small, zlib.compress(content), content_digest(content))


def _names(paths: list[str]) -> list[str]:
    """Paths within the folder that all images lie in: where it is on this machine is nobody else's business."""
    absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - links are kept, and speed
    root = os.path.commonpath([os.path.dirname(path) for path in absolute])  # noqa: PTH120 - speed
    return [Path(path).relative_to(root).as_posix() for path in absolute]


def _write_strings(group: Any, name: str, values: list[str]) -> None:
    import h5py

    texts = np.array([text_of_bytes(value) for value in values], object)
    group.create_dataset(name, data=texts, dtype=h5py.string_dtype())


# ------------------------------------------------------------------ reading


def packed_sources(path: str | Path, task: str) -> dict[str, Callable[[], Any]]:
    """The splits of a packed set, each with a function that reads it; boxes are in the original images' pixels.

    Raises:
        AnnotationError: as `read_pack_info`; or the file is of another task. The functions raise it for damage.
    """

    def read_split(split: str) -> Split:
        with opened(path) as pack:
            return _READERS[task](pack, split)

    return {split: partial(read_split, split) for split in read_pack_info(path).require(task=task).splits}


def _images_of(pack: OpenPack, split: str) -> dict[str, Any]:
    """What all tasks keep of the images."""
    arrays = pack.images(split)
    return {
        "categories": pack.info.categories,
        "image_ids": arrays["image_ids"].astype(np.int64),
        "paths": arrays["names"],
        "sizes": arrays["sizes"].astype(np.int32),
        "source": f"{pack.path} ({split})",
        "pack": PackRows(str(pack.path), split, np.arange(len(arrays["names"]))),
    }


def _read_labels(pack: OpenPack, split: str) -> LabelledImages:
    labels = pack.labels(f"{split}/labels", pack.info.splits[split])
    return LabelledImages(labels=labels, **_images_of(pack, split))


def _read_annotations(pack: OpenPack, split: str) -> Annotations:
    images = _images_of(pack, split)
    offsets = pack.offsets(f"{split}/offsets")
    count = int(offsets[-1])
    image_index = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
    return Annotations(
        image_index=image_index,
        boxes=pack.array(f"{split}/boxes", "f", (count, 4)).astype(np.float64),
        labels=pack.labels(f"{split}/labels", count).astype(np.int32),
        iscrowd=pack.array(f"{split}/iscrowd", "b", (count,)),
        ids=pack.array(f"{split}/ids", "i", (count,)).astype(np.int64),
        areas=pack.array(f"{split}/areas", "f", (count,)).astype(np.float64),
        segments=pack.segments(split, count, images["sizes"][image_index]),
        **images,
    )


def _read_masks(pack: OpenPack, split: str) -> SemanticMasks:
    pack.dataset(f"{split}/masks", "u", (pack.info.splits[split], pack.info.size**2))
    return SemanticMasks(**_images_of(pack, split))


_READERS: dict[str, Callable[[OpenPack, str], Split]] = {
    "classification": _read_labels,
    "detection": _read_annotations,
    "segmentation": _read_masks,
}
