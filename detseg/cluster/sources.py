"""What people name of a collection: folders, lists, shards in tar archives, tables; local or anything fsspec opens."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detseg.cluster.storage import is_folder, listed, place_in, read
from detseg.data.formats.image_files import IMAGE_EXTENSIONS, list_images
from detseg.data.tar_shards import expand_shards, is_address
from detseg.reading import reading
from detseg.sources.addresses import is_web_address
from detseg.sources.files import read_list

ARCHIVE, TABLE, LIST = ".tar", ".parquet", ".txt"


class Collection(NamedTuple):
    """Sources by what they are, each in the order in which they were named and once."""

    images: tuple[str, ...]  # files, web addresses
    archives: tuple[str, ...]  # tar archives after WebDataset's convention
    tables: tuple[str, ...]  # Parquet files with a column of images, or of where they are


def collect(sources: Sequence[str], *, recursive: bool = True) -> Collection:
    """Sources with lists, folders, braces (`{000..099}`) and wild cards replaced by what they name.

    Args:
        sources: images, `.tar` and `.parquet` files, folders of one of these, lists (.txt) of any; paths, web addresses
            or addresses of fsspec.
        recursive: folders of images: with the folders below them.

    Raises:
        ValueError: a source names nothing, a folder holds several kinds, or a list names another list.
    """
    found: dict[str, None] = dict.fromkeys(_named(sources, recursive))
    kinds = {ending: tuple(name for name in found if name.lower().endswith(ending)) for ending in (ARCHIVE, TABLE)}
    others = {name for names in kinds.values() for name in names}
    return Collection(tuple(name for name in found if name not in others), kinds[ARCHIVE], kinds[TABLE])


def _named(sources: Iterable[str], recursive: bool) -> Iterator[str]:
    for source in sources:
        if not source.lower().endswith(LIST):
            yield from _found(source, recursive)
            continue
        for line in _lines(source):
            if line.lower().endswith(LIST):
                raise ValueError(f"{source}: names another list, {line}; name that one beside it")
            yield from _found(line, recursive)


def _lines(source: str) -> list[str]:
    """The sources that a list names, seen from where it lies."""
    if not is_address(source):
        return read_list(Path(source))
    content = read(source)
    with reading(source, "a list of sources must be text in UTF-8"):
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    folder = source.rpartition("/")[0]
    return [place_in(folder, line) for line in lines if line and not line.startswith("#")]


def _found(source: str, recursive: bool) -> list[str]:
    """What a source that is no list names."""
    if source.lower().endswith(IMAGE_EXTENSIONS) and not any(mark in source for mark in "*?[{"):
        return [source]  # of millions in a list none is looked at before its turn
    if is_web_address(source) or (not is_address(source) and Path(source).is_file()):
        return [source]
    if (is_address(source) or Path(source).exists()) and is_folder(source):
        return _in_folder(source, recursive)
    return expand_shards(source)


def _in_folder(folder: str, recursive: bool) -> list[str]:
    """The images of a folder, or its tar archives, or its tables."""
    if is_address(folder):
        images = listed(folder, IMAGE_EXTENSIONS)
        shards = {ending: listed(folder, (ending,)) for ending in (ARCHIVE, TABLE)}
    else:
        images = list_images(Path(folder))
        shards = {ending: sorted(map(str, Path(folder).glob(f"*{ending}"))) for ending in (ARCHIVE, TABLE)}
    if not recursive:
        images = [name for name in images if place_in(folder, name.rpartition("/")[2]) == name]
    kinds = {"images": images, "tar archives": shards[ARCHIVE], "Parquet files": shards[TABLE]}
    there = [what for what, names in kinds.items() if names]
    if not there:
        raise ValueError(f"{folder}: holds no images, no .tar archives and no .parquet files")
    if len(there) > 1:
        raise ValueError(f'{folder}: holds {" and ".join(there)}; name one kind by a pattern, such as "{folder}/*.tar"')
    return kinds[there[0]]
