"""Which images belong together: in two splits, what is learnt of one would tell the answer to the other."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.base import ImageSet
from detseg.data.checks.image_checks import equal_images
from detseg.data.checks.problems import AnnotationError
from detseg.data.formats.label_table import IMAGE_HEADINGS, table_rows
from detseg.data.formats.locate import read_text

BY = "prefix, near-duplicates, or FILE.csv:COLUMN"

# Roboflow writes augmented versions of a.jpg as a_jpg.rf.0f1e…d2.jpg; the letters and digits are a hash.
_VERSION = re.compile(r"(?:[_-](?:jpe?g|png|bmp|webp|tiff?))?\.rf\.\w+$", re.IGNORECASE)
_NUMBER = re.compile(r"(?:[^\w/]|_)*\d+\)?$")


def groups_of(data: ImageSet, by: str = "", *, track: Callable[..., Iterable[Any]] | None = None) -> NDArray[np.int64]:
    """The group (N,) of each image, a number; images with the same content, or made from the same one, always share it.

    Args:
        by: what else makes a group: "prefix", the folder and the file name without the number at its end
            ("scene1_001.jpg", "scene1_002.jpg"); "near-duplicates", images that look alike; "FILE.csv:COLUMN", a table
            with the images' names and a column of groups. Nothing more where it is "".
        track: shows the progress of comparing images.

    Raises:
        ValueError: `by` is none of these.
        AnnotationError: the table cannot be read, has no such column, or does not list every image.
    """
    keys = image_keys(data)
    joined = [*equal_images(data), *_alike([key if ".rf." not in key else _without_version(key) for key in keys])]
    if by == "prefix":
        joined += _alike([prefix_of(key) for key in keys])
    elif by == "near-duplicates":
        if data.pack is not None:
            raise ValueError(f"{data.pack.file}: --by near-duplicates compares image files, not packed ones")
        from detseg.data.checks.near_duplicates import near_duplicate_groups

        joined += near_duplicate_groups(data.paths.tolist(), **({} if track is None else {"track": track}))
    elif by:
        file, _, column = by.rpartition(":")
        if not file:
            raise ValueError(f"--by {by}: images are grouped by {BY}")
        joined += _alike(_column(Path(file), column, keys, data.paths.tolist()))
    return _united(len(data), joined)


def image_keys(data: ImageSet) -> list[str]:
    """What each image is called within its set: its path from the folder that holds them all, with "/"."""
    paths = data.paths.tolist()
    if data.pack is not None or not paths:
        return paths
    full = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - keeps links as they are, and speed
    root = os.path.commonpath([os.path.dirname(path) for path in full])  # noqa: PTH120
    return [path[len(root) :].replace("\\", "/").lstrip("/") for path in full]


def prefix_of(key: str) -> str:
    """The folder and the file name without the number at its end: "a/scene1" of "a/scene1_001.jpg"."""
    return _NUMBER.sub("", _without_version(key))


def _without_version(key: str) -> str:
    return _VERSION.sub("", key.removesuffix(Path(key).suffix))


def _alike(words: Sequence[str]) -> list[list[int]]:
    """Groups of two or more positions with the same word."""
    groups: dict[str, list[int]] = {}
    for row, word in enumerate(words):
        groups.setdefault(word, []).append(row)
    return [group for group in groups.values() if len(group) > 1]


def _united(count: int, joined: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    """The first member of each position's group, where groups that share a member are one."""
    first = list(range(count))

    def root(row: int) -> int:
        while first[row] != row:
            first[row] = row = first[first[row]]
        return row

    for group in joined:
        for row in group[1:]:
            a, b = root(group[0]), root(row)
            first[max(a, b)] = min(a, b)
    return np.array([root(row) for row in range(count)], np.int64)


def _column(file: Path, column: str, keys: Sequence[str], paths: Sequence[str]) -> list[str]:
    """What a table says in a column, for each image; it may name folders above the set's own too."""
    (_, heads), *rows = table_rows(read_text(file), file) or [(1, [])]
    words = ["".join(filter(str.isalnum, head.lower())) for head in heads]
    image = next((words.index(heading) for heading in IMAGE_HEADINGS if heading in words), None)
    if column not in heads or image is None:
        missing = f"column {column!r}" if column not in heads else "column of image names, such as 'filename'"
        raise AnnotationError(f"{file}: has no {missing}; its columns are {', '.join(heads)}")
    place = heads.index(column)
    values: dict[str, str] = {}
    for line, cells in rows:
        if len(cells) <= max(place, image):
            raise AnnotationError(f"{file}, line {line}: {len(cells)} cells where the heading has {len(heads)}")
        name = cells[image].replace("\\", "/")
        if values.setdefault(name, cells[place]) != cells[place]:
            raise AnnotationError(f"{file}, line {line}: {name} is listed before, with another {column}")
    full = [os.path.abspath(path).replace("\\", "/") for path in paths]  # noqa: PTH100 - keeps links as they are
    found = [next((values[name] for name in _names(path) if name in values), None) for path in full]
    lost = [key for key, value in zip(keys, found, strict=True) if value is None]
    if lost:
        raise AnnotationError(f"{file}: does not list {len(lost)} of {len(keys)} images, the first is {lost[0]}")
    return [value for value in found if value is not None]


def _names(key: str) -> Iterable[str]:
    """What a table may call an image: its path, the ends of it, each with and without the extension."""
    parts = key.split("/")
    for start in range(len(parts)):
        name = "/".join(parts[start:])
        yield from (name, name.removesuffix(Path(name).suffix))
