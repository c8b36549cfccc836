"""Lists of the colours of classes, as tools and data sets write them beside masks in colours.

| file | a line of it |
|---|---|
| labelmap.txt of CVAT and Datumaro | `rose:250,50,83::`, that is name, colour, parts and actions |
| class_dict.csv (Kaggle, Semantic Segmentation Suite) | `rose,250,50,83` below `name,r,g,b` |
| label_colors.txt of CamVid and CVAT | `250 50 83 rose` |
| others | `rose,#fa3253` or `#fa3253 rose` |

https://docs.cvat.ai/docs/manual/advanced/formats/format-smask/,
http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from detseg.data.annotations import AnnotationError
from detseg.data.mask_reading import ListedColour

VOC_BORDER = (224, 224, 192)  # of every object in Pascal VOC's masks: it counts for no class
MOST = 32_000  # lines of a list
_RGB = r"(?P<r>\d{1,9})[\s,;]+(?P<g>\d{1,9})[\s,;]+(?P<b>\d{1,9})"
_HEX = r"#(?P<hex>[0-9A-Fa-f]{6})"
_NAME = r"(?P<name>\S.*?)"
_LABELMAP = re.compile(rf"{_NAME}:\s*{_RGB}\s*:[^:]*:[^:]*")
_FORMS = (
    _LABELMAP,
    re.compile(rf"{_RGB}[\s,;:]+(?P<name>[^\s\d].*)"),
    re.compile(rf"{_NAME}[\s,;:=]+{_RGB}"),
    re.compile(rf"{_HEX}[\s,;:=]+(?P<name>\S.*)"),
    re.compile(rf"{_NAME}[\s,;:=]+{_HEX}"),
)
_NAME_COLUMNS = ("name", "class", "class_name", "label", "label_name", "category")
_RGB_COLUMNS = (("r", "g", "b"), ("red", "green", "blue"))


def colours_of(lines: Sequence[str], file: Path) -> list[ListedColour]:
    """The colours that the lines of a list give, with values that count its classes from 0; empty if it gives none.

    Raises:
        AnnotationError: a line of a list of colours has none, a colour is out of range or given twice.
    """
    rows = _of_table(lines, file)
    body = [line for line in lines if not line.startswith("#") or re.match(_HEX, line)]
    body = [line[:1000] for line in body]
    if rows is None:
        form = next((form for form in _FORMS if body and all(form.fullmatch(line) for line in body)), None)
        if form is None:
            return []
        rows = [
            (match["name"].strip(), _rgb(match.groupdict(), file)) for line in body if (match := form.fullmatch(line))
        ]
        if form is _LABELMAP and VOC_BORDER not in [rgb for _, rgb in rows]:
            rows.append(("void", VOC_BORDER))
    if len(rows) > MOST:
        raise AnnotationError(f"{file}: lists {len(rows)} colours; a list of classes has at most {MOST}")
    seen: dict[tuple[int, int, int], str] = {}
    for name, rgb in rows:
        if rgb in seen:
            raise AnnotationError(
                f"{file}: gives the colour {','.join(map(str, rgb))} twice, to {seen[rgb]!r} and {name!r}; it could "
                "mean either in a mask"
            )
        seen[rgb] = name
    return [ListedColour(rgb, value, name) for value, (name, rgb) in enumerate(rows)]


def _of_table(lines: Sequence[str], file: Path) -> list[tuple[str, tuple[int, int, int]]] | None:
    """The rows of a CSV with columns of names and colours; None if it is none."""
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, skipinitialspace=True)]
    except csv.Error as error:
        raise AnnotationError(f"{file}: cannot be read as CSV: {error}") from error
    head = [cell.lower() for cell in rows[0]] if rows else []
    columns = next((names for names in _RGB_COLUMNS if set(names) <= set(head)), None)
    named = next((name for name in _NAME_COLUMNS if name in head), None)
    if columns is None or named is None:
        return None
    found = []
    for number, row in enumerate(rows[1:], 2):
        cells = dict(zip(head, row, strict=False))
        if not cells.get(named) or not all(cells.get(column, "").isdecimal() for column in columns):
            raise AnnotationError(f"{file}: line {number} has no name with three numbers: {','.join(row)[:80]}")
        numbers = dict(zip("rgb", (cells[column] for column in columns), strict=True))
        found.append((cells[named], _rgb(numbers, file)))
    return found


def _rgb(groups: dict[str, str], file: Path) -> tuple[int, int, int]:
    code = groups.get("hex")
    if code:
        return int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)
    if any(len(groups[key]) > 9 or int(groups[key]) > 255 for key in "rgb"):
        shown = ",".join(groups[key][:9] for key in "rgb")
        raise AnnotationError(f"{file}: {shown} is no colour: red, green and blue are 0 to 255")
    return int(groups["r"]), int(groups["g"]), int(groups["b"])
