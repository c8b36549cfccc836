"""Lists of classes for masks: which value or colour of a mask file is which class.

One name a line, the first of value 0; or a value and a name a line ("4 bluebell"); or a name and a colour a line, see
`detseg.data.formats.colour_list`. The names "ignore" and "void" mark values that count for no class. A list of a
single name means that class before a background: whatever is not 0 is of it.
"""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from detseg.data.annotations import AnnotationError, Category
from detseg.data.formats.colour_list import colours_of
from detseg.data.formats.locate import read_lines
from detseg.data.index_png import is_background
from detseg.data.mask_reading import STORED, MaskReading
from detseg.data.masks import BACKGROUND, MAX_VALUE
from detseg.data.sample import IGNORE

IGNORED_NAMES = ("ignore", "void", "__ignore__")
VOC_NAMES = (
    BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# The classes that count in Cityscapes by their number in *_labelIds.png (www.cityscapes-dataset.com); of the others
# nothing is learnt.
CITYSCAPES_NAMES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
_NUMBERED = re.compile(r"(\d+)[\s:,;]+(\S.*)")
_NUMBERED_HEADS = ({"pixel value", "class"}, {"value", "class"}, {"value", "name"}, {"id", "name"}, {"id", "class"})


class ClassList(NamedTuple):
    """The classes, each with its value in the mask files, the values that count for none, and how values are found."""

    categories: tuple[Category, ...]
    ignore_values: tuple[int, ...] = (IGNORE,)
    reading: MaskReading = STORED


VOC_CLASSES = ClassList(tuple(Category(value, name) for value, name in enumerate(VOC_NAMES)))
CITYSCAPES_CLASSES = ClassList(
    tuple(Category(value, name) for value, name in CITYSCAPES_NAMES.items()),
    tuple(value for value in (*range(34), IGNORE) if value not in CITYSCAPES_NAMES),
)


def read_class_list(file: Path) -> ClassList:
    """Read a list of classes, in which 255 means "ignore" unless it is a class's.

    Raises:
        AnnotationError: the file cannot be read, is empty, or gives a value, a name or a colour twice.
    """
    lines = _without_head(read_lines(file))
    colours = colours_of(lines, file)
    if colours:
        pairs = [(colour.value, colour.name) for colour in colours]
        return _checked(pairs, file, MaskReading(colours=tuple(colours)))
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        pairs = [(_number(match[1], file), match[2].strip()) for match in numbered if match]
        return _checked(pairs, file)
    if file.suffix.lower() == ".csv":
        raise AnnotationError(
            f"{file}: lists no classes: its first line names neither the columns name, r, g, b nor Pixel Value, Class"
        )
    names = lines[1:] if lines and lines[0] == "__ignore__" else lines  # labelme's lists start with it, as -1
    if len(names) == 1 and names[0].lower() not in IGNORED_NAMES and not is_background(names[0]):
        return ClassList((Category(0, BACKGROUND), Category(1, names[0])), (), MaskReading(binary=True))
    return _checked(list(enumerate(names)), file)


def is_class_name(name: str) -> bool:
    """Whether a line of a list can hold a name, so that it is read as this class."""
    return bool(name) and name == name.strip() and name.splitlines() == [name] and name.lower() not in IGNORED_NAMES


def with_threshold(classes: ClassList, threshold: int, place: Path | str) -> ClassList:
    """The same two classes, told apart by brightness; AnnotationError where there are not two."""
    if len(classes.categories) != 2:
        raise AnnotationError(
            f"{place}: --threshold tells two classes apart, and there are {len(classes.categories)} "
            f"({', '.join(category.name for category in classes.categories[:10])}); leave it out"
        )
    categories = tuple(Category(value, category.name) for value, category in enumerate(classes.categories))
    return ClassList(categories, (), MaskReading(threshold=threshold))


def _checked(pairs: list[tuple[int, str]], file: Path, reading: MaskReading = STORED) -> ClassList:
    classes = [Category(value, name) for value, name in pairs if name.lower() not in IGNORED_NAMES]
    if not classes:
        raise AnnotationError(f"{file}: lists no class; write one name a line, the first for value 0")
    for what, values in (("value", [str(value) for value, _ in pairs]), ("name", [c.name for c in classes])):
        repeated = sorted(value for value, count in Counter(values).items() if count > 1)
        if repeated:
            raise AnnotationError(f"{file}: gives the {what} {', '.join(repeated[:10])} twice")
    largest = max(value for value, _ in pairs)
    if largest > MAX_VALUE:
        raise AnnotationError(f"{file}: value {largest} does not fit into a mask file; the largest is {MAX_VALUE}")
    ignored = {value for value, name in pairs if name.lower() in IGNORED_NAMES}
    ignored |= set() if reading.colours else {IGNORE}
    return ClassList(tuple(classes), tuple(sorted(ignored - {c.id for c in classes})), reading)


def _number(digits: str, file: Path) -> int:
    if len(digits) > 9:  # int() refuses thousands of them
        raise AnnotationError(f"{file}: value {digits[:20]}... does not fit into a mask file; largest is {MAX_VALUE}")
    return int(digits)


def _without_head(lines: list[str]) -> list[str]:
    """The lines without a head of columns such as Roboflow's "Pixel Value, Class"."""
    if not lines or "," not in lines[0]:
        return lines
    cells = {cell.strip().lower() for cell in next(csv.reader(lines[:1]), [])}
    return lines[1:] if cells in _NUMBERED_HEADS else lines


def by_number(classes: ClassList) -> ClassList:
    """The classes of a list of colours for masks that hold numbers: of the lines, from 0; 255 is "ignore"."""
    taken = {category.id for category in classes.categories}
    return ClassList(classes.categories, tuple(sorted({*classes.ignore_values, IGNORE} - taken)))
