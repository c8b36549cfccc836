"""Lists of classes for masks: which value of a mask file is which class.

Either one name a line, the first of value 0, or a value and a name a line ("4 bluebell"). In the second form
the names "ignore" and "void" mark values that count for no class.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from detseg.data.annotations import AnnotationError, Category
from detseg.data.formats.locate import read_lines
from detseg.data.index_png import MaskError, read_index_image
from detseg.data.masks import BACKGROUND, MAX_VALUE
from detseg.data.sample import IGNORE

IGNORED_NAMES = ("ignore", "void", "__ignore__")
VOC_NAMES = (
    BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_NUMBERED = re.compile(r"(\d+)[\s:,;]+(\S.*)")


class ClassList(NamedTuple):
    """The classes, each with its value in the mask files, and the values that count for none."""

    categories: tuple[Category, ...]
    ignore_values: tuple[int, ...] = (IGNORE,)


VOC_CLASSES = ClassList(tuple(Category(value, name) for value, name in enumerate(VOC_NAMES)))


def read_class_list(file: Path) -> ClassList:
    """Read a list of classes, in which 255 means "ignore" unless it is a class's.

    Raises:
        AnnotationError: the file cannot be read, is empty, or gives a value or a name twice.
    """
    lines = read_lines(file)
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        pairs = [(int(match[1]), match[2].strip()) for match in numbered if match]
    else:
        names = lines[1:] if lines and lines[0] == "__ignore__" else lines  # labelme's lists start with it, as -1
        pairs = list(enumerate(names))
    classes = [Category(value, name) for value, name in pairs if name.lower() not in IGNORED_NAMES]
    if not classes:
        raise AnnotationError(f"{file}: lists no class; write one name a line, the first for value 0")
    for what, values in (("value", [str(value) for value, _ in pairs]), ("name", [c.name for c in classes])):
        repeated = sorted({value for value in values if values.count(value) > 1})
        if repeated:
            raise AnnotationError(f"{file}: gives the {what} {', '.join(repeated)} twice")
    largest = max(value for value, _ in pairs)
    if largest > MAX_VALUE:
        raise AnnotationError(f"{file}: value {largest} does not fit into a mask file; the largest is {MAX_VALUE}")
    ignored = {value for value, name in pairs if name.lower() in IGNORED_NAMES} | {IGNORE}
    return ClassList(tuple(classes), tuple(sorted(ignored - {c.id for c in classes})))


def guess_classes(mask_paths: Iterable[str], place: Path, file_name: str) -> ClassList:
    """The classes of masks without a list: only background and foreground can be told from the values.

    Values 0 and 1 (and 255, "ignore") are background and foreground; so are 0 and 255 alone. AnnotationError, for
    others, says what to write.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        found = set().union(*pool.map(_values, mask_paths))
    if not found <= {0, 1, IGNORE}:
        shown = ", ".join(map(str, sorted(found)[:12])) + (", ..." if len(found) > 12 else "")
        raise AnnotationError(
            f"{place}: the masks hold the values {shown}, and no file says what they mean. Write {file_name} with one "
            f"class name a line, the first for value 0, or with lines such as '4 bluebell'; {IGNORE} is 'ignore'"
        )
    foreground = IGNORE if 1 not in found and IGNORE in found else 1
    categories = (Category(0, BACKGROUND), Category(foreground, "foreground"))
    return ClassList(categories, () if foreground == IGNORE else (IGNORE,))


def _values(path: str) -> set[int]:
    import numpy as np

    try:
        values = read_index_image(path)
    except MaskError:
        return set()  # validation reports it
    return set(np.flatnonzero(np.bincount(values.ravel())).tolist())
