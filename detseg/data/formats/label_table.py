"""Tables of images and their classes: CSV files as spreadsheets and programs write them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from detseg.csv_text import csv_text, read_cell
from detseg.data.annotations import AnnotationError, Category
from detseg.data.formats.assemble import label_classes, labelled_images
from detseg.data.formats.box_table import columns_of
from detseg.data.formats.format import SPLITS, Format, Sources
from detseg.data.formats.locate import (
    IMAGE_EXTENSIONS,
    WRITTEN_EXTENSIONS,
    FolderCache,
    PlaceImages,
    image_targets,
    locate_images,
    place_images,
    read_text,
    require_text,
    unique_stems,
    write_names,
)
from detseg.files import write_atomically

if TYPE_CHECKING:
    from detseg.data.labels import LabelledImages

TABLE_EXTENSIONS = (".csv", ".tsv")
IMAGE_HEADINGS = (
    "path", "file", "filename", "filepath", "image", "imagepath", "imagename", "imageid", "image", "img", "name",
    "id",
)  # fmt: skip
LABEL_HEADINGS = ("label", "class", "category", "classname", "labelname", "species", "breed", "target", "classid", "y")
SPLIT_HEADINGS = ("split", "set", "subset", "partition")
_DELIMITERS = ",;\t|"


class LabelTable(NamedTuple):
    """What a table says, row by row."""

    names: list[str]  # of the images
    labels: list[str]
    splits: list[str] | None = None  # "train", "val" or "test"


def split_of(word: str) -> str | None:
    """The split that a word names in one of its spellings."""
    folded = word.strip().lower()
    return next((split for split, spellings in SPLITS.items() if folded in spellings), None)


def read_label_table(path: Path) -> LabelTable:
    """Read a CSV file of image names and classes, with or without a heading, and maybe a column of splits.

    AnnotationError, for what is no such table, has the line and what is wrong.
    """
    rows = table_rows(read_text(path), path)
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


def table_rows(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """(line, cells) of all rows that are not blank, by the delimiter that makes a table of the text."""
    start = [line for line in text.splitlines() if line.strip()][:20]

    def fitness(mark: str) -> tuple[bool, int]:
        widths = [len(cells) for cells in csv.reader(start, delimiter=mark)]
        return widths[:1] > [1], sum(width == widths[0] for width in widths)

    try:
        reader = csv.reader(io.StringIO(text), delimiter=max(_DELIMITERS, key=fitness))  # of equal ones the first
        stripped = ((reader.line_num, [read_cell(cell.strip()) for cell in cells]) for cells in reader)
        return [(line, cells) for line, cells in stripped if any(cells)]
    except csv.Error as error:
        raise AnnotationError(f"{path}: not a CSV table: {error}") from error


def _columns(first: list[str], path: Path) -> _Columns:
    """Which column holds what: by the heading, or, in a table without, in the order image, class, split."""
    words = ["".join(filter(str.isalnum, cell.lower())) for cell in first]
    image = _best(words, IMAGE_HEADINGS)
    label = _best(words, LABEL_HEADINGS)
    if len(first) == 2 and not any(cell.lower().endswith(IMAGE_EXTENSIONS) for cell in first):  # one says the other
        image = 1 - label if image is None and label is not None else image
        label = 1 - image if label is None and image is not None else label
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


# ------------------------------------------------------------------ tables of a path


def _find(path: Path, images: str | Path | None) -> Sources | None:
    if path.is_file():
        if path.suffix.lower() in TABLE_EXTENSIONS and columns_of(path) is not None:
            raise AnnotationError(
                f"{path}: is a table of boxes, not of images with one class each. Cut its objects out first, from the "
                f"folder with tables for training and validation: detseg crops --data {path.parent} --output crops"
            )
        return _sources({"": path}, images) if path.suffix.lower() in TABLE_EXTENSIONS else None
    tables = tables_of(path)
    return _sources(tables, images) if "train" in tables else None


def _guess(path: Path, images: str | Path | None) -> Sources | None:
    tables = tables_of(path) if path.is_dir() else {}
    if len(tables) > 1:
        raise AnnotationError(f"{path}: several tables could be meant ({', '.join(tables)}); give the file itself")
    return _sources({"": next(iter(tables.values()))}, images) if tables else None


def tables_of(folder: Path) -> dict[str, Path]:
    """Split, or name of the file, -> table of a folder."""
    files = sorted(e for e in folder.iterdir() if e.suffix.lower() in TABLE_EXTENSIONS and not e.name.startswith("."))
    files = [file for file in files if columns_of(file) is None]  # else it is a table of boxes
    splits = {split: file for file in files if (split := split_of(file.stem))}
    return splits if "train" in splits else {file.name: file for file in files}


def _sources(files: dict[str, Path], images: str | Path | None) -> Sources:
    """The splits of tables, all with the same classes."""
    tables = {split: read_label_table(file) for split, file in files.items()}
    root = next(iter(files.values())).parent
    categories = label_classes({label for table in tables.values() for label in table.labels}, root)
    if list(tables) == [""] and (marks := tables[""].splits) is not None:
        whole, files = tables[""], {split: files[""] for split in SPLITS if split in marks}
        rows = {split: [row for row, mark in enumerate(marks) if mark == split] for split in files}
        tables = {s: LabelTable([whole.names[r] for r in rs], [whole.labels[r] for r in rs]) for s, rs in rows.items()}
    return {split: partial(_read, files[split], table, categories, images) for split, table in tables.items()}


def _read(file: Path, table: LabelTable, categories: tuple[Category, ...], images: str | Path | None) -> LabelledImages:
    beside = ("images", file.stem, "images", "train")
    folders = [Path(images)] if images is not None else [file.parent, *(file.parent / name for name in beside)]
    cache = FolderCache()
    names = [_with_extension(name, folders, cache) for name in table.names]
    return labelled_images(locate_images(names, folders), table.labels, categories, str(file))


def _with_extension(name: str, folders: Sequence[Path], cache: FolderCache) -> str:
    """The name as it is, or with the extension of an image that is there: some tables leave it out."""
    if name.lower().endswith(IMAGE_EXTENSIONS):
        return name
    above, _, bare = name.replace("\\", "/").rpartition("/")
    for folder in folders:
        there = cache.names(str(folder / above))
        written = next((extension for extension in WRITTEN_EXTENSIONS if f"{bare}{extension}" in there), None)
        if written is not None:
            return f"{name}{written}"
    return name


def _write(labelled: LabelledImages, folder: Path, split: str, images: PlaceImages = "link") -> None:
    paths = labelled.paths.tolist()
    if images == "keep":
        require_text(paths, folder)
        names = [Path(path).resolve().as_posix() for path in paths]
    else:
        targets = image_targets(labelled, unique_stems(labelled, set()), folder / "images" / split)
        place_images(paths, targets, images)
        names = [target.relative_to(folder).as_posix() for target in targets]
    write_names(labelled, folder / "classes.txt")
    labels = (labelled.names[k] for k in labelled.labels.tolist())
    write_atomically(folder / f"{split}.csv", csv_text([("path", "label"), *zip(names, labels, strict=True)]))


FORMAT = Format(
    name="tables",
    title="tables",
    looks_for="train.csv and val.csv; a .csv file with the names of the images and their classes",
    find=_find,
    guess=_guess,
    write=_write,
    gives="labels",
)
