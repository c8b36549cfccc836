"""KITTI's labels: a text file an image with 15 columns, of which class and box are read; written too.

Format: https://www.cvlibs.net/datasets/kitti/eval_object.php (readme.txt of the devkit). Boxes are left, top, right and
bottom in pixels, counted from 0. Regions named DontCare hold objects that nobody drew: ignored for every class.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.label_files import LabelFolder, label_files, label_folders, label_records, write_label_files
from detseg.data.formats.layout import beginning
from detseg.data.formats.locate import PlaceImages, first_file, image_folders, read_names, read_text, write_names
from detseg.data.formats.records import Item, of_every_class, read_records
from detseg.data.formats.write import number

ANYTHING = "dontcare"
NUMBERS = 14  # after the class: truncated, occluded, alpha, the box, seven of the box in space; results add a score
CLASS_FILES = ("classes.txt", "labels.txt")


# ------------------------------------------------------------------ reading


def _find(path: Path, images: str | Path | None) -> Sources | None:
    folders = label_folders(path, ("label_2", "labels"), ("image_2", "images", "data"), _is_ours)
    if not folders:  # "raw/training", as torchvision keeps it, and "object/training"
        for name in ("raw", "object"):
            folders = folders or label_folders(path / name, ("label_2",), ("image_2",), _is_ours)
    return {split: partial(_read, path, folders, split, images) for split in folders} or None


def _is_ours(file: Path) -> bool:
    """Whether the first line has a class and 14 or 15 numbers. Lines of YOLO have numbers only."""
    line = beginning(file).decode("utf-8", "replace").lstrip("\ufeff").strip().partition("\n")[0]
    try:
        name, _ = _columns(line)
    except ValueError:
        return False
    return "label_2" in file.parts or not _is_number(name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _columns(line: str) -> tuple[str, list[float]]:
    """The class of a line, which may hold blanks, and its numbers; ValueError says what is wrong."""
    words = line.split()
    first = max((at for at, word in enumerate(words) if not _is_number(word)), default=0) + 1
    if len(words) - first not in (NUMBERS, NUMBERS + 1):
        raise ValueError(f"{first} words and {len(words) - first} numbers; a class and {NUMBERS} numbers belong there")
    return " ".join(words[:first]), [float(word) for word in words[first:]]


def _read(path: Path, folders: dict[str, LabelFolder], split: str, images: str | Path | None) -> Annotations:
    root = path if path.is_dir() else path.parent
    listed = first_file([root, folders[split].labels], CLASS_FILES)
    names = _occurring(folders) if listed is None else read_names(listed)
    places = image_folders(root, images) if images is not None else [folders[split].images]
    return read_records(label_records(folders[split], partial(_objects, names)), path, places, names)


def _occurring(folders: dict[str, LabelFolder]) -> list[str]:
    names = set()
    for folder in folders.values():
        for file in label_files(folder.labels):
            for line in filter(str.strip, read_text(file).splitlines()):
                try:
                    names.add(_columns(line)[0])
                except ValueError:
                    continue  # reported when it is read
    return sorted(name for name in names if name.lower() != ANYTHING)


def _objects(names: Sequence[str], line: str) -> list[Item]:
    name, values = _columns(line)
    box = values[3:7]
    return of_every_class(box, names) if name.lower() == ANYTHING else [Item(name, box)]


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: <split>/label_2/ and <split>/image_2/, and classes.txt with the classes in order.

    What KITTI says of space is written as unknown: -1, -1000 and -10.
    """
    for name in annotations.names:
        if name.lower() == ANYTHING or " ".join(name.split()) != name or _is_number(name.split()[-1]):
            raise AnnotationError(
                f"{folder}: not written, the class {name!r} cannot be told from the other columns of KITTI; rename it"
            )
    write_names(annotations, folder / "classes.txt")

    def line(position: int) -> str:
        box = " ".join(map(number, annotations.boxes[position].tolist()))
        return f"{annotations.names[annotations.labels[position]]} 0 0 -10 {box} -1 -1 -1 -1000 -1000 -1000 -10"

    write_label_files(annotations, LabelFolder(folder / split / "label_2", folder / split / "image_2"), images, line)


FORMAT = Format(
    name="kitti",
    title="KITTI",
    looks_for="training/label_2/*.txt with training/image_2/; labels/*.txt of 15 columns with images/",
    find=_find,
    write=_write,
)
