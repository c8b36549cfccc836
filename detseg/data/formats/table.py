"""Large CSV files read by columns, a piece at a time, and the data set that a table of boxes describes."""

import codecs
import csv
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from detseg.csv_text import read_cell
from detseg.data.annotations import AnnotationError, Annotations, Category, Problem
from detseg.data.formats.assemble import box_areas
from detseg.data.formats.layout import beginning
from detseg.data.formats.locate import first_file, read_names
from detseg.data.formats.records import with_images
from detseg.reading import require_file

EXTENSIONS = (".csv", ".tsv")
CLASS_FILES = ("classes.csv", "class_mapping.csv", "classes.txt", "labels.txt")
MARKS = ",;\t|"
PIECE = 512  # rows; many more at a time leave the cache and take four times as long
NOTHING = ("", "nan", "none", "null", "na", "n/a")  # what programs write into a cell without a value


def first_rows(file: Path, count: int = 20) -> tuple[str, list[list[str]]]:
    """The mark that separates cells, and the first rows that are not blank, their cells stripped.

    Of a file that is no table there are no rows.
    """
    text = beginning(file).decode("utf-8", "replace").lstrip("\ufeff\ufffd")
    lines = [line for line in text.splitlines()[: 4 * count] if line.strip()]
    lines = lines[:count] if len(lines) > count or "\n" not in text[-1:] else lines  # the last may be cut off

    def fitness(mark: str) -> tuple[bool, int, int]:
        widths = [len(cells) for cells in csv.reader(lines, delimiter=mark, skipinitialspace=True)]
        return widths[:1] > [1], sum(width == widths[0] for width in widths), widths[0] if widths else 0

    try:
        mark = max(MARKS, key=fitness)
        return mark, [[c.strip() for c in row] for row in csv.reader(lines, delimiter=mark, skipinitialspace=True)]
    except csv.Error:
        return ",", []


class Piece(NamedTuple):
    """Some rows of a table, column by column."""

    first: int  # the position of its first row among those that are not blank, the heading aside
    columns: list[Sequence[str]]
    odd: dict[int, int]  # row of the piece that has another number of cells -> that number


def pieces(file: Path, heading: bool) -> Iterator[Piece]:
    """The rows of a table; AnnotationError for what is no text or no table, with its line."""
    first, width = 0, 0
    try:
        with _opened(file) as opened:
            reader = csv.reader(opened, delimiter=first_rows(file)[0], skipinitialspace=True)
            try:
                width = len(_heading(reader)) if heading else 0
                while read := list(islice(reader, PIECE)):
                    if rows := list(filter(None, read)):
                        width = width or len(rows[0])
                        yield _piece(first, rows, width)
                    first += len(rows)
            except csv.Error as error:
                raise AnnotationError(f"{file}: line {reader.line_num}: not a CSV table: {error}") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{file}: {_bad_line(file)}is not {error.encoding} text; save it as UTF-8") from error
    except (UnicodeError, OSError) as error:  # UnicodeError: UTF-16 that is cut
        raise AnnotationError(f"{file}: cannot be read as text: {error}") from error


def _piece(first: int, rows: list[list[str]], width: int) -> Piece:
    with suppress(ValueError):  # rows of different lengths
        columns: list[Sequence[str]] = list(zip(*rows, strict=True))
        if len(columns) == width:
            return Piece(first, columns, {})
    odd = {at: len(row) for at, row in enumerate(rows) if len(row) != width}
    return Piece(first, list(zip(*((row + [""] * width)[:width] for row in rows), strict=True)), odd)


def lines_of(file: Path, positions: set[int], heading: bool) -> dict[int, int]:
    """The lines on which the rows at positions of `pieces` end; for messages, it reads the file again."""
    with _opened(file) as opened:
        reader = csv.reader(opened, delimiter=first_rows(file)[0], skipinitialspace=True)
        if heading:
            _heading(reader)
        return {position: reader.line_num for position, _ in enumerate(filter(None, reader)) if position in positions}


def _heading(rows: Iterator[list[str]]) -> list[str]:
    """The first row that has more than blanks, as `first_rows` finds it; rows go on after it."""
    return next((row for row in rows if any(map(str.strip, row))), [])


def _opened(file: Path) -> TextIO:
    """The text of a file after its byte order mark, UTF-8 or as spreadsheets write UTF-16."""
    with require_file(file).open("rb") as opened:
        start = opened.read(3)
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return file.open(encoding="utf-16", newline="")
    text = file.open(encoding="utf-8", newline="")  # "utf-8-sig" is decoded in Python, slowly
    text.seek(len(codecs.BOM_UTF8) if start == codecs.BOM_UTF8 else 0)
    return text


def _bad_line(file: Path) -> str:
    content = file.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"line {line}: "
    return ""


def numbers(cells: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The values (n,) of a column, NaN where a cell has none, and where (n,) it has something that is no number."""
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells)), np.zeros(len(cells), bool)
    except ValueError:
        pairs = [_number(cell) for cell in cells]
    return np.array([value for value, _ in pairs], np.float64), np.array([bad for _, bad in pairs], bool)


def _number(cell: str) -> tuple[float, bool]:
    try:
        return float(cell), False
    except ValueError:
        pass
    text = cell.strip()
    try:
        return float(text.replace(",", ".")), False  # as a German spreadsheet writes it
    except ValueError:
        return float("nan"), text.lower() not in NOTHING


def listed_classes(folders: Iterable[Path]) -> tuple[list[str] | None, dict[str, str]]:
    """The classes in order, and what a number in the table means; None and nothing without a list.

    RetinaNet's classes.csv has a name and a number a line; classes.txt counts from 0.
    """
    file = first_file(folders, CLASS_FILES)
    if file is None:
        return None, {}
    if file.suffix == ".txt":
        names = read_names(file)
        return names, {str(number): name for number, name in enumerate(names) if str(number) not in names}
    numbered = _numbered_classes(file)
    return [numbered[key] for key in sorted(numbered)], {str(key): name for key, name in numbered.items()}


def _numbered_classes(file: Path) -> dict[int, str]:
    """Number -> class of a table with a class and its number on each line; AnnotationError with the line of another."""
    numbered: dict[int, str] = {}
    rows = [[cell.strip() for cell in row] for piece in pieces(file, False) for row in zip(*piece.columns, strict=True)]
    for at, row in enumerate(rows):
        if len(row) == 2 and row[1].isdecimal() and len(row[1]) < 19 and int(row[1]) not in numbered:
            numbered[int(row[1])] = row[0]
        elif at or len(rows) == 1:  # the first one may be a heading
            line = lines_of(file, {at}, False)[at]
            raise AnnotationError(
                f"{file}: line {line}: a list of classes has a name and a different number on each line, of 18 digits "
                f"at most, not {','.join(row)!r:.60}"
            )
    if not numbered:
        raise AnnotationError(f"{file}: lists no classes; give each a line with its name and number")
    return numbered


class Numbered(dict[str, int]):
    """Counts different texts from 0, in the order of their first occurrence; blanks around them do not count, nor what
    keeps a spreadsheet from running them (`detseg.csv_text`)."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._known: dict[str, int] = {}

    def __missing__(self, key: str) -> int:
        text = read_cell(key.strip())
        number = self[key] = self._known.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number

    def of(self, cells: Sequence[str]) -> NDArray[np.int64]:
        """(n,) the number of each cell."""
        return np.fromiter(map(self.__getitem__, cells), np.int64, len(cells))


class Fault(NamedTuple):
    """A row that is no object."""

    image: int
    position: int  # of the row, as in `Piece`
    what: str
    kind: str = "malformed-object"


class BoxRows:
    """Gathers the rows of a table of boxes."""

    def __init__(self) -> None:
        self.images, self.names = Numbered(), Numbered()
        self.faults: list[Fault] = []
        self._image, self._label, self._crowd = array("q"), array("q"), array("b")
        self._boxes = array("d")

    def add(
        self, image: NDArray[np.int64], boxes: NDArray[np.float64], label: NDArray[np.int64], crowd: NDArray[np.bool_]
    ) -> None:
        """Add objects: (n,) images and labels by number, (n, 4) boxes xyxy, (n,) whether they are ignored."""
        self._image.frombytes(image.tobytes())
        self._boxes.frombytes(boxes.tobytes())
        self._label.frombytes(label.tobytes())
        self._crowd.frombytes(crowd.astype(np.int8).tobytes())

    @property
    def largest(self) -> float:
        """The largest coordinate so far; 0 without boxes."""
        return float(np.frombuffer(self._boxes, np.float64).max(initial=0))

    def annotations(
        self,
        file: Path,
        folders: Sequence[Path],
        *,
        heading: bool = True,
        names: Sequence[str] | None = None,
        sizes: NDArray[np.int32] | None = None,
        shares: bool = False,
    ) -> Annotations:
        """The data set; `names` and `shares` as for `read_records`, `sizes` (N, 2) where they are known."""
        count, found = len(self.images.texts), self.names.texts
        image = np.frombuffer(self._image, np.int64)
        order = np.argsort(image, kind="stable")
        boxes = np.frombuffer(self._boxes, np.float64).reshape(-1, 4)[order]
        listed = sorted(found) if names is None else list(names)
        position = {name: label for label, name in enumerate(listed)}
        table = np.array([position.get(name, -1) for name in found], np.int32)
        data = Annotations(
            categories=tuple(Category(number, name) for number, name in enumerate(listed, 1)),
            image_ids=np.arange(1, count + 1),
            paths=np.array(self.images.texts, np.str_),
            sizes=np.zeros((count, 2), np.int32) if sizes is None else sizes,
            image_index=image[order].astype(np.int32),
            boxes=boxes,
            labels=table[np.frombuffer(self._label, np.int64)[order]],
            iscrowd=np.frombuffer(self._crowd, np.int8)[order].astype(bool),
            ids=np.arange(1, len(boxes) + 1),
            areas=box_areas(boxes),
            source=str(file),
        )
        data = replace(data, read_problems=(*self._fault_problems(file, heading), *self._unknown(data, order)))
        return with_images(data, self.images.texts, folders, np.full(count, shares))

    def _fault_problems(self, file: Path, heading: bool) -> Iterator[Problem]:
        lines = lines_of(file, {fault.position for fault in self.faults}, heading) if self.faults else {}
        for image, position, what, kind in self.faults:
            place = f"line {lines.get(position, 0)}: {what}"
            yield Problem(str(file), "", None, place, "correct or remove it", kind=kind, image_index=image)

    def _unknown(self, data: Annotations, order: NDArray[np.int64]) -> Iterator[Problem]:
        remedy = "add it to the list, or correct it"
        for row in np.flatnonzero(data.labels < 0).tolist():
            what = f"the class {self.names.texts[self._label[order[row]]]!r} is not in the list of classes"
            image = int(data.image_index[row])
            yield Problem(data.source, "", row + 1, what, remedy, kind="unknown-category", image_index=image)
