"""Where the annotation files of a set lie: in one file, in a file a split, in folders of splits, or one an image."""

import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from detseg.data.formats.format import SPLITS

ANNOTATION_FOLDERS = ("annotations", "annotation", "annots", "ann", "labels", "json", "xml", "xmls", "csv")
TRIED = 5  # files of a folder that are looked into before it is not of a form


def beginning(file: Path, length: int = 65536) -> bytes:
    """The first bytes of a file, without the zeros of UTF-16; nothing if it cannot be read."""
    try:
        state = file.stat()
        return _beginning(file, length, state.st_mtime_ns, state.st_size)
    except OSError:
        return b""


@lru_cache(maxsize=4096)
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
    path: Path, suffixes: Sequence[str], is_ours: Callable[[Path], bool], *, each: bool = False
) -> dict[str, list[Path]]:
    """The annotation files of each split ("" where there are none) of a file or folder; empty if none is of this form.

    Of a folder: files named after splits; else folders named after splits, with the files in them; else all files.
    Each is looked for in the folder itself and then in its folders of annotations. `is_ours` judges by content.
    Files beginning with a point are passed over, and with `each` those that are not of this form: tables of other
    things lie beside tables of boxes. Else a look at the first few must do.
    """
    if path.is_file():
        return {"": [path]} if path.suffix.lower() in suffixes and is_ours(path) else {}
    for folder in _places(path):
        own = _files(folder, suffixes, is_ours, each)
        named = _grouped(own)
        if "train" in named or "val" in named:
            return named
        divided: dict[str, list[Path]] = {}
        for below in subfolders(folder):
            split = split_of(below.name)
            if split is not None and split not in divided:
                inside = next(filter(None, (_files(place, suffixes, is_ours, each) for place in _places(below))), [])
                divided |= {split: inside} if inside else {}
        if divided:
            return divided
        if own:
            return {"": own}
    return {}


def _places(folder: Path) -> list[Path]:
    """A folder, then those in it that hold annotations by their name."""
    below = {entry.name.lower(): entry for entry in subfolders(folder)}
    return [folder, *(below[name] for name in ANNOTATION_FOLDERS if name in below)]


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


def _grouped(files: Sequence[Path]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for file in files:
        split = split_of(file.stem)
        if split is not None:
            groups.setdefault(split, []).append(file)
    # One file an image may be called train_000.json: those are no splits.
    return groups if all(len(group) == 1 for group in groups.values()) else {}
