"""Samples in tar archives ("shards") after WebDataset's convention, and the shards that a pattern means.

    for shard in expand_shards("train-{000000..000009}.tar"):
        with open_shard(shard) as file:
            for key, files in samples(file, shard):
                files["jpg"], files["json"]

Files of one name up to its first dot that follow each other are one sample: `a/001.jpg`, `a/001.json`, `a/002.jpg`.
Format: webdataset.github.io. Shards are local files or whatever fsspec opens (`s3://bucket/train-000000.tar`).
"""

import glob
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from detseg.reading import FileError, content_of, reading, require_file

T = TypeVar("T")

BUFFER = 2**18  # bytes that are read at a time
MOST = 2**30  # bytes of a member that is read: no image or annotation has more
MANY = 10**6  # shards of a pattern: more is a slip
REMEDY = "cut short or damaged: copy or pack it again"
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)  # key and extension
_META = re.compile(r"__[^/]*__(?:/|$)", re.DOTALL)  # what tools tell of a shard, no sample
_BRACES = re.compile(r"\{([^{}]*)\}")
_SPAN = re.compile(r"(\d+)\.\.(\d+)")
_SCHEME = re.compile(r"^([A-Za-z][\w+.-]+):/+")


class Member(NamedTuple):
    """A file in a shard: the name up to the first dot, the rest in small letters, and where its content lies."""

    key: str
    extension: str
    offset: int  # bytes
    size: int
    content: Callable[[], bytes]  # raises FileError; of a stream that cannot seek, only before the next member


class _Header(tarfile.TarInfo):
    """A member's header. tarfile takes a damaged one for the end of the archive: here it is an error."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        if not buf:
            raise tarfile.ReadError("the marks of its end are missing")
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the end of the archive
                raise
            if buf.startswith(PACKED):
                raise tarfile.ReadError("it is compressed; decompress it: images are so already") from error
            raise tarfile.ReadError(str(error)) from error
        if info.size < 0:
            raise tarfile.ReadError("a member has less than no bytes")
        return info


def members(file: BinaryIO, place: str = "") -> Iterator[Member]:
    """The files in a shard, in its order, read as a stream; folders, hidden files and `__meta__` are left out.

    Args:
        file: the shard, at its beginning.
        place: its name, for messages; by default the file's.

    Raises:
        FileError: the shard is damaged or cut short, or holds what is no plain file: links, devices, and names that
            lead out of a folder. It names the shard and the member.
    """
    place = place or str(getattr(file, "name", None) or getattr(file, "path", "the shard"))
    mode: Any = "r:" if file.seekable() else "r|"
    with reading(place, REMEDY):
        tar = tarfile.open(fileobj=file, mode=mode, tarinfo=_Header, bufsize=BUFFER)  # noqa: SIM115 (not ours to close)
    last = "the beginning"
    while True:
        with reading(f"{place}: after {last}", REMEDY):
            info = tar.next()
        if info is None:
            break
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps all of them
        last, where = info.name, f"{place}: {info.name}"
        _check(info, where)
        named = None if info.isdir() or _META.match(info.name) else _NAME.fullmatch(info.name.removeprefix("./"))
        if named:
            content = partial(_content, tar, info, where)
            yield Member(named[1], named[2].lower(), info.offset_data, info.size, content)
    with reading(f"{place}: after {last}", REMEDY):
        while rest := cast(BinaryIO, tar.fileobj).read(BUFFER):
            if rest.strip(b"\0"):
                raise FileError(f"{place}: something follows the end of the archive; pack again what was put together")


def _check(info: tarfile.TarInfo, where: str) -> None:
    """Refuse what is no plain file or folder inside."""
    if not (info.isdir() or info.isreg()) or info.issparse():
        remedy = "pack with the content in its place: tar --dereference --hard-dereference"
        raise FileError(f"{where!a}: is a link, a device or a file with holes, no plain file; {remedy}")
    if info.name.startswith("/") or ".." in info.name.split("/"):
        raise FileError(f"{where!a}: the name leads out of a folder; pack with names below the folder")
    if info.size < 0 or not _is_text(info.name):
        raise FileError(f"{where!a}: the header is damaged ({REMEDY})")


def _is_text(name: str) -> bool:
    """Whether it can be written: tarfile keeps bytes that are no UTF-8 as halves of characters."""
    return name.encode("utf-8", "replace").decode() == name


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo, where: str) -> bytes:
    if info.size > MOST:
        raise FileError(f"{where}: has {info.size / 1e9:.1f} GB; at most {MOST / 1e9:.1f} GB can be read")
    with reading(where, REMEDY):
        return cast(BinaryIO, tar.extractfile(info)).read()


def samples(file: BinaryIO, place: str = "") -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples in a shard: key, and content by extension; arguments and errors as `members` and `grouped`."""
    return grouped(((member, member.content()) for member in members(file, place)), place)


def grouped(found: Iterable[tuple[Member, T]], place: str = "") -> Iterator[tuple[str, dict[str, T]]]:
    """Members by key: what comes with each, by extension.

    Raises:
        FileError: a key comes twice, apart from each other, or an extension twice in a sample.
    """
    place = place or "the shard"
    keys: set[str] = set()
    key, files = "", dict[str, T]()
    for member, value in found:
        if member.key != key:
            if files:
                yield key, files
            key, files = member.key, {}
            if key in keys:
                raise FileError(
                    f"{place}: {key}: the files of the sample do not follow each other, or there are two samples; "
                    "pack the files in the order of their names (tar --sort=name)"
                )
            keys.add(key)
        if member.extension in files:
            raise FileError(f"{place}: {key}: there are two files .{member.extension}; leave one")
        files[member.extension] = value
    if files:
        yield key, files


def address_of(path: str | Path) -> str:
    """The address or local path that is meant: `Path("s3://bucket/x")` keeps one slash only."""
    text = _SCHEME.sub(r"\1://", str(path))
    return "/" + text.removeprefix("file://") if text.startswith("file://") else text


def absolute(path: Path) -> Path:
    """A path that means the same in any working directory; addresses do anyway."""
    return path if is_address(address_of(path)) else path.absolute()


def is_address(path: str) -> bool:
    """Whether it is something for fsspec, `s3://bucket/train.tar`, and no local path."""
    return "://" in path


def file_system(address: str) -> tuple[Any, str]:
    """The file system of an address, and what the address is called in it; FileError without the package it takes."""
    import fsspec

    try:
        opened: tuple[Any, str] = fsspec.core.url_to_fs(address)
        return opened
    except (ImportError, ValueError) as error:
        raise FileError(f"{address}: cannot be opened: {error}") from error


@contextmanager
def open_shard(path: str | Path) -> Iterator[BinaryIO]:
    """A shard, opened for reading; raises FileError."""
    path = address_of(path)
    with reading(path):
        if is_address(path):
            import fsspec

            file = fsspec.open(path, "rb").open()
        else:
            file = require_file(Path(path)).open("rb")
    with file:
        yield file


def expand_shards(pattern: str | Path) -> list[str]:
    """The shards that a pattern means, in its order; those of a folder or with wild cards in the order of their names.

    Args:
        pattern: a shard; several, with braces (`train-{000..099}.tar`, `{train,val}-000.tar`) or wild cards (`*`, `?`,
            `[...]`); a folder of `.tar` files; or a text file with one of these a line. Local, or an address of fsspec.

    Raises:
        FileError: there are none, one comes twice, or there are too many.
    """
    pattern = address_of(pattern)
    with reading(pattern):
        found = [shard for one in _braces(pattern) for shard in _found(one)]
    if not found:
        raise FileError(f"{pattern}: there are no shards (.tar files); check the spelling")
    if len(set(found)) < len(found):
        twice = Counter(found).most_common(1)[0][0]
        raise FileError(f"{pattern}: the shard {twice} comes twice; name it once")
    return found


def _braces(pattern: str) -> list[str]:
    """The names with every `{first..last}` and `{one,other}` written out; zeros in front of a number are kept."""
    match = _BRACES.search(pattern)
    if not match:
        return [pattern]
    words, tails = match[1].split(","), _braces(pattern[match.end() :])
    if span := _SPAN.fullmatch(match[1]):
        first, last = int(span[1]), int(span[2])
        width = len(span[1]) if span[1].startswith("0") else 0
        words = [str(number).zfill(width) for number in range(first, min(last, first + MANY) + 1)]
    if len(words) * len(tails) > MANY:
        raise FileError(f"{pattern}: these are more than {MANY} shards; correct the pattern")
    return [pattern[: match.start()] + word + tail for word, tail in product(words, tails)]


def _found(path: str) -> list[str]:
    """The shards at a path without braces."""
    if is_address(path):
        return _remote(path)
    if any(mark in path for mark in "*?[") and not Path(path).exists():
        return sorted(glob.glob(path))  # noqa: PTH207 (an absolute pattern)
    if Path(path).is_dir():
        return sorted(map(str, Path(path).glob("*.tar")))
    return _listed(path, content_of(path)) if _is_list(path) else [path]


def _remote(path: str) -> list[str]:
    wild = any(mark in path for mark in "*?[")
    if path.endswith(".tar") and not wild:
        return [path]
    files, inside = file_system(path)
    if _is_list(path):
        return _listed(path, files.cat_file(inside))
    if not wild and not files.isdir(inside):
        return [path]
    names = files.glob(inside if wild else f"{inside.rstrip('/')}/*.tar")
    return [files.unstrip_protocol(name) for name in sorted(names)]


def _is_list(path: str) -> bool:
    return path.endswith((".txt", ".list", ".lst"))


def _listed(path: str, content: bytes) -> list[str]:
    """The shards that a text names, one a line, relative to where it lies."""
    lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    folder = path.rpartition("/")[0] or "."
    names = [name for name in lines if name and not name.startswith("#")]
    whole = [name if is_address(name) or name.startswith("/") else f"{folder}/{name}" for name in names]
    if any(map(_is_list, whole)):
        raise FileError(f"{path}: names another list; name shards")
    return [shard for one in whole for name in _braces(one) for shard in _found(name)]
