"""What shards hold, found by reading them once and kept: a data set whose images are paths into the shards.

The index lies in the cache folder (`detseg.data.shard_cache`). It counts as long as the shards have the sizes, times
or tags (ETag) that they had; else they are read again.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.base import Category
from detseg.data.checks.problems import Problem
from detseg.data.coco_ids import TextIds
from detseg.data.polygons import Segments
from detseg.data.shard_cache import cache_folder
from detseg.data.tar_shards import file_system, is_address
from detseg.files import replacing
from detseg.reading import FileError, reading

log = logging.getLogger(__name__)

VERSION = 1
TAGS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "created", "md5Hash", "generation", "sha256")
_ARRAYS = ("image_ids", "sizes", "image_index", "boxes", "labels", "iscrowd", "ids", "areas")
_SEGMENTS = tuple(field.name for field in fields(Segments))


class _Texts(msgspec.Struct):
    """What is no array."""

    version: int
    stamp: str
    source: str
    categories: list[Category]
    paths: list[str]
    problems: list[Problem]
    image_texts: tuple[dict[str, int], list[int]]
    category_texts: tuple[dict[str, int], list[int]]


def stamp_of(shards: Iterable[str], more: str = "") -> str:
    """What differs if one of the shards has changed, or `more`; raises FileError for one that is not there."""
    digest = hashlib.sha256(f"{VERSION} {more}".encode())
    with ThreadPoolExecutor(16) as pool:  # an address is asked for, which takes its time
        for state in pool.map(_state, shards):
            digest.update(repr(state).encode())
    return digest.hexdigest()


def _state(shard: str) -> Sequence[Any]:
    with reading(shard):
        if not is_address(shard):
            state = Path(shard).stat()
            return shard, state.st_size, state.st_mtime_ns
        files, inside = file_system(shard)
        info = files.info(inside)
        return shard, info.get("size"), *(str(info[tag]) for tag in TAGS if tag in info)


def indexed(shards: Sequence[str], kind: str, stamp: str, make: Callable[[], Annotations]) -> Annotations:
    """The index of shards, as it is kept or else as `make` makes it; of several processes one makes it."""
    file = index_file(shards, kind)
    data = load_index(file, stamp)
    if data is not None:
        return data
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{file}.lock")
        lock.acquire()
    except OSError as error:
        log.warning("%s: the index of the shards cannot be kept: %s", file, error.strerror)
        return make()
    try:
        data = load_index(file, stamp)  # another process may have made it
        if data is None:
            data = make()
            save_index(file, stamp, data)
    finally:
        lock.release()
    return data


def index_file(shards: Sequence[str], kind: str) -> Path:
    """Where the index of these shards, whole paths and addresses, lies."""
    name = hashlib.sha256("\n".join([kind, *shards]).encode()).hexdigest()[:24]
    return cache_folder() / "indices" / f"{name}.npz"


def load_index(file: Path, stamp: str) -> Annotations | None:
    """What was saved, if it was with this stamp; damage is logged."""
    if not file.is_file():
        return None
    try:
        with reading(file), np.load(file, allow_pickle=False) as arrays:
            texts = msgspec.json.decode(arrays["texts"].tobytes(), type=_Texts)
            return _annotations(texts, arrays) if (texts.version, texts.stamp) == (VERSION, stamp) else None
    except FileError as error:
        log.warning("%s; the shards are read again", error)
        return None


def _annotations(texts: _Texts, arrays: Any) -> Annotations:
    segments = Segments(**{name: arrays[name] for name in _SEGMENTS}) if "points" in arrays else None
    return Annotations(
        categories=tuple(texts.categories),
        paths=np.array(texts.paths, np.str_),
        segments=segments,
        source=texts.source,
        read_problems=tuple(texts.problems),
        image_texts=TextIds(texts.image_texts[0], frozenset(texts.image_texts[1])),
        category_texts=TextIds(texts.category_texts[0], frozenset(texts.category_texts[1])),
        **{name: arrays[name] for name in _ARRAYS},
    )


def save_index(file: Path, stamp: str, data: Annotations) -> None:
    """Keep a data set for `load_index`; that it cannot be kept is logged."""
    texts = _Texts(
        VERSION,
        stamp,
        data.source,
        list(data.categories),
        data.paths.tolist(),
        list(data.read_problems),
        (data.image_texts.numbers, list(data.image_texts.named)),
        (data.category_texts.numbers, list(data.category_texts.named)),
    )
    arrays: dict[str, NDArray[Any]] = {name: getattr(data, name) for name in _ARRAYS}
    if data.segments is not None:
        arrays |= {name: getattr(data.segments, name) for name in _SEGMENTS}
    try:
        with replacing(file) as temporary, temporary.open("wb") as opened:
            np.savez(opened, texts=np.frombuffer(msgspec.json.encode(texts), np.uint8), **arrays)  # type: ignore[arg-type]
    except OSError as error:
        log.warning("%s: the index of the shards cannot be kept: %s", file, error.strerror)
