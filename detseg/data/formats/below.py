"""Data sets in the folders below the one that was given: a download has its own folders around them."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.format import Format, Gives, Sources, formats_of, found_by
from detseg.data.formats.image_files import list_images
from detseg.data.formats.layout import split_of
from detseg.data.formats.same_name import stem

LEVELS = 3
FOLDERS = 500  # that are looked at: a whole disk is none of a data set
SHOWN = 6  # kinds of files in a message
TRIED = 20  # images whose files are looked for before they are taken to be elsewhere


class Place(NamedTuple):
    """A folder, or the JSON file in it, that holds a data set."""

    path: Path
    format: Format
    sources: Sources


def places_below(folder: Path, images: str | Path | None, gives: Gives, options: Mapping[str, Any]) -> list[Place]:
    """The data sets in the folders below a folder, each real folder once, and none of those within another.

    Raises:
        AnnotationError: there is but a damaged one.
    """
    found: list[Place] = []
    damaged: list[AnnotationError] = []
    level, seen = [folder], {os.path.realpath(folder)}
    for _ in range(LEVELS):
        entries: dict[str, Path] = {}
        for entry in [entry for place in level for entry in _folders(place)]:
            entries.setdefault(os.path.realpath(entry), entry)
        level = [entry for real, entry in entries.items() if real not in seen][: FOLDERS - len(seen)]
        seen |= entries.keys()
        empty = []
        for place in level:
            try:
                held = _place(place, images, gives, options)
            except AnnotationError as error:
                damaged.append(error)
            except OSError:
                continue
            else:
                found += [held] if held is not None else []
                empty += [place] if held is None else []
        level = empty
    if damaged and not found:
        raise damaged[0]
    return found


def as_splits(places: Sequence[Place], root: Path) -> dict[str, Place]:
    """Each split with its place, where all are of one format and lie in folders named after splits; else none."""
    found = {_split(place.path.relative_to(root)): place for place in places if list(place.sources) == [""]}
    one = len({place.format.name for place in places}) == 1
    return {name: place for name, place in found.items() if name} if one and len(found) == len(places) > 1 else {}


def _split(path: Path) -> str:
    return next((split for part in path.parts if (split := split_of(part)) is not None), "")


def _folders(folder: Path) -> Iterator[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if not e.name.startswith((".", "__")) and e.is_dir())
        yield from (folder / name for name in names)


def _place(folder: Path, images: str | Path | None, gives: Gives, options: Mapping[str, Any]) -> Place | None:
    """What a folder holds by strong signs, or the only JSON file in it; a format's guess is for what a user names."""
    files = sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))
    for path in [folder, *(files if len(files) == 1 else [])]:
        for format in formats_of(gives):
            sources = found_by(format.find, path, images, options) if images is None or format.takes_images else None
            if sources:
                return Place(path, format, sources)
    return None


def what_is_there(folder: Path) -> str:
    """The files in and below a folder by number and kind, of the folders that have most, for messages."""
    counts: Counter[tuple[str, str]] = Counter()
    for number, (where, folders, names) in enumerate(os.walk(folder)):
        depth = len(Path(where).relative_to(folder).parts)
        folders[:] = sorted(e for e in folders if not e.startswith((".", "__"))) if depth < LEVELS else []
        kinds = Counter(Path(name).suffix.lower() for name in names if not name.startswith("."))
        counts.update({(os.path.relpath(where, folder), kind): count for kind, count in kinds.items() if kind})
        if number == FOLDERS:
            break
    shown = sorted(counts.most_common(SHOWN))
    return ", ".join(f"{count} {kind} in {'it' if place == '.' else place}" for (place, kind), count in shown)


# ------------------------------------------------------------------ images elsewhere


def with_images_below(place: Place, root: Path) -> Sources:
    """The sources of a place whose images, where they are not found from there, are looked for all over `root`."""
    return {split: partial(_read, read, split, place, root) for split, read in place.sources.items()}


def _read(read: Callable[[], Any], split: str, place: Place, root: Path) -> Any:
    data = read()
    if not isinstance(data, Annotations) or any(Path(path).is_file() for path in data.paths[:TRIED].tolist()):
        return data
    folder = _folder_of(data, root)
    sources = place.format.find(place.path, folder) if folder is not None else None
    return sources[split]() if sources and split in sources else data


def _folder_of(data: Annotations, root: Path) -> Path | None:
    """The folder below `root` that has most of the images of a set, by their names alone."""
    names = {stem(os.path.basename(path)) for path in data.paths.tolist()}  # noqa: PTH119 - speed
    folders: dict[str, int] = {}
    for path in list_images(root):
        folder, name = os.path.split(path)
        folders[folder] = folders.get(folder, 0) + (stem(name) in names)
    best = max(folders, key=lambda folder: folders[folder], default=None)
    return Path(best) if best is not None and folders[best] else None
