"""Tables of images and their classes: CSV files as spreadsheets and programs write them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from detseg.data.annotations import AnnotationError
from detseg.data.formats.locate import IMAGE_EXTENSIONS

TABLE_EXTENSIONS = (".csv", ".tsv")
IMAGE_HEADINGS = (
    "path", "file", "filename", "filepath", "image", "imagepath", "imagename", "imageid", "image", "img", "name",
    "id",
)  # fmt: skip
LABEL_HEADINGS = ("label", "class", "category", "classname", "labelname", "species", "breed", "target", "classid", "y")
SPLIT_HEADINGS = ("split", "set", "subset", "partition")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_DELIMITERS = ",;\t|"


class LabelTable(NamedTuple):
    """What a table says, row by row."""

    names: list[str]  # of the images
    labels: list[str]
    splits: list[str] | None  # "train", "val" or "test"


def split_of(word: str) -> str | None:
    """The split that a word names in one of its spellings."""
    folded = word.strip().lower()
    return next((split for split, spellings in SPLIT_NAMES.items() if folded in spellings), None)


def read_label_table(path: Path) -> LabelTable:
    """Read a CSV file of image names and classes, with or without a heading, and maybe a column of splits.

    Raises:
        AnnotationError: it is no such table; the message has the line and what is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read as text: {error}") from error
    rows = _rows(text, path)
    if not rows:
        raise AnnotationError(f"{path}: the table is empty; it needs a row for each image: its name, its class")
    columns = _columns(rows[0][1], path)
    body = rows[1:] if columns.heading else rows
    table = LabelTable([], [], None if columns.split is None else [])
    for line, cells in body:
        _add(table, columns, cells, f"{path}, line {line}")
    if not table.names:
        raise AnnotationError(f"{path}: the table has a heading and nothing below; add a row for each image")
    return table


class _Columns(NamedTuple):
    image: int
    label: int
    split: int | None
    width: int  # cells of the first row
    heading: bool


def _rows(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """(line, cells) of all rows that are not blank, by the delimiter that makes a table of the text."""
    start = [line for line in text.splitlines() if line.strip()][:20]

    def fitness(mark: str) -> tuple[bool, int]:
        widths = [len(cells) for cells in csv.reader(start, delimiter=mark)]
        return widths[:1] > [1], sum(width == widths[0] for width in widths)

    try:
        reader = csv.reader(io.StringIO(text), delimiter=max(_DELIMITERS, key=fitness))  # of equal ones the first
        stripped = ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader)
        return [(line, cells) for line, cells in stripped if any(cells)]
    except csv.Error as error:
        raise AnnotationError(f"{path}: not a CSV table: {error}") from error


def _columns(first: list[str], path: Path) -> _Columns:
    """Which column holds what: by the heading, or, in a table without, in the order image, class, split."""
    words = ["".join(filter(str.isalnum, cell.lower())) for cell in first]
    image = _best(words, IMAGE_HEADINGS)
    label = _best(words, LABEL_HEADINGS)
    if len(first) == 2 and not any(cell.lower().endswith(IMAGE_EXTENSIONS) for cell in first):
        if image is None and label is not None:
            image = 1 - label
        elif label is None and image is not None:
            label = 1 - image
    if image is not None and label is not None:
        return _Columns(image, label, _best(words, SPLIT_HEADINGS), len(first), True)
    if len(first) in (2, 3) and first[0].lower().endswith(IMAGE_EXTENSIONS):
        if len(first) == 3 and split_of(first[2]) is None:
            raise AnnotationError(
                f"{path}, line 1: {first[2]!r} is no split (train, val or test); give the table a heading"
            )
        return _Columns(0, 1, 2 if len(first) == 3 else None, len(first), False)
    raise AnnotationError(
        f"{path}, line 1: no columns of images and classes in ({', '.join(first)}). Head them, for example, 'path' "
        "and 'label' (and 'split'), or leave the heading out and give an image's file name and its class a row"
    )


def _best(words: Sequence[str], known: Sequence[str]) -> int | None:
    """The column with the heading that comes first in `known`."""
    return next((words.index(heading) for heading in known if heading in words), None)


def _add(table: LabelTable, columns: _Columns, cells: list[str], place: str) -> None:
    needed = max(columns.image, columns.label, columns.split or 0)
    if len(cells) <= needed or len(cells) > columns.width:
        raise AnnotationError(f"{place}: {len(cells)} cells where the first row has {columns.width}")
    name, label = cells[columns.image], cells[columns.label]
    if not name or not label:
        missing = "name of an image" if not name else "class"
        raise AnnotationError(f"{place}: there is no {missing}; fill it in or remove the row")
    table.names.append(name)
    table.labels.append(label)
    if table.splits is not None and columns.split is not None:
        split = split_of(cells[columns.split])
        if split is None:
            raise AnnotationError(f"{place}: {cells[columns.split]!r} is no split; use train, val or test")
        table.splits.append(split)
