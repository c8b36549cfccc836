"""What the readers of annotation tools' JSON share: a file item by item, objects one by one, and what is left out.

A file is taken apart without reading its items, so that a large one never exists as Python objects as a whole.
"""

from __future__ import annotations

import binascii
import logging
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.assemble import known_size
from detseg.data.formats.format import Sources
from detseg.data.formats.layout import files_by_split
from detseg.data.formats.locate import (
    PlaceImages,
    first_file,
    image_folders,
    image_targets,
    place_images,
    read_names,
    unique_stems,
    write_names,
)
from detseg.data.formats.records import Fault, Item, Records, record_sources
from detseg.files import write_atomically
from detseg.json_text import parse_json, read_bytes
from detseg.reading import require_file

log = logging.getLogger(__name__)

CLASS_FILES = ("classes.txt", "labels.txt")
# What values of another kind or range than expected raise, and codes that are none.
ODD = (AttributeError, ArithmeticError, LookupError, TypeError, ValueError, OSError, zlib.error, binascii.Error)

_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


# ------------------------------------------------------------------ finding


def file_sources(
    path: Path,
    images: str | Path | None,
    suffixes: Sequence[str],
    is_ours: Callable[[Path], bool],
    records: Callable[[Sequence[Path], LeftOut], Records],
    names: Callable[[Path], Sequence[str] | None] | None = None,
) -> Sources | None:
    """The splits of forms that keep many images in a file: `records` says what files hold.

    `names` gives the classes that a folder lists, by default those of classes.txt. Other files are passed over.
    """
    splits = files_by_split(path, suffixes, is_ours)
    splits = {split: [file for file in files if is_ours(file)] for split, files in splits.items()}
    if not splits:
        return None
    places = {split: files[0].parent for split, files in splits.items()}

    def read(split: str) -> Records:
        left_out = LeftOut(path)
        found = False
        for record in records(splits[split], left_out):
            found = True
            yield record
        left_out.tell()
        if not found:
            files = ", ".join(file.name for file in splits[split])
            raise AnnotationError(f"{path}: no image of {files} is annotated{left_out.listing()}")

    return listed_sources(
        {split: partial(read, split) for split in splits},
        path,
        lambda split: image_folders(places[split], images, split),
        lambda: (names or names_beside)(next(iter(places.values()))),
    )


def listed_sources(
    splits: Mapping[str, Callable[[], Records]],
    source: Path,
    folders: Callable[[str], Sequence[Path]],
    names: Callable[[], Sequence[str] | None],
) -> Sources:
    """`record_sources` where the list of classes, `names()`, is looked for when the first split is read, not before."""

    def checked(split: str) -> Records:
        for record in splits[split]():
            if not record.image or "\0" in record.image:
                place = record.file or source
                raise AnnotationError(f"{place}: an image has the name {record.image!r:.100}; correct the file")
            yield record

    @cache
    def sources() -> Sources:
        return record_sources({split: partial(checked, split) for split in splits}, source, folders, names())

    def read(split: str) -> Annotations:
        data: Annotations = sources()[split]()
        return data

    return {split: partial(read, split) for split in splits}


# ------------------------------------------------------------------ reading


def json_list(file: Path) -> Iterator[Any]:
    """The items of a file that holds a list, parsed one at a time; raises AnnotationError."""
    content = read_bytes(file)
    with suppress(*_UNREADABLE):
        for number, part in enumerate(_LIST.decode(content), 1):
            yield read_part(part, f"{file}: item {number}")
        return
    parsed = parse_json(content, file)
    if not isinstance(parsed, list):
        raise AnnotationError(f"{file}: expected a list of images, found {_kind(parsed)}")
    yield from parsed


def json_object(source: Path | Any, place: str | Path) -> Mapping[str, Any]:
    """The members of a file that holds an object, or of a part of one: still unread, see `read_part`."""
    content = read_bytes(source) if isinstance(source, Path) else source
    if isinstance(content, (bytes, msgspec.Raw)):
        with suppress(*_UNREADABLE):
            return _OBJECT.decode(content)
        content = parse_json(bytes(content), place)
    if not isinstance(content, dict):
        raise AnnotationError(f"{place}: expected an object with names, found {_kind(content)}")
    return content


def read_part(part: Any, place: str | Path) -> Any:
    """A member of `json_object`; raises AnnotationError."""
    return parse_json(bytes(part), place) if isinstance(part, msgspec.Raw) else part


def json_lines(file: Path) -> Iterator[Any]:
    """What the lines of a file hold, parsed one at a time; raises AnnotationError."""
    try:
        with require_file(file).open("rb") as opened:
            for number, line in enumerate(opened, 1):
                line = line.removeprefix(b"\xef\xbb\xbf").strip()
                if line:
                    yield parse_json(line, f"{file}: line {number}")
    except OSError as error:
        raise AnnotationError(f"{file}: cannot be read: {error.strerror or error}") from error


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


@contextmanager
def of_form(place: str | Path, title: str) -> Iterator[None]:
    """What is not of the form that a tool writes becomes an AnnotationError that names the place."""
    try:
        yield
    except AnnotationError:
        raise
    except ODD as error:
        raise AnnotationError(f"{place}: not as {title} writes it: {reason(error)}; export it anew") from error


def reason(error: Exception) -> str:
    """What an error says of a value that is not as expected."""
    if isinstance(error, (TypeError, AttributeError)):  # Python's own words alone say nothing of files
        return f"a value is of another kind than is expected there ({error})"
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) and error.args else str(error)


def read_objects(
    entries: Iterable[Any], read: Callable[[Any], Item | Fault | None], what: str = "object"
) -> list[Item | Fault]:
    """The objects of an image; an entry that is not as expected becomes a `Fault`, one that is None is left out."""
    found: list[Item | Fault] = []
    for number, entry in enumerate(entries, 1):
        try:
            item = read(entry)
        except ODD as error:
            item = Fault(f"{what} {number} cannot be used: {reason(error)}")
        if item is not None:
            found.append(item)
    return found


def class_name(value: Any) -> str:
    """A class by its name; numbers are taken as they are written. ValueError for what is no name."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    name = value.strip() if isinstance(value, str) else ""
    if not name:
        raise ValueError(f"its class is {value!r}, no name")
    return name


def given_size(width: Any, height: Any) -> tuple[int, int]:
    """Width and height as a file gives them; zeros, to measure the image, for what is no size."""
    with suppress(*ODD):
        return known_size((int(width), int(height)))
    return 0, 0


def is_text(value: Any) -> bool:
    """Whether a value of a file, read or unread, is a text."""
    return memoryview(value)[:1] == b'"' if isinstance(value, msgspec.Raw) else isinstance(value, str)


def flat(points: Iterable[Any]) -> list[float]:
    """x1, y1, x2, y2, ... of points [x, y] or {"x": x, "y": y}."""
    pairs = [(p["x"], p["y"]) if isinstance(p, dict) else p for p in points]
    return [float(value) for x, y in pairs for value in (x, y)]


def names_beside(folder: Path) -> list[str] | None:
    """The classes of classes.txt or labels.txt in a folder or one up, for forms that have no list themselves."""
    file = first_file([folder, folder.parent], CLASS_FILES)
    return None if file is None else read_names(file)


class LeftOut:
    """Counts what a reader passes over or decides, to be told in one line each for the set as a whole."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, what: str, example: str = "") -> None:
        """Count one more of `what`, such as "tasks never annotated, left out"; the first example is named."""
        self._counts[what] += 1
        self._examples.setdefault(what, example)

    def tell(self) -> None:
        """Log what was counted."""
        for what, count in self._counts.items():
            example = self._examples[what]
            log.warning("%s: %s: %d%s", self._source, what, count, f" (the first: {example})" if example else "")

    def listing(self) -> str:
        """What was counted, as the end of a message."""
        return "".join(f"; {what}: {count}" for what, count in self._counts.items())


# ------------------------------------------------------------------ writing


def placed_names(annotations: Annotations, folder: Path, inside: str, images: PlaceImages) -> list[str]:
    """Bring the images into the folder `inside` of `folder`, or keep them; their names as seen from `folder`."""
    if images == "keep":
        here = folder.resolve()
        return [_seen_from(here, path) for path in annotations.paths.tolist()]
    targets = image_targets(annotations, unique_stems(annotations, set()), folder / inside)
    place_images(annotations.paths.tolist(), targets, images)
    return [target.relative_to(folder).as_posix() for target in targets]


def _seen_from(here: Path, name: str) -> str:
    """Relative for images in or beside the folder, absolute otherwise."""
    full = os.path.abspath(name)  # noqa: PTH100 - keeps links as they are
    near = here.parent != here and full.startswith(f"{here.parent}{os.sep}")
    return Path(os.path.relpath(full, here)).as_posix() if near else full


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file in one step."""
    write_atomically(file, msgspec.json.format(msgspec.json.encode(content), indent=1))


def write_classes(annotations: Annotations, folder: Path) -> None:
    """Write classes.txt, for forms that have no list of classes themselves."""
    write_names(annotations, folder / CLASS_FILES[0])


def single_polygons(annotations: Annotations, folder: Path, title: str) -> dict[int, Sequence[Sequence[float]]]:
    """Object -> its polygon (n, 2), for forms with one polygon an object; those of several keep their box, told."""
    segments = annotations.segments
    if segments is None:
        return {}
    counts = np.diff(segments.polygon_offsets)
    several = int((counts > 1).sum())
    if several:
        log.warning(
            "%s: %s has one polygon an object, %d objects of several keep only their boxes", folder, title, several
        )
    return {row: segments.polygons(row)[0].tolist() for row in np.flatnonzero(counts == 1).tolist()}


def tell_drawn(annotations: Annotations, folder: Path, title: str) -> None:
    """Log how many objects of several polygons a form with masks and one polygon an object will draw as masks."""
    segments = annotations.segments
    count = 0 if segments is None else int((np.diff(segments.polygon_offsets) > 1).sum())
    if count:
        log.warning("%s: %s has one polygon an object, %d objects of several become masks", folder, title, count)
