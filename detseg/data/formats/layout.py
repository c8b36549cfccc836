"""Where the annotation files of a set lie: in one file, in a file a split, in folders of splits, or one an image."""

import logging
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from detseg.data.annotations import AnnotationError
from detseg.data.formats.format import SPLITS

log = logging.getLogger(__name__)

Held = TypeVar("Held")
ANNOTATION_FOLDERS = ("annotations", "annotation", "annots", "ann", "labels", "json", "xml", "xmls", "csv")
TRIED = 5  # files of a folder that are looked into before it is not of a form


def beginning(file: Path, length: int = 65536) -> bytes:
    """The first bytes of a file, without the zeros of UTF-16; nothing if it cannot be read."""
    try:
        state = file.stat()
        if not stat.S_ISREG(state.st_mode):  # a pipe would be waited for
            return b""
        return _beginning(file, length, state.st_mtime_ns, state.st_size)
    except OSError:
        return b""


@lru_cache(maxsize=512)
def _beginning(file: Path, length: int, changed: int, size: int) -> bytes:
    """Read once for all formats that ask, and again when the file has changed."""
    with file.open("rb") as opened:
        return opened.read(length).replace(b"\0", b"")


def split_of(name: str) -> str | None:
    """The split that a file's or folder's name tells: the whole name, or a word of it ("via_train", "train2017")."""
    words = re.split(r"[^a-z]+", name.lower())
    found = {split for split, spellings in SPLITS.items() if set(words) & set(spellings)}
    return found.pop() if len(found) == 1 else None


def files_by_split(
    path: Path,
    suffixes: Sequence[str],
    is_ours: Callable[[Path], bool],
    *,
    each: bool = False,
    inside: Sequence[str] = ANNOTATION_FOLDERS,
) -> dict[str, list[Path]]:
    """The annotation files of each split ("" where there are none) of a file or folder; empty if none is of this form.

    Of a folder: files named after splits; else folders named after splits, with the files in them; else all files.
    Each is looked for in the folder itself and then in its folders of annotations, by the names in `inside`. `is_ours`
    judges by content.
    Files beginning with a point are passed over, and with `each` those that are not of this form: tables of other
    things lie beside tables of boxes. Else a look at the first few must do.
    """
    if path.is_file():
        return {"": [path]} if path.suffix.lower() in suffixes and is_ours(path) else {}
    for folder in _places(path, inside):
        own = _files(folder, suffixes, is_ours, each)
        named = _grouped(own, is_ours)
        if "train" in named or "val" in named:
            return named
        held = {}
        for below in filter(lambda below: split_of(below.name), subfolders(folder)):
            places = _places(below, inside)
            held[below] = next(filter(None, (_files(place, suffixes, is_ours, each) for place in places)), [])
        if divided := one_of_each_split({below: files for below, files in held.items() if files}):
            return divided
        if own:
            return {"": own}
    return {}


def one_of_each_split(folders: Mapping[Path, Held]) -> dict[str, Held]:
    """What folders named after splits hold, by split; AnnotationError where several may be of one split.

    A folder that has just the split's name goes before others (train before train_old), which are told.
    """
    found: dict[str, Held] = {}
    for split in SPLITS:
        own = [folder for folder in folders if split_of(folder.name.lower().replace("test-dev", "test")) == split]
        exact = [folder for folder in own if folder.name.lower() in SPLITS[split]]
        names = " and ".join(folder.name for folder in exact or own)
        if len(exact or own) > 1:
            raise AnnotationError(
                f"{own[0].parent}: the folders {names} could all be of the split {split!r}; join them into {split}/"
            )
        if others := [folder for folder in own if exact and folder not in exact]:
            log.warning("%s is not read: %s is the split %r", " and ".join(map(str, others)), exact[0], split)
        if own:
            found[split] = folders[(exact or own)[0]]
    return found


def _places(folder: Path, inside: Sequence[str]) -> list[Path]:
    """A folder, then those in it that hold annotations by their name."""
    below = {entry.name.lower(): entry for entry in subfolders(folder)}
    return [folder, *(below[name] for name in inside if name in below)]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden ones; none if it is no folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # it knows folders without asking for each
        return sorted(Path(e.path) for e in entries if not e.name.startswith((".", "__")) and e.is_dir())


def _files(folder: Path, suffixes: Sequence[str], is_ours: Callable[[Path], bool], each: bool) -> list[Path]:
    """The files with one of these endings, where one of the first few is of this form; else none."""
    with os.scandir(folder) as entries:
        found = [e for e in entries if not e.name.startswith(".") and e.name.lower().endswith(tuple(suffixes))]
    files = sorted(Path(e.path) for e in found if e.is_file())
    if each:
        return [file for file in files if is_ours(file)]
    return files if any(is_ours(file) for file in files[:TRIED]) else []


def _grouped(files: Sequence[Path], is_ours: Callable[[Path], bool]) -> dict[str, list[Path]]:
    """The files by the splits in their names; empty where the names say nothing of splits."""
    groups: dict[str, list[Path]] = {}
    others = []
    for file in files:
        split = split_of(file.stem)
        if split is None:
            others.append(file)
        else:
            groups.setdefault(split, []).append(file)
    # One file an image may be called train_000.json, or my_train.json among others: those are no splits.
    if any(len(group) > 1 for group in groups.values()) or not groups or any(map(is_ours, others)):
        return {}
    return groups
