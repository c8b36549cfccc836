"""CVAT's XML 1.1 "for images": boxes, polygons, masks and ellipses, read and written.

Format: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/. Rotated boxes and ellipses become polygons,
polygons of one class with the same `group_id` one object. Points, lines, skeletons, cuboids and tags enclose no area
in the image: they are left out, counted and told.
"""

import html
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.assemble import known_size
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.layout import beginning, files_by_split, split_of
from detseg.data.formats.locate import PlaceImages, image_folders
from detseg.data.formats.outlines import MOST_CODED, MOST_PIXELS, ellipse, turned_box
from detseg.data.formats.records import Fault, Item, Record, RunLengths, record_sources
from detseg.data.formats.write import number, placed_names
from detseg.data.formats.xml_stream import XmlHandler, stream_xml
from detseg.files import write_atomically
from detseg.reading import content_of

log = logging.getLogger(__name__)

SHAPES = ("box", "polygon", "mask", "ellipse")
NO_AREA = ("polyline", "points", "skeleton", "cuboid", "tag")
_SUBSET = re.compile(rb"<image\s[^>]*?\ssubset\s*=\s*[\"']([^\"']*)")


# ------------------------------------------------------------------ finding


def _find(path: Path, images: str | Path | None) -> Sources | None:
    files = files_by_split(path, (".xml",), _is_ours)
    if not files:
        return None
    names = list(dict.fromkeys(name for group in files.values() for file in group for name in _labels(file)))
    place = next(iter(files.values()))[0].parent
    splits: dict[str, Any] = {split: partial(_records, group) for split, group in files.items()}
    spelled: dict[str, str] = {}  # the subset of a split as the project calls it, and its folder of images
    if list(files) == [""]:
        subsets = _subsets(files[""])
        if len(subsets) > 1 or split_of(next(iter(subsets), "")):
            called = Counter(split_of(s) for s in subsets)  # of Train and train_2 both keep their names
            spelled = {(split_of(s) if called[split_of(s)] == 1 else None) or s: s for s in sorted(subsets)}
            splits = {split: partial(_records, files[""], s) for split, s in spelled.items()}
    return record_sources(
        splits, path, lambda split: image_folders(place, images, spelled.get(split, split)), names or None
    )


def _is_ours(file: Path) -> bool:
    start = beginning(file)
    return b"<annotations" in start and any(mark in start for mark in (b"<image", b"<meta", b"<track"))


def _subsets(files: Sequence[Path]) -> set[str]:
    """The parts of a project that images belong to; looked for in whole files only where their beginning has one."""
    found: set[str] = set()
    for file in files:
        if _SUBSET.search(beginning(file)) or b"<subset" in beginning(file):
            subsets = {m.decode("utf-8", "replace") for m in _SUBSET.findall(content_of(file))}
            found |= {html.unescape(subset) for subset in subsets}
    return found


class _Labels(XmlHandler):
    """The names of the classes in <meta>, without those that have no area and the parts of skeletons."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.done = False
        self._above: list[str] = []
        self._label: dict[str, str] = {}

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._above.append(tag)
        self.done = self.done or tag in ("image", "track")
        if tag == "label":
            self._label = {}
        elif self._above[-2:-1] == ["label"]:
            self.listen()

    def end(self, tag: str) -> None:
        self._above.pop()
        self.done = self.done or tag == "meta"
        if self._above[-1:] == ["label"] and tag in ("name", "type", "parent"):
            self._label[tag] = self.heard()
        elif tag == "label":
            name, kind = self._label.get("name", ""), self._label.get("type", "any")
            if name and not self._label.get("parent") and kind not in NO_AREA:
                self.names.append(name)


def _labels(file: Path) -> list[str]:
    handler = _Labels()
    for _ in stream_xml(file, handler):
        if handler.done:
            break
    return handler.names


# ------------------------------------------------------------------ reading


class _Images(XmlHandler):
    """Gathers a record for each <image>."""

    def __init__(self, file: Path, subset: str | None) -> None:
        self.records: list[Record] = []
        self.left_out: Counter[str] = Counter()
        self._file, self._subset = file, subset
        self._image: dict[str, str] | None = None
        self._size = (0, 0)
        self._items: list[Item | Fault] = []
        self._groups: dict[tuple[str, str], int] = {}
        self._inside = 0  # a skeleton: it has points of its own

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "image":
            self._image, self._items, self._groups = attributes, [], {}
            self._size = known_size((self._whole(attributes, "width", 0), self._whole(attributes, "height", 0)))
            if not attributes.get("name"):
                raise AnnotationError(f"{self._file}: line {self.line}: <image> has no name")
        elif tag == "track":
            raise AnnotationError(
                f"{self._file}: line {self.line}: holds the tracks of a video; export it from CVAT as "
                "'CVAT for images 1.1', which has every frame with its boxes"
            )
        elif self._image is None or self._inside:
            self._inside += tag == "skeleton"
        elif tag == "box" and "rotation" not in attributes:
            a = attributes
            try:  # mostly, a million times
                box = float(a["xtl"]), float(a["ytl"]), float(a["xbr"]), float(a["ybr"])
                self._items.append(Item(a["label"], box))
            except (KeyError, ValueError):
                self._add(tag, attributes)
        elif tag in SHAPES:
            self._add(tag, attributes)
        elif tag in NO_AREA:
            self.left_out[tag] += 1
            self._inside += tag == "skeleton"

    def end(self, tag: str) -> None:
        if tag == "skeleton" and self._inside:
            self._inside -= 1
        elif tag == "image" and self._image is not None:
            if self._subset is None or self._image.get("subset", "") == self._subset:
                self.records.append(Record(self._image["name"], self._items, self._size))
            self._image = None

    def _whole(self, attributes: dict[str, str], key: str, default: int | None = None) -> int:
        try:
            return int(float(attributes[key]))
        except (KeyError, ValueError, OverflowError):
            if default is not None and key not in attributes:
                return default
            raise AnnotationError(
                f"{self._file}: line {self.line}: {key}={attributes.get(key)!r} is no whole number of pixels"
            ) from None

    def _add(self, tag: str, a: dict[str, str]) -> None:
        name, group = a.get("label", ""), a.get("group_id", "0")
        try:
            item = _item(tag, a, self._size)
        except (KeyError, ValueError, OverflowError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            self._items.append(Fault(f"line {self.line}: <{tag}> of {name!r}: {what}"))
            return
        if tag == "polygon" and group not in ("", "0"):
            first = self._groups.setdefault((name, group), len(self._items))
            if first < len(self._items):
                other = self._items[first]
                assert isinstance(other, Item)
                self._items[first] = other._replace(polygons=[*other.polygons, *item.polygons])
                return
        self._items.append(item)


def _item(tag: str, a: dict[str, str], size: tuple[int, int]) -> Item:
    if tag == "box":
        box = tuple(float(a[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
        if not float(a.get("rotation", 0)):
            return Item(a["label"], box)
        return Item(a["label"], polygons=[turned_box(box, float(a["rotation"]))])
    if tag == "polygon":
        points = [float(v) for pair in a["points"].split(";") for v in pair.split(",")]
        return Item(a["label"], polygons=[points])
    if tag == "ellipse":
        cx, cy, rx, ry = (float(a[key]) for key in ("cx", "cy", "rx", "ry"))
        outline = ellipse(cx, cy, rx, ry, float(a.get("rotation", 0)))
        return Item(a["label"], polygons=[outline])
    left, top, width, height = (int(float(a[key])) for key in ("left", "top", "width", "height"))
    return Item(a["label"], mask=read_mask(a["rle"], left, top, width, height, size))


def read_mask(rle: str, left: int, top: int, width: int, height: int, size: tuple[int, int]) -> RunLengths:
    """CVAT's run lengths as COCO's: by rows in a window, beginning with what is outside; COCO's go by columns of all.

    ValueError: they do not fill the window, which is too large, or the size (width, height) of the image is unknown.
    """
    if width * height > MOST_PIXELS or size[0] * size[1] > MOST_CODED:
        raise ValueError(f"its mask is of {width} x {height} pixels in an image of {size[0]} x {size[1]}")
    runs = np.array([int(run) for run in rle.split(",")], np.int64)
    if (runs < 0).any() or width <= 0 or height <= 0 or runs.sum() != width * height:
        raise ValueError(f"the run lengths do not fill the mask of {width} x {height} pixels")
    if min(size) <= 0:
        raise ValueError("the <image> has no width and height, which its mask needs")
    window = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, size[0]), min(top + height, size[1])
    window = window[y1 - top : max(y2 - top, 0), x1 - left : max(x2 - left, 0)]
    if not window.any():
        raise ValueError("the mask is empty")
    # Along each column of the window, the rows where the object begins and where it ends.
    edges = np.diff(np.pad(window.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, stops = (np.argwhere(edges == step) @ [size[1], 1] + x1 * size[1] + y1 for step in (1, -1))
    joined = np.concatenate([[False], starts[1:] == stops[:-1]])  # from the foot of a column to the head of the next
    bounds = np.stack([starts[~joined], stops[np.append(~joined[1:], True)]], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], bounds, [size[0] * size[1]]]))
    return RunLengths(size[1], size[0], counts.tolist())


def _records(files: Sequence[Path], subset: str | None = None) -> Iterator[Record]:
    for file in files:
        handler = _Images(file, subset)
        for _ in stream_xml(file, handler):
            yield from handler.records
            handler.records.clear()
        if handler.left_out:
            listed = ", ".join(f"{count} {tag}" for tag, count in handler.left_out.most_common())
            log.warning("%s: left out, as they enclose no area: %s", file, listed)


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: <split>.xml with the classes in order, images/<split>/."""
    names = placed_names(annotations, folder / "images" / split, images)
    labels = "".join(f"<label><name>{_text(name)}</name></label>" for name in annotations.names)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "  <version>1.1</version>",
        f"  <meta><task><name>{_text(split)}</name><size>{len(names)}</size><mode>annotation</mode>"
        f"<labels>{labels}</labels></task></meta>",
    ]
    for row, (name, (width, height)) in enumerate(zip(names, annotations.sizes.tolist(), strict=True)):
        lines.append(f'  <image id="{row}" name="{_text(name)}" width="{width}" height="{height}">')
        owned = annotations.objects(row)
        for position in range(owned.start, owned.stop):
            lines += (f"    {shape}" for shape in _shapes(annotations, position))
        lines.append("  </image>")
    write_atomically(folder / f"{split}.xml", "\n".join([*lines, "</annotations>", ""]))


def _text(text: str) -> str:
    return html.escape(text).replace("\n", "&#10;")


def _shapes(annotations: Annotations, row: int) -> Iterator[str]:
    label = f'label="{_text(annotations.names[annotations.labels[row]])}" source="manual" occluded="0"'
    segments = annotations.segments
    polygons = [] if segments is None else segments.polygons(row)
    group = f' group_id="{row + 1}"' if len(polygons) > 1 else ""
    for polygon in polygons:
        points = ";".join(f"{number(x)},{number(y)}" for x, y in polygon.tolist())
        yield f'<polygon {label} points="{points}" z_order="0"{group}></polygon>'
    if polygons:
        return
    if segments is not None and segments.has_rle[row] and (mask := _mask(segments.rle(row, 0, 0))):
        yield f'<mask {label} {mask} z_order="0"></mask>'
        return
    x1, y1, x2, y2 = map(number, annotations.boxes[row].tolist())
    yield f'<box {label} xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" z_order="0"></box>'


def _mask(rle: Any) -> str:
    """A COCO run-length mask as the attributes of a <mask>; nothing if it is empty."""
    from pycocotools import mask

    pixels = mask.decode(rle)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return ""
    window = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].ravel()
    bounds = np.flatnonzero(np.diff(np.concatenate([[0], window, [2]])))  # the end counts as a change
    runs = ", ".join(map(str, np.diff(np.concatenate([[0], bounds])).tolist()))
    height, width = len(range(rows[0], rows[-1] + 1)), len(range(columns[0], columns[-1] + 1))
    return f'rle="{runs}" left="{columns[0]}" top="{rows[0]}" width="{width}" height="{height}"'


FORMAT = Format(
    name="cvat",
    title="CVAT",
    looks_for="annotations.xml of 'CVAT for images 1.1' with images/; train.xml and val.xml; subsets in one file",
    find=_find,
    write=_write,
    holds=frozenset({"polygons", "masks"}),
)
