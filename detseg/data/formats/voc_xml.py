"""What one Pascal VOC XML file says.

VOC counts pixels from 1 and its xmax, ymax are the last pixels inside the box, so a VOC box
(xmin, ymin, xmax, ymax) is (xmin - 1, ymin - 1, xmax, ymax) here. `difficult` becomes `iscrowd` (ignored).

Tools add to it: <polygon><x1/><y1/>...</polygon>, counted from 1 (Roboflow, supervision, OpenLabeler:
https://github.com/kinhong/OpenLabeler); <polygon><pt><x/><y/></pt>...</polygon>, from 0 (LabelMe's XML, also of CVAT);
<robndbox> with centre, size and clockwise angle in radians, from 0 (https://github.com/cgvict/roLabelImg).
"""

import codecs
import math
import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from detseg.data.annotations import AnnotationError
from detseg.data.formats.records import Fault, Item
from detseg.reading import content_of

WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949"}  # what is written as these
TURN = 2 * math.pi + 1e-6


class ImageNames(NamedTuple):
    """What a file says of where its image is, as written."""

    filename: str
    folder: str
    path: str


class VocFile(NamedTuple):
    """An image with its objects."""

    names: ImageNames
    size: tuple[int, int]  # width, height; zeros where the file has none
    items: list[Item | Fault]
    numbers: list[int]  # of the <object> that each is from, from 1


def parse_voc(file: Path) -> VocFile | None:
    """What a file says; None if its outermost element is another."""
    try:
        tree = _tree(_text_of(file))
    except ParseError as error:
        line, column = error.position
        raise AnnotationError(f"{file}: line {line}, column {column}: not well-formed XML: {error}") from error
    except (UnicodeError, LookupError) as error:  # a byte, or a declared encoding that there is not
        raise AnnotationError(f"{file}: cannot be read as XML: {error}; save it as UTF-8") from error
    except (DefusedXmlException, OSError, ValueError) as error:
        raise AnnotationError(f"{file}: cannot be read as XML: {error}") from error
    if tree.tag != "annotation":
        return None
    found = [(number, item) for number, one in enumerate(tree.findall("object"), 1) for item in _items(number, one)]
    numbers, items = [number for number, _ in found], [item for _, item in found]
    names = ImageNames(*(_text(tree, tag) for tag in ImageNames._fields))
    return VocFile(names, _size(tree, file), items, numbers)


def _text_of(file: Path) -> str:
    """The text of an XML file in the encoding that it declares; the parser itself knows none of East Asia."""
    data = content_of(file)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    declared = re.match(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)""", data[:200])
    name = declared[1].decode("ascii").lower() if declared else "utf-8"
    return data.decode("utf-8-sig" if name in ("utf-8", "utf8") else WIDER.get(name, name))


def _tree(text: str) -> Element:
    """The tree of an XML text. All that defusedxml refuses stands in a DTD; without one the parser in C is safe."""
    parse = defusedxml.ElementTree.fromstring if "<!DOCTYPE" in text else ElementTree.fromstring
    return parse(text)


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _size(tree: Element, file: Path) -> tuple[int, int]:
    texts = [_text(tree, f"size/{side}") for side in ("width", "height")]
    try:
        width, height = (max(0, int(float(text))) if text else 0 for text in texts)
        if max(width, height) >= 2**31:
            raise ValueError("no image is so large")
    except (ValueError, OverflowError) as error:
        raise AnnotationError(f"{file}: <size> holds {texts}, expected whole numbers of pixels") from error
    return width, height


def _items(number: int, element: Element) -> list[Item | Fault]:
    """The objects of an <object>: one, or as many as it has boxes. Its <part> elements are none."""
    name = _text(element, "name")
    try:
        if not name:
            raise ValueError("has no <name>")
        if _is_true(_text(element, "deleted")):  # LabelMe keeps what was removed
            return []
        boxes = [_box(found) for found in element.findall("bndbox")]
        polygons = [points for found in element.findall("polygon") if (points := _points(found))]
        polygons += [_rotated(found) for found in element.findall("robndbox")]
        if not boxes and not polygons:
            raise ValueError("has no <bndbox>, <polygon> or <robndbox>")
        if len(boxes) > 1 and polygons:
            raise ValueError(f"has {len(boxes)} <bndbox> and polygons, so whose they are is unknown")
    except ValueError as error:
        return [Fault(f"<object> {number} ({name or 'without name'}) {error}")]
    iscrowd = _is_true(_text(element, "difficult"))
    if not boxes and _text(element, "type") == "bounding_box":  # LabelMe's four corners of a box
        xs, ys = polygons[0][::2], polygons[0][1::2]
        boxes, polygons = [(min(xs), min(ys), max(xs), max(ys))], []
    return [Item(name, box, polygons, iscrowd=iscrowd) for box in boxes or (None,)]


def _is_true(text: str) -> bool:
    """VOC writes difficult as 0 or 1, some tools as False or true, or as "Unspecified"."""
    if text in ("0", ""):
        return False
    try:
        return abs(float(text)) > 0  # not NaN
    except ValueError:
        return text.lower() in ("true", "yes")


def _box(element: Element) -> tuple[float, ...]:
    x1, y1, x2, y2 = [_number(element.findtext(side), side) for side in ("xmin", "ymin", "xmax", "ymax")]
    return x1 - 1, y1 - 1, x2, y2


def _number(text: str | None, tag: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        if not text:
            raise ValueError(f"has no number in <{tag}>") from None
        comma = ", with a point, not a comma" if "," in text else ""
        raise ValueError(f"has {text.strip()!r} in <{tag}>, expected a number{comma}") from None


def _points(element: Element) -> list[float]:
    """x1, y1, x2, y2, ... of a <polygon>, from 0."""
    points: dict[tuple[int, str], float] = {}
    pairs = element.findall("pt")
    for position, pair in enumerate(pairs):
        points |= {(position, axis): _number(pair.findtext(axis), axis) for axis in "xy"}
    for child in [] if pairs else element:
        if match := re.fullmatch(r"([xy])([0-9]{1,9})", child.tag):
            points[int(match[2]), match[1]] = _number(child.text, child.tag) - 1
    if any((position, "y" if axis == "x" else "x") not in points for position, axis in points):
        raise ValueError("has a <polygon> with a point without x or y")
    return [points[key] for key in sorted(points)]


def _rotated(element: Element) -> list[float]:
    """The corners of a <robndbox>, as a polygon."""
    x, y, width, height, angle = [_number(element.findtext(tag), tag) for tag in ("cx", "cy", "w", "h", "angle")]
    if not abs(angle) <= TURN:
        raise ValueError(f"has the <angle> {angle:g}, expected radians")
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [(side * width / 2, end * height / 2) for side, end in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return [value for a, b in corners for value in (x + a * cos - b * sin, y + a * sin + b * cos)]
