"""Tables of boxes: CSV files of TensorFlow, RetinaNet, Kaggle and of programs of one's own, read and written.

A row is a box, or an image without objects where the cells of the box are empty. Which column is what is told by its
heading, and logged; a table without heading is RetinaNet's `path,x1,y1,x2,y2,class` or makesense's
`class,x,y,width,height,image,image width,image height`.
"""

import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.box_formats import BoxFormat, convert_boxes
from detseg.csv_text import csv_text
from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.format import SPLITS, Format, Sources
from detseg.data.formats.layout import files_by_split, split_of
from detseg.data.formats.locate import IMAGE_EXTENSIONS, PlaceImages, image_folders, write_names
from detseg.data.formats.records import with_shared_names
from detseg.data.formats.table import (
    EXTENSIONS,
    NOTHING,
    BoxRows,
    Fault,
    Piece,
    first_rows,
    lines_of,
    listed_classes,
    numbers,
    pieces,
)
from detseg.data.formats.write import number, placed_names
from detseg.files import write_atomically

log = logging.getLogger(__name__)

Form = Literal["corners", "sizes", "middles"]

IMAGE = (
    "filename", "imageid", "imagename", "imagepath", "filepath", "path", "imagefile", "image", "img", "file",
    "patientid", "name", "id",
)  # fmt: skip
LABEL = (
    "class", "classname", "label", "labelname", "category", "categoryname", "species", "object", "target", "classid",
    "categoryid", "name",
)  # fmt: skip
LABEL_END = re.compile(r"(?!file|image|img|media|annotation|shape|b?box).+(class|label|category|species|type)")
CROWD = ("iscrowd", "crowd", "ignore", "difficult", "isgroupof")
SPLIT = ("split", "subset", "set", "partition")
SIZE = (("imagewidth", "imageheight"), ("imgwidth", "imgheight"), ("width", "height"), ("w", "h"))
BOX = ("bbox", "box", "bboxes", "boundingbox", "bndbox")  # a cell with all four numbers: x, y, width, height
PREFIXES = ("boundingbox", "bndbox", "bbox", "box", "roi")
SIDES: dict[Form, tuple[tuple[str, str, str, str], ...]] = {
    "corners": (
        ("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("x0", "y0", "x1", "y1"),
        ("left", "top", "right", "bottom"), ("xtl", "ytl", "xbr", "ybr"), ("minx", "miny", "maxx", "maxy"),
    ),
    "sizes": tuple(
        (*start, *size)
        for start in (("x", "y"), ("xmin", "ymin"), ("left", "top"), ("x1", "y1"))
        for size in (("w", "h"), ("width", "height"))
    ),
    "middles": tuple(
        (*middle, *size)
        for middle in (("xcenter", "ycenter"), ("xcentre", "ycentre"), ("centerx", "centery"), ("cx", "cy"))
        for size in (("w", "h"), ("width", "height"))
    ),
}  # fmt: skip
AS: dict[Form, BoxFormat] = {"corners": "xyxy", "sizes": "xywh", "middles": "cxcywh"}
MEANING = {
    "corners": "the corners of the boxes",
    "sizes": "left, top, width and height of the boxes",
    "middles": "middle, width and height of the boxes",
}
HOW = (
    "Head the columns, for example, 'filename', 'class', and 'xmin', 'ymin', 'xmax', 'ymax' (corners) or 'x', 'y', "
    "'w', 'h' (left, top and size)"
)
ONLY_CLASS = "object"
SHARE = 1.5  # no set of boxes in pixels stays below; shares may lie a little over the border
TRUE = ("1", "1.0", "true", "yes")


class Columns(NamedTuple):
    """Which column of a table holds what."""

    image: int
    label: int | None
    box: tuple[int, ...]  # four columns, or one with four numbers in a cell
    form: Form
    size: tuple[int, int] | None = None  # width and height of the image
    split: int | None = None
    crowd: int | None = None
    heading: tuple[str, ...] = ()  # empty in a table without


# ------------------------------------------------------------------ recognising


def columns_of(file: Path) -> Columns | None:
    """What the columns of a table of boxes hold; None if it is none."""
    _, rows = first_rows(file)
    if not rows:
        return None
    return _headed(rows[0]) or _unheaded(rows)


def _headed(heading: Sequence[str]) -> Columns | None:
    words = ["".join(filter(str.isalnum, cell.lower())) for cell in heading]
    of_box = {word: column for column, word in enumerate(words)}
    for column, word in enumerate(words):
        prefix = next((p for p in PREFIXES if word.startswith(p) and word != p), "")
        of_box |= {word.removeprefix(prefix): column} if prefix else {}
    form, box = _sides(of_box)
    if not box:
        return None
    used = set(box)

    def best(known: Sequence[str]) -> int | None:
        return next((words.index(w) for w in known if w in words and words.index(w) not in used), None)

    image = best(IMAGE)
    if image is None:
        return None
    used.add(image)
    label = best(LABEL)
    if label is None:
        ends = [at for at, word in enumerate(words) if at not in used and LABEL_END.fullmatch(word)]  # cell_type
        label = ends[0] if len(ends) == 1 else None
    sizes = ((best([width]), best([height])) for width, height in SIZE)
    size = next(((width, height) for width, height in sizes if width is not None and height is not None), None)
    return Columns(image, label, box, form, size, best(SPLIT), best(CROWD), tuple(heading))


def _sides(words: dict[str, int]) -> tuple[Form, tuple[int, ...]]:
    for form, known in SIDES.items():
        for sides in known:
            if all(side in words for side in sides):
                return form, tuple(words[side] for side in sides)
    column = next((words[word] for word in BOX if word in words), None)
    return "sizes", () if column is None else (column,)


def _unheaded(rows: Sequence[Sequence[str]]) -> Columns | None:
    def fits(row: Sequence[str], image: int, values: range) -> bool:
        value, bad = numbers([row[column] for column in values])
        named = row[image].lower().endswith(IMAGE_EXTENSIONS)
        return named and not bad.any() and bool(np.isfinite(value).all() or np.isnan(value).all())

    if all(len(row) == 6 and fits(row, 0, range(1, 5)) for row in rows):
        return Columns(0, 5, (1, 2, 3, 4), "corners")
    if all(len(row) == 8 and fits(row, 5, range(1, 5)) for row in rows):
        return Columns(5, 0, (1, 2, 3, 4), "sizes", (6, 7))
    return None


# ------------------------------------------------------------------ finding


def _find(path: Path, images: str | Path | None) -> Sources | None:
    files = files_by_split(path, EXTENSIONS, lambda file: columns_of(file) is not None, each=True)
    if not files:
        if path.is_file() and path.suffix.lower() in EXTENSIONS:
            _refuse_unclear(path)
        return None
    if len(files.get("", ())) > 1:
        listed = ", ".join(file.name for file in files[""])
        raise AnnotationError(f"{path}: several tables of boxes could be meant ({listed}); give the file itself")
    root = path if path.is_dir() else path.parent
    if path.is_dir() and list(files) == [""] and split_of(files[""][0].stem) == "test":
        files = {"test": files[""]}
    readers: dict[str, Any] = {split: partial(_read, group[0], root, images, split) for split, group in files.items()}
    if list(files) == [""]:
        file = files[""][0]
        readers = {s: partial(_read, file, root, images, s, marked=True) for s in _marked_splits(file)} or readers
    return with_shared_names(readers)


def _refuse_unclear(file: Path) -> None:
    """An error for a table that has boxes, as its heading tells, and yet cannot be understood."""
    _, rows = first_rows(file)
    words = {"".join(filter(str.isalnum, cell.lower())) for cell in (rows[0] if rows else ())}
    if words & {"xmin", "ymin", "xmax", "ymax", "x1", "y1", "x2", "y2", *BOX} or {"x", "y"} <= words:
        raise AnnotationError(f"{file}: it is not clear which of its columns ({', '.join(rows[0])}) is what. {HOW}")


def _marked_splits(file: Path) -> list[str]:
    """The splits that a column tells, for which the whole column is read; none without such a column."""
    columns = columns_of(file)
    if columns is None or columns.split is None:
        return []
    words = {word for piece in pieces(file, True) for word in set(piece.columns[columns.split])}
    unknown = sorted(word for word in words if word.strip() and split_of(word) is None)
    if unknown:
        title = columns.heading[columns.split]
        raise AnnotationError(
            f"{file}: the column {title!r} holds {unknown[0]!r}, which is no split; use train, val or test"
        )
    found = {split_of(word) for word in words}
    return [split for split in SPLITS if split in found]


# ------------------------------------------------------------------ reading


def _read(file: Path, root: Path, images: str | Path | None, split: str, *, marked: bool = False) -> Annotations:
    """One split: the table, or its rows that a column marks as of this split."""
    columns = columns_of(file)
    if columns is None:
        raise AnnotationError(f"{file}: is no table of boxes. {HOW}")
    names, by_id = listed_classes(dict.fromkeys([file.parent, root]))
    rows, sizes = BoxRows(), _Sizes()
    for piece in pieces(file, bool(columns.heading)):
        cells = _chosen(piece, columns, split if marked else None, file)
        if cells is not None:
            _add(rows, sizes, cells, columns, by_id)
    if not rows.images.texts:
        raise AnnotationError(f"{file}: the table has no rows; it needs one for each object")
    shares = 0 < rows.largest <= SHARE
    _tell(file, columns, shares)
    folders = image_folders(file.parent, images, split)
    measured = sizes.of(len(rows.images.texts))
    return rows.annotations(file, folders, heading=bool(columns.heading), names=names, sizes=measured, shares=shares)


class _Cells(NamedTuple):
    """The rows of a piece that count."""

    positions: NDArray[np.int64]
    columns: list[Sequence[str]]
    odd: dict[int, int]


def _chosen(piece: Piece, columns: Columns, split: str | None, file: Path) -> _Cells | None:
    """The rows with an image, of the split; AnnotationError for a row that has something else and no image."""
    names = piece.columns[columns.image]
    kept = np.ones(len(names), bool)
    for at in [] if all(map(str.strip, names)) else [at for at, name in enumerate(names) if not name.strip()]:
        kept[at] = False
        if any(column[at].strip() for column in piece.columns):
            line = lines_of(file, {piece.first + at}, bool(columns.heading)).get(piece.first + at)
            raise AnnotationError(f"{file}: line {line}: there is no name of an image; fill it in or remove the row")
    if split is not None and columns.split is not None:
        words = piece.columns[columns.split]
        meant = {word: split_of(word) == split for word in set(words)}
        kept &= np.fromiter(map(meant.__getitem__, words), bool, len(words))
    rows = np.flatnonzero(kept)
    if len(rows) == len(names):
        return _Cells(rows + piece.first, piece.columns, piece.odd)
    position = {int(row): at for at, row in enumerate(rows)}
    odd = {position[at]: count for at, count in piece.odd.items() if at in position}
    chosen: list[Sequence[str]] = [[column[row] for row in rows.tolist()] for column in piece.columns]
    return _Cells(rows + piece.first, chosen, odd) if len(rows) else None


class _Sizes:
    """The sizes of images, as their rows tell them."""

    def __init__(self) -> None:
        self._pieces: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []

    def add(self, images: NDArray[np.int64], width: Sequence[str], height: Sequence[str]) -> None:
        first = np.unique(images, return_index=True)[1]
        sides = [numbers([cells[at] for at in first.tolist()])[0] for cells in (width, height)]
        told = np.nan_to_num(np.stack(sides, axis=1), posinf=0, neginf=0)
        self._pieces.append((images[first], np.clip(told, 0, 2**31 - 1).astype(np.int32)))

    def of(self, count: int) -> NDArray[np.int32]:
        """(count, 2) width, height; zeros where none are told."""
        sizes = np.zeros((count, 2), np.int32)
        for images, told in self._pieces:
            sizes[images] = told
        sizes[(sizes <= 0).any(axis=1)] = 0
        return sizes


def _add(rows: BoxRows, sizes: _Sizes, cells: _Cells, columns: Columns, by_id: dict[str, str]) -> None:
    images = rows.images.of(cells.columns[columns.image])
    if columns.size is not None:
        sizes.add(images, *(cells.columns[column] for column in columns.size))
    values, bad = _values([cells.columns[column] for column in columns.box])
    empty = np.isnan(values).all(axis=1) & ~bad
    bad |= np.isnan(values).any(axis=1) & ~empty
    words: Sequence[str] = [ONLY_CLASS] * len(images) if columns.label is None else cells.columns[columns.label]
    words = [by_id.get(word.strip(), word) for word in words] if by_id else words
    nameless = np.zeros(len(images), bool)
    if any(not word or word.isspace() for word in set(words)):
        nameless = np.array([not word.strip() for word in words]) & ~empty
    bad[list(cells.odd)] = True
    for at in np.flatnonzero(bad | nameless).tolist():
        if at in cells.odd:
            what = f"{cells.odd[at]} cells where the first row has {len(cells.columns)}"
        else:
            read = ", ".join(cells.columns[column][at] for column in columns.box)
            what = f"the box ({read}) is not four numbers" if bad[at] else "there is no class"
        rows.faults.append(Fault(int(images[at]), int(cells.positions[at]), what))
    good = np.flatnonzero(~(bad | nameless | empty))
    crowd = np.zeros(len(images), bool)
    if columns.crowd is not None:
        marks = {word: word.strip().lower() in TRUE for word in set(cells.columns[columns.crowd])}
        crowd = np.fromiter(map(marks.__getitem__, cells.columns[columns.crowd]), bool, len(images))
    labels = rows.names.of(words if len(good) == len(images) else [words[at] for at in good.tolist()])
    rows.add(images[good], convert_boxes(values[good], AS[columns.form], "xyxy"), labels, crowd[good])


def _values(columns: Sequence[Sequence[str]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The four numbers (n, 4) of the boxes, NaN where there are none, and where (n,) there is something else."""
    wrong = np.zeros(len(columns[0]), bool)
    if len(columns) == 1:  # "[1, 2, 3, 4]", "1 2 3 4"
        split = [cell.strip(" []()").replace(",", " ").split() for cell in columns[0]]
        wrong = np.array(
            [
                len(parts) not in (0, 4) and cell.strip().lower() not in NOTHING
                for parts, cell in zip(split, columns[0], strict=True)
            ]
        )
        fitting = [parts if len(parts) == 4 else [""] * 4 for parts in split]
        columns = list(zip(*fitting, strict=True))
    read = [numbers(column) for column in columns]
    return np.stack([values for values, _ in read], axis=1), wrong | np.any([bad for _, bad in read], axis=0)


def _tell(file: Path, columns: Columns, shares: bool) -> None:
    """One line that says what was taken as what; a warning where more than names of columns was needed to know it."""

    def title(column: int) -> str:
        return repr(columns.heading[column]) if columns.heading else f"column {column + 1}"

    box = ", ".join(title(column) for column in columns.box)
    told = [f"images from {title(columns.image)}", f"{MEANING[columns.form]} from {box}"]
    told += [f"in {'shares of the image' if shares else 'pixels'}"]
    told += [f"classes from {title(columns.label)}" if columns.label is not None else f"one class, {ONLY_CLASS!r}"]
    known = {columns.image, *columns.box, *(columns.size or ()), columns.label, columns.split, columns.crowd}
    others = [repr(word) for at, word in enumerate(columns.heading) if at not in known and word.strip()]
    if others and columns.label is None:
        told += [f"not read are {', '.join(others)} (if one holds classes, head it 'class')"]
    told += [f"sizes of images from {', '.join(map(title, columns.size))}"] if columns.size else []
    told += [f"splits from {title(columns.split)}"] if columns.split is not None else []
    told += [f"ignored objects from {title(columns.crowd)}"] if columns.crowd is not None else []
    certain = columns.form == "corners" and columns.heading and columns.label is not None and not shares
    log.log(logging.INFO if certain else logging.WARNING, "%s: %s", file, "; ".join(told))


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split as TensorFlow has it: <split>.csv, images/<split>/, and classes.txt with the classes in order.

    Images without objects have a row without class and box, and there is a column `iscrowd` where objects are ignored.
    """
    write_names(annotations, folder / "classes.txt")
    names = placed_names(annotations, folder / "images" / split, images)
    crowd = bool(annotations.iscrowd.any())
    heading = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax", *(["iscrowd"] * crowd)]
    rows: list[list[Any]] = [heading]
    for row, (name, size) in enumerate(zip(names, annotations.sizes.tolist(), strict=True)):
        owned = annotations.objects(row)
        for position in range(owned.start, owned.stop):
            box = map(number, annotations.boxes[position].tolist())
            ignored = [int(annotations.iscrowd[position])] * crowd
            rows.append([name, *size, annotations.names[annotations.labels[position]], *box, *ignored])
        if owned.start == owned.stop:
            rows.append([name, *size, *([""] * (5 + crowd))])
    write_atomically(folder / f"{split}.csv", csv_text(rows))


FORMAT = Format(
    name="csv",
    title="tables of boxes",
    looks_for="train.csv and val.csv with a row for each box: filename, class, xmin, ymin, xmax, ymax (or x, y, w, h)",
    find=_find,
    write=_write,
    holds=frozenset({"crowd"}),
)
