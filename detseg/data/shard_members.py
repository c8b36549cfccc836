"""Images inside shards by paths that say where their bytes are, so that one is read without its shard's beginning.

    train-000003.tar#10752+48213+9f86d081884c7d65/street/001.jpg

The shard; where the content begins, how many bytes it has, and their digest; the name in the shard. Such a path stands
wherever that of an image file may. A shard that has changed since is noticed by the digest.
"""

import hashlib
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.shard_cache import shard_cache
from detseg.data.tar_shards import Member, address_of, is_address
from detseg.reading import FileError, cause, content_of, kind_of_special, reading

_PATH = re.compile(r"(.+\.tar)#(\d{1,18})\+(\d{1,18})\+([0-9a-f]{16})/(.+)", re.DOTALL)
_SHARD = re.compile(r"(.+\.tar)#\d+\+\d+\+[0-9a-f]{16}/", re.DOTALL)


class Place(NamedTuple):
    """Where the bytes of a member are."""

    shard: str
    offset: int
    size: int
    digest: str
    name: str


new_mark = partial(hashlib.blake2b, digest_size=8)


def content_mark(content: bytes) -> str:
    """The digest in a path."""
    return new_mark(content).hexdigest()


def member_path(shard: str, member: Member, content: bytes) -> str:
    """The path of a member with this content."""
    name = f"{member.key}.{member.extension}"
    return f"{shard}#{member.offset}+{member.size}+{content_mark(content)}/{name}"


def place_of(path: str | Path) -> Place | None:
    """What the path of a member says; None for the path of a file."""
    text = str(path)
    if ".tar#" not in text or not (match := _PATH.fullmatch(text)):
        return None
    shard, offset, size, digest, name = match.groups()
    return Place(address_of(shard), int(offset), int(size), digest, name)


def read_content(path: str | Path) -> bytes:
    """The content of a file, or of a member of a shard.

    Raises:
        OSError: the file cannot be read.
        FileError: the shard cannot be read, or has changed.
    """
    place = place_of(path)
    if place is None:
        return content_of(path)
    with reading(path):
        content = _content(place)
    if content_mark(content) != place.digest:
        raise FileError(f"{path}: the shard is no longer what it was when it was read first; start again with this one")
    return content


def lacking_member(place: Place) -> str:
    """Why a shard of this machine has no such member, from the shard's length; "" if it may have, or is far away."""
    if is_address(place.shard):
        return ""
    if special := kind_of_special(place.shard):
        return f"its shard {place.shard} is {special} and no file"
    try:
        length = Path(place.shard).stat().st_size
    except (OSError, ValueError) as error:  # ValueError: of a path with a zero byte
        return f"its shard {place.shard} cannot be read: {cause(error)}"
    ends = f"its shard {place.shard} ends before it, so it is no longer what it was"
    return ends if place.offset + place.size > length else ""


def _content(place: Place) -> bytes:
    if lacking := lacking_member(place):
        raise ValueError(lacking)
    if not is_address(place.shard):
        with Path(place.shard).open("rb") as file:
            file.seek(place.offset)
            return file.read(place.size)
    cache = shard_cache()
    content = cache.read(place.shard, place.offset, place.size)
    if content_mark(content) != place.digest and cache.forget(place.shard):  # it may be of an earlier shard
        content = cache.read(place.shard, place.offset, place.size)
    return content


def content_size(path: str | Path) -> int:
    """The number of bytes of a file or member; raises OSError."""
    place = place_of(path)
    return Path(path).stat().st_size if place is None else place.size


def shard_numbers(paths: NDArray[np.str_]) -> NDArray[np.int64] | None:
    """(N,) which shard each image is in, counted from 0 in the order of their first images; None if none is in one."""
    known: dict[str, int] = {}
    numbers = np.zeros(len(paths), np.int64)
    for row, path in enumerate(paths.tolist()):
        match = _SHARD.match(path) if ".tar#" in path else None
        numbers[row] = known.setdefault(match[1] if match else "", len(known))
    return numbers if set(known) - {""} else None
