"""Open Images' tables of boxes, versions 4 to 7, as they are downloaded and as Datumaro and FiftyOne keep them.

Format: https://storage.googleapis.com/openimages/web/download_v7.html#data-formats. Boxes are shares of the image;
`IsGroupOf` becomes `iscrowd`. Classes are codes such as /m/0cmf2, which class-descriptions*.csv translates.
"""

import logging
import os
from functools import cache, partial
from pathlib import Path

import numpy as np

from detseg.csv_text import csv_text, read_cell
from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.format import SPLITS, Format, Sources
from detseg.data.formats.layout import files_by_split
from detseg.data.formats.locate import PlaceImages, image_folders
from detseg.data.formats.records import with_shared_names
from detseg.data.formats.table import EXTENSIONS, BoxRows, Fault, first_rows, lines_of, numbers, pieces
from detseg.data.formats.write import number, placed_names
from detseg.files import write_atomically

log = logging.getLogger(__name__)

SIDES = ("XMin", "YMin", "XMax", "YMax")
HEADING = (
    "ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsOccluded", "IsTruncated",
    "IsGroupOf", "IsDepiction", "IsInside",
)  # fmt: skip
IMAGES_HEADING = ("ImageID", "Subset")
CODES = ("/m/", "/g/", "/j/")


# ------------------------------------------------------------------ finding


def _find(path: Path, images: str | Path | None) -> Sources | None:
    files = files_by_split(path, EXTENSIONS, _is_ours, each=True)
    if not files:
        return None
    if len(files.get("", ())) > 1:
        listed = ", ".join(file.name for file in files[""])
        raise AnnotationError(f"{path}: several tables of boxes could be meant ({listed}); give the file itself")
    root = path if path.is_dir() else path.parent
    return with_shared_names({s: partial(_read, group[0], root, images, s) for s, group in files.items()})


def _is_ours(file: Path) -> bool:
    _, rows = first_rows(file, 1)
    return bool(rows) and {"ImageID", "LabelName", *SIDES} <= set(rows[0])


def _beside(file: Path, root: Path, pattern: str) -> list[Path]:
    """Tables of other things: beside the boxes, at the root, or in a folder `metadata`."""
    places = dict.fromkeys(
        [file.parent, file.parent.parent / "metadata", root, root / "annotations", root / "metadata"]
    )
    return [found for place in places for found in sorted(place.glob(pattern)) if not found.name.startswith(".")]


# ------------------------------------------------------------------ reading


def _read(file: Path, root: Path, images: str | Path | None, split: str) -> Annotations:
    heading = first_rows(file, 1)[1][0]
    columns = {
        title: heading.index(title) for title in ("ImageID", "LabelName", "IsGroupOf", *SIDES) if title in heading
    }
    rows, known = BoxRows(), _descriptions(file, root)
    for piece in pieces(file, True):
        cells = {title: piece.columns[column] for title, column in columns.items()}
        unnamed = next((at for at, name in enumerate(cells["ImageID"]) if not name.strip()), None)
        if unnamed is not None:
            line = lines_of(file, {piece.first + unnamed}, True)[piece.first + unnamed]
            raise AnnotationError(f"{file}: line {line}: there is no ImageID; fill it in or remove the row")
        image = rows.images.of(cells["ImageID"])
        boxes = np.stack([numbers(cells[side])[0] for side in SIDES], axis=1)
        bad = np.asarray(np.isnan(boxes).any(axis=1))
        bad[list(piece.odd)] = True
        for at in np.flatnonzero(bad).tolist():
            box = ", ".join(cells[side][at] for side in SIDES)
            rows.faults.append(Fault(int(image[at]), piece.first + at, f"the box ({box}) is not four numbers"))
        crowd = np.zeros(len(image), bool)
        if "IsGroupOf" in cells:
            crowd = np.fromiter((cell.strip() == "1" for cell in cells["IsGroupOf"]), bool, len(image))
        labels = [known.get(code, code) for code in cells["LabelName"]]
        good = np.flatnonzero(~bad)
        labels = labels if len(good) == len(image) else [labels[at] for at in good]
        rows.add(image[good], boxes[good], rows.names.of(labels), crowd[good])
    folders = _image_folders(file, root, images, split)
    _add_images_without_objects(rows, file, root, split, folders)
    _tell(rows, file, root)
    listed = known and not any(code.startswith(CODES) for code in known)
    own = list(dict.fromkeys(map(read_cell, known.values()))) if listed else None
    return _there(rows.annotations(file, folders, names=own, shares=True))


def _there(data: Annotations) -> Annotations:
    """The set without the images that are not there: the tables are those of all images, which hardly anybody has."""
    unmeasured = np.flatnonzero((data.sizes <= 0).any(axis=1))  # the others have been opened
    missing = [row for row in unmeasured.tolist() if not os.path.isfile(data.paths[row])]  # noqa: PTH113 - pathlib raises for names that are too long
    if not missing or len(missing) == len(data):
        return data
    log.warning(
        "%s: %d of its %d images are not there and are left out, the first is %s",
        *(data.source, len(missing), len(data), Path(data.paths[missing[0]]).name),
    )
    return data.subset(np.delete(np.arange(len(data)), missing))


def _descriptions(file: Path, root: Path) -> dict[str, str]:
    """Code -> name of each class that a list describes, with the codes of all of Open Images or one's own."""
    lists = [*_beside(file, root, "*class-descriptions*.csv"), *_beside(file, root, "classes.csv")]
    boxable = [found for found in lists if "boxable" in found.name]
    for found in (boxable or lists)[:1]:
        rows = (row for piece in pieces(found, False) for row in zip(*piece.columns, strict=True))
        pairs = {row[0].strip(): row[1].strip() for row in rows if len(row) > 1}
        return {code: name for code, name in pairs.items() if code != "LabelName"}
    return {}


def _image_folders(file: Path, root: Path, images: str | Path | None, split: str) -> list[Path]:
    """Where the images of a split may lie; Open Images calls "val" validation."""
    if images is not None:
        return image_folders(file.parent, images, split)
    places = [place for word in SPLITS.get(split, (split,)) for place in image_folders(file.parent, None, word)]
    spelled = [base / word for word in SPLITS.get(split, ()) for base in (root, root / "images", root / "data")]
    return list(dict.fromkeys([*spelled, file.parent.parent / "data", root / "data", *places]))


def _add_images_without_objects(rows: BoxRows, file: Path, root: Path, split: str, folders: list[Path]) -> None:
    """Images that a list of images has and no box: those that are there, for hardly anybody downloads all of them."""

    @cache
    def stems(folder: Path) -> set[str]:
        return {file.stem for file in folder.iterdir()} if folder.is_dir() else set()

    def is_there(image: Path) -> bool:
        return any(image.name in stems(folder / image.parent) for folder in folders)

    for found in _beside(file, root, "*images*rotation*.csv"):
        _, start = first_rows(found, 1)
        if not start or not set(IMAGES_HEADING) <= set(start[0]):
            raise AnnotationError(f"{found}: a list of images has the columns {' and '.join(IMAGES_HEADING)}")
        name, subset = (start[0].index(title) for title in IMAGES_HEADING)
        spellings = SPLITS.get(split, (split,))
        for piece in pieces(found, True):
            for image, part in zip(piece.columns[name], piece.columns[subset], strict=True):
                if (not split or part.lower() in spellings) and is_there(Path(image)):
                    rows.images.of([image])


def _tell(rows: BoxRows, file: Path, root: Path) -> None:
    codes = [name for name in rows.names.texts if name.startswith(CODES)]
    if codes:
        log.warning(
            "%s: %d classes have no name in class-descriptions-boxable.csv and keep their codes: %s",
            *(file, len(codes), ", ".join(codes[:5])),
        )
    masks = _beside(file, root, "*annotations-object-segmentation*.csv")
    if masks:
        log.warning("%s: masks are not read, only the boxes of %s", masks[0], file.name)


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: annotations/<split>-annotations-bbox.csv, with a list of its images and one of the classes."""
    if (annotations.sizes[annotations.image_index] <= 0).any():
        raise AnnotationError(
            f"{folder}: not written, Open Images has shares of images and the size of some is unknown"
        )
    word = "validation" if split == "val" else split
    names = placed_names(annotations, folder / "images" / word, images)
    ids = [str(Path(name).with_suffix("")) for name in names]
    boxes = (annotations.boxes / np.tile(annotations.sizes, 2)[annotations.image_index]).tolist()
    rows = zip(annotations.image_index.tolist(), annotations.labels.tolist(), boxes, annotations.iscrowd, strict=True)
    place = folder / "annotations"
    classes = csv_text([(name, name) for name in annotations.names])
    known = place / "class-descriptions-boxable.csv"
    if known.is_file() and known.read_text(encoding="utf-8") != classes:
        raise AnnotationError(f"{known}: the folder already holds other categories; write to a new folder")
    write_atomically(known, classes)
    written = (
        (ids[image], "", annotations.names[label], 1, *map(number, (x1, x2, y1, y2)), -1, -1, int(crowd), -1, -1)
        for image, label, (x1, y1, x2, y2), crowd in rows
    )
    write_atomically(place / f"{word}-annotations-bbox.csv", csv_text([HEADING, *written]))
    write_atomically(
        place / f"{word}-images-with-rotation.csv", csv_text([IMAGES_HEADING, *((image, word) for image in ids)])
    )


FORMAT = Format(
    name="openimages",
    title="Open Images",
    looks_for="train-annotations-bbox.csv and validation-annotations-bbox.csv, with class-descriptions-boxable.csv",
    find=_find,
    write=_write,
    holds=frozenset({"crowd"}),
)
