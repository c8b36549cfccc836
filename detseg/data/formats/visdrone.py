"""VisDrone's labels of images: a text file an image with x, y, width, height, score, class, truncation, occlusion.

Format: https://github.com/VisDrone/VisDrone2018-DET-toolkit. Ignored regions (class 0) and "others" (11) are
ignored for every class, as the toolkit evaluates; other objects are ignored where their score is 0.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detseg.data.annotations import Annotations
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.label_files import LabelFolder, label_folders, label_records, write_label_files
from detseg.data.formats.layout import beginning
from detseg.data.formats.locate import PlaceImages, image_folders, read_names, write_names
from detseg.data.formats.records import Item, of_every_class, read_records
from detseg.data.formats.write import number

NAMES = (
    "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus", "motor",
)  # fmt: skip
REGION, OTHERS = 0, 11
COLUMNS = 8


# ------------------------------------------------------------------ reading


def _find(path: Path, images: str | Path | None) -> Sources | None:
    folders = label_folders(path, ("annotations",), ("images",), _is_ours)
    return {split: partial(_read, path, folders[split], images) for split in folders} or None


def _is_ours(file: Path) -> bool:
    line = beginning(file).decode("utf-8", "replace").lstrip("\ufeff").strip().partition("\n")[0]
    try:
        _columns(line)
    except ValueError:
        return False
    return True


def _columns(line: str) -> list[float]:
    """The numbers of a line; ValueError says what is wrong."""
    cells = line.strip().removesuffix(",").split(",")  # some files end their lines with a comma
    if len(cells) != COLUMNS:
        raise ValueError(f"{len(cells)} columns; x,y,width,height,score,class,truncation,occlusion belong there")
    return [float(cell) for cell in cells]


def _read(path: Path, folder: LabelFolder, images: str | Path | None) -> Annotations:
    root = path if path.is_dir() else path.parent
    listed = root / "classes.txt"
    names = read_names(listed) if listed.is_file() else list(NAMES)
    places = image_folders(root, images) if images is not None else [folder.images]
    return read_records(label_records(folder, partial(_objects, names)), path, places, names)


def _objects(names: Sequence[str], line: str) -> list[Item]:
    x, y, width, height, score, kind, *_ = _columns(line)
    box = (x, y, x + width, y + height)
    if kind == REGION or (kind == OTHERS and tuple(names) == NAMES):
        return of_every_class(box, names)
    if not (kind.is_integer() and 0 < kind <= len(names)):
        raise ValueError(f"the class {kind:g} is none of 0..{OTHERS if tuple(names) == NAMES else len(names)}")
    return [Item(names[int(kind) - 1], box, iscrowd=score == 0)]


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: <split>/annotations/ and <split>/images/, and classes.txt with the classes in order, from 1."""
    write_names(annotations, folder / "classes.txt")

    def line(position: int) -> str:
        x1, y1, x2, y2 = annotations.boxes[position].tolist()
        box = ",".join(map(number, (x1, y1, round(x2 - x1, 10), round(y2 - y1, 10))))
        return f"{box},{int(not annotations.iscrowd[position])},{annotations.labels[position] + 1},0,0"

    write_label_files(annotations, LabelFolder(folder / split / "annotations", folder / split / "images"), images, line)


FORMAT = Format(
    name="visdrone",
    title="VisDrone",
    looks_for="VisDrone2019-DET-train and -val with annotations/*.txt and images/ each",
    find=_find,
    write=_write,
    holds=frozenset({"crowd"}),
)
