"""The XML of dlib's imglab and of ImgLab: boxes, read and written.

Format: https://github.com/davisking/dlib/tree/master/tools/imglab. `ignore='1'` becomes `iscrowd`; boxes
without a label are objects of one class. `angle` tells how the object stands in its box, which is upright. Parts
(landmarks) are left out and counted.
"""

import html
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.layout import beginning, files_by_split
from detseg.data.formats.locate import PlaceImages, first_file, image_folders, read_names, write_names
from detseg.data.formats.records import Fault, Item, Record, record_sources
from detseg.data.formats.write import number, placed_names
from detseg.data.formats.xml_stream import XmlHandler, stream_xml
from detseg.files import write_atomically

log = logging.getLogger(__name__)

UNLABELLED = "object"


def _find(path: Path, images: str | Path | None) -> Sources | None:
    files = files_by_split(path, (".xml",), _is_ours)
    if not files:
        return None
    place = next(iter(files.values()))[0].parent
    listed = first_file([place, path], ("labels.txt", "classes.txt"))
    names = None if listed is None else read_names(listed)
    splits = {split: partial(_records, group) for split, group in files.items()}
    return record_sources(splits, path, lambda split: image_folders(place, images, split), names)


def _is_ours(file: Path) -> bool:
    start = beginning(file)
    return b"<dataset" in start and b"<images" in start and b"<annotation" not in start


class _Images(XmlHandler):
    """Gathers a record for each <image>."""

    def __init__(self, file: Path) -> None:
        self.records: list[Record] = []
        self.parts = self.unlabelled = 0
        self._file = file
        self._image: dict[str, str] | None = None
        self._items: list[Item | Fault] = []
        self._box: dict[str, str] | None = None
        self._label = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "image":
            if not attributes.get("file"):
                raise AnnotationError(f"{self._file}: line {self.line}: <image> has no file")
            self._image, self._items = attributes, []
        elif tag == "box" and self._image is not None:
            self._box, self._label = attributes, ""
        elif tag == "label" and self._box is not None:
            self.listen()
        self.parts += tag == "part"

    def end(self, tag: str) -> None:
        if tag == "label" and self._box is not None:
            self._label = _as_utf8(self.heard())
        elif tag == "box" and self._box is not None:
            label = self._label or _as_utf8(self._box.get("label", ""))
            try:
                self._items.append(_item(self._box, label or UNLABELLED))
                self.unlabelled += not label
            except (KeyError, ValueError) as error:
                what = f"no {error}" if isinstance(error, KeyError) else str(error)
                self._items.append(Fault(f"line {self.line}: <box> of {label!r}: {what}"))
            self._box = None
        elif tag == "image" and self._image is not None:
            self.records.append(Record(_as_utf8(self._image["file"]), self._items, self._size()))
            self._image = None

    def _size(self) -> tuple[int, int]:
        assert self._image is not None
        try:
            width, height = (int(float(self._image.get(side, 0))) for side in ("width", "height"))
        except (ValueError, OverflowError):
            raise AnnotationError(
                f"{self._file}: line {self.line}: width and height of an image must be whole numbers of pixels"
            ) from None
        return (width, height) if min(width, height) > 0 else (0, 0)


def _as_utf8(text: str) -> str:
    """dlib declares ISO-8859-1 and writes the bytes it was given, which mostly are UTF-8."""
    try:
        return text if text.isascii() else text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _item(box: dict[str, str], name: str) -> Item:
    x, y, width, height = (float(box[key]) for key in ("left", "top", "width", "height"))
    ignored = box.get("ignore", "0").strip().lower() in ("1", "true", "yes")
    return Item(name, (x, y, x + width, y + height), iscrowd=ignored)


def _records(files: Sequence[Path]) -> Iterator[Record]:
    for file in files:
        handler = _Images(file)
        for _ in stream_xml(file, handler):
            yield from handler.records
            handler.records.clear()
        if handler.parts:
            log.warning("%s: %d parts (landmarks) of boxes are left out", file, handler.parts)
        if handler.unlabelled:
            log.warning("%s: %d boxes have no label and count as %r", file, handler.unlabelled, UNLABELLED)


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: <split>.xml, images/<split>/, and labels.txt with the classes in order.

    Fractions of pixels are kept, though dlib itself reads whole numbers only.
    """
    write_names(annotations, folder / "labels.txt")
    names = placed_names(annotations, folder / "images" / split, images)
    lines = ["<?xml version='1.0' encoding='UTF-8'?>", "<dataset>", f"<name>{html.escape(split)}</name>", "<images>"]
    for row, (name, (width, height)) in enumerate(zip(names, annotations.sizes.tolist(), strict=True)):
        path = name if images == "keep" else f"images/{split}/{name}"
        lines.append(f"  <image file='{html.escape(path)}' width='{width}' height='{height}'>")
        owned = annotations.objects(row)
        for position in range(owned.start, owned.stop):
            x1, y1, x2, y2 = annotations.boxes[position].tolist()
            sides = {"top": y1, "left": x1, "width": round(x2 - x1, 10), "height": round(y2 - y1, 10)}
            box = " ".join(f"{key}='{number(value)}'" for key, value in sides.items())
            ignored = " ignore='1'" if annotations.iscrowd[position] else ""
            label = html.escape(annotations.names[annotations.labels[position]], quote=False)
            lines.append(f"    <box {box}{ignored}><label>{label}</label></box>")
        lines.append("  </image>")
    write_atomically(folder / f"{split}.xml", "\n".join([*lines, "</images>", "</dataset>", ""]))


FORMAT = Format(
    name="dlib",
    title="dlib (ImgLab)",
    looks_for="an .xml file of <dataset><images><image file=...>; train.xml and val.xml",
    find=_find,
    write=_write,
    holds=frozenset({"crowd"}),
)
