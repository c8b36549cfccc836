"""Datumaro's own JSON: boxes, polygons and masks, read and written.

Format: https://open-edge-platform.github.io/datumaro/latest/docs/data-formats/formats/datumaro.html. A box, polygons
and a mask of one class in one group are one object. Points, lines, labels and other kinds enclose no area: they are
left out, counted and told.
"""

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.layout import beginning, files_by_split
from detseg.data.formats.locate import PlaceImages, image_folders
from detseg.data.formats.outlines import ellipse_in, is_mask, turned_box
from detseg.data.formats.records import Fault, Item, Record, RunLengths, read_records
from detseg.data.formats.write import placed_names
from detseg.files import write_atomically
from detseg.json_text import ODD_JSON, parse_json, read_bytes

log = logging.getLogger(__name__)

KINDS = ("bbox", "rotated_bbox", "polygon", "mask", "ellipse")
# Unlike COCO's, its categories are an object: of kinds of categories.
_CATEGORIES = re.compile(rb'"categories"\s*:\s*\{\s*("(label|points|mask)"\s*:\s*\{|\})')


class _Rle(msgspec.Struct, gc=False):
    size: tuple[int, int]  # height, width
    counts: str | list[int]


class _Attributes(msgspec.Struct, gc=False):
    is_crowd: bool | int | None = False


class _Annotation(msgspec.Struct, gc=False):
    type: str
    label_id: int | None = None
    group: int = 0
    bbox: list[float] | None = None
    points: list[float] | None = None
    rle: _Rle | None = None
    attributes: _Attributes | None = None


class _Image(msgspec.Struct, gc=False):
    path: str | None = ""
    size: tuple[int, int] | None = None  # height, width


class _ItemOf(msgspec.Struct, gc=False):
    id: str | int
    annotations: list[_Annotation] = []
    image: _Image | None = None
    media: _Image | None = None


class _Label(msgspec.Struct, gc=False):
    name: str


class _Labels(msgspec.Struct, gc=False):
    labels: list[_Label] = []


class _Categories(msgspec.Struct, gc=False):
    label: _Labels | None = None


class _File(msgspec.Struct):
    items: list[msgspec.Raw]
    categories: _Categories


_FILE, _ITEM = msgspec.json.Decoder(_File), msgspec.json.Decoder(_ItemOf)


# ------------------------------------------------------------------ finding


def _find(path: Path, images: str | Path | None) -> Sources | None:
    files = files_by_split(path, (".json",), _is_ours)
    return {split: partial(_read, path, files, split, images) for split in files} or None


def _is_ours(file: Path) -> bool:
    start = beginning(file)
    return b'"dm_format_version"' in start or _CATEGORIES.search(start) is not None


# ------------------------------------------------------------------ reading


def _read(path: Path, files: dict[str, list[Path]], split: str, images: str | Path | None) -> Annotations:
    own = {file: _load(file) for file in files[split]}
    every = (own[file] if file in own else _load(file) for group in files.values() for file in group)
    names = list(dict.fromkeys(name for content in every for name in _names(content)))
    first = files[split][0]
    folders = image_folders(first.parent, images, first.stem)  # images/Train for Train.json
    return read_records(_records(own), path, folders, names)


def _load(file: Path) -> _File:
    content = read_bytes(file)
    with contextlib.suppress(*ODD_JSON):
        return _FILE.decode(content)
    parsed = parse_json(content, file)
    if not isinstance(parsed, dict) or not isinstance(parsed.get("items"), list):
        raise AnnotationError(f'{file}: no list "items"; this is not a Datumaro file')
    try:
        return _File(parsed["items"], msgspec.convert(parsed.get("categories"), _Categories))
    except msgspec.ValidationError as error:
        raise AnnotationError(f"{file}: categories: {error}") from error


def _names(content: _File) -> list[str]:
    return [] if content.categories.label is None else [label.name for label in content.categories.label.labels]


def _records(files: Mapping[Path, _File]) -> Iterator[Record]:
    for file, content in files.items():
        left_out: Counter[str] = Counter()
        names = _names(content)
        for position, raw in enumerate(content.items):
            item, faults = _item_of(raw, f"{file}: items[{position}]")
            image = item.image or item.media or _Image()
            height, width = image.size or (0, 0)
            objects = [*faults, *_objects(item.annotations, names, left_out)]
            yield Record(image.path or str(item.id), objects, (width, height))
        if left_out:
            listed = ", ".join(f"{count} {kind}" for kind, count in left_out.most_common())
            log.warning("%s: left out, as they enclose no area: %s", file, listed)


def _item_of(raw: Any, place: str) -> tuple[_ItemOf, list[Fault]]:
    """An entry of "items", and what stands for those of its annotations that cannot be read."""
    if isinstance(raw, msgspec.Raw):
        with contextlib.suppress(*ODD_JSON):
            return _ITEM.decode(raw), []
        raw = parse_json(bytes(raw), place)
    annotations, faults = [], []
    fields = dict(raw) if isinstance(raw, dict) else raw
    listed = fields.pop("annotations", None) or [] if isinstance(fields, dict) else []
    try:
        item = msgspec.convert(fields, _ItemOf, strict=False)
        listed = msgspec.convert(listed, list[Any])
    except (msgspec.ValidationError, OverflowError) as error:
        raise AnnotationError(f"{place}: {error}") from error
    for number, annotation in enumerate(listed):
        try:
            annotations.append(msgspec.convert(annotation, _Annotation, strict=False))
        except (msgspec.ValidationError, OverflowError) as error:
            faults.append(Fault(f"annotations[{number}] is malformed: {error}"))
    item.annotations = annotations
    return item, faults


def _objects(annotations: Sequence[_Annotation], names: Sequence[str], left_out: Counter[str]) -> list[Item | Fault]:
    """The objects of an image; parts of one object share a group and a class."""
    objects: list[Item | Fault] = []
    parts: dict[tuple[int, str], list[int]] = {}
    for number, a in enumerate(annotations):
        if a.type not in KINDS:
            left_out[a.type] += 1
            continue
        if a.label_id is None or not 0 <= a.label_id < len(names):
            what = f"annotations[{number}]: label_id {a.label_id} is not among the {len(names)} labels"
            objects.append(Fault(what, "add the label, or correct or remove the annotation"))
            continue
        item = _item(a, names[a.label_id])
        if item is None:
            objects.append(Fault(f"annotations[{number}]: the {a.type} has not the numbers that it needs"))
            continue
        if a.group:
            parts.setdefault((a.group, item.name), []).append(len(objects))
        objects.append(item)
    for rows in parts.values():
        _join(objects, rows)
    return [item for item in objects if item is not None] if parts else objects


def _join(objects: list[Any], rows: list[int]) -> None:
    """Put the parts of an object, at positions `rows`, in the place of the first; None in that of the others."""
    items: list[Item] = [objects[row] for row in rows]
    boxes = [item.box for item in items if item.box is not None]
    masks = [item.mask for item in items if item.mask is not None]
    if len(items) == 1 or len(boxes) > 1 or len(masks) > 1:  # several objects that somebody put into a group
        return
    polygons = [polygon for item in items for polygon in item.polygons]
    crowd = any(item.iscrowd for item in items)
    box, mask = next(iter(boxes), None), next(iter(masks), None)
    joined = Item(items[0].name, box, polygons, mask, crowd)
    for row in rows:
        objects[row] = None
    objects[rows[0]] = joined


def _item(a: _Annotation, name: str) -> Item | None:
    iscrowd = a.attributes is not None and bool(a.attributes.is_crowd)
    if a.type == "bbox" and a.bbox is not None and len(a.bbox) == 4:
        x, y, width, height = a.bbox
        return Item(name, (x, y, x + width, y + height), iscrowd=iscrowd)
    if a.type == "mask":
        if a.rle is None or not is_mask(*a.rle.size, a.rle.counts):
            return None
        return Item(name, mask=RunLengths(*a.rle.size, a.rle.counts), iscrowd=iscrowd)
    values = a.bbox if a.type in ("bbox", "rotated_bbox") else a.points
    if values is None:
        return None
    if a.type == "polygon":
        return Item(name, polygons=[values], iscrowd=iscrowd)
    if a.type == "bbox" or len(values) != (5 if a.type == "rotated_bbox" else 4):
        return None
    if a.type == "rotated_bbox":  # middle, size, degrees clockwise
        x, y, width, height, degrees = values
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return Item(name, polygons=[turned_box(box, degrees)], iscrowd=iscrowd)
    x1, y1, x2, y2 = values
    return Item(name, polygons=[ellipse_in(values)], iscrowd=iscrowd) if x2 > x1 and y2 > y1 else None


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: annotations/<split>.json, images/<split>/. Box, polygons and mask of an object share a group."""
    names = placed_names(annotations, folder / "images" / split, images)
    items = []
    for row, (name, (width, height)) in enumerate(zip(names, annotations.sizes.tolist(), strict=True)):
        owned = annotations.objects(row)
        written = [part for position in range(owned.start, owned.stop) for part in _parts(annotations, position)]
        image = {"path": name, "size": [height, width]}
        items.append({"id": Path(name).stem, "annotations": written, "image": image})
    labels = [{"name": name, "parent": "", "attributes": []} for name in annotations.names]
    categories = {"label": {"labels": labels, "label_groups": [], "attributes": []}}
    content = {"dm_format_version": "1.0", "media_type": 2, "infos": {}, "categories": categories, "items": items}
    write_atomically(folder / "annotations" / f"{split}.json", msgspec.json.encode(content))


def _parts(annotations: Annotations, row: int) -> Iterator[dict[str, Any]]:
    common = {
        "id": row + 1,
        "attributes": {"is_crowd": bool(annotations.iscrowd[row])},
        "group": row + 1,
        "label_id": int(annotations.labels[row]),
        "z_order": 0,
    }
    x1, y1, x2, y2 = annotations.boxes[row].tolist()
    yield {"type": "bbox", **common, "bbox": [x1, y1, round(x2 - x1, 10), round(y2 - y1, 10)]}
    segments = annotations.segments
    if segments is None:
        return
    for polygon in segments.polygons(row):
        yield {"type": "polygon", **common, "points": polygon.ravel().tolist()}
    if segments.has_rle[row] and (rle := segments.rle(row, 0, 0)):
        mask = {"counts": rle["counts"].decode("ascii"), "size": rle["size"]}
        yield {"type": "mask", **common, "rle": mask}


FORMAT = Format(
    name="datumaro",
    title="Datumaro",
    looks_for="annotations/train.json and val.json with images/train/ and images/val/; a single .json file",
    find=_find,
    write=_write,
    holds=frozenset({"polygons", "masks", "crowd"}),
)
