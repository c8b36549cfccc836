"""Labelbox exports: NDJSON, one data row a line, and the JSON lists of older projects; reader, and writer of NDJSON.

Format: https://docs.labelbox.com/reference/export-image-annotations
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import numpy as np

from detseg.box_formats import convert_boxes
from detseg.data.annotations import Annotations
from detseg.data.formats.format import Format
from detseg.data.formats.json_files import (
    LeftOut,
    class_name,
    file_sources,
    flat,
    given_size,
    json_lines,
    json_list,
    of_form,
    placed_names,
    read_objects,
    single_polygons,
    write_classes,
)
from detseg.data.formats.layout import beginning
from detseg.data.formats.locate import IMAGE_EXTENSIONS, PlaceImages
from detseg.data.formats.records import Item, Record
from detseg.files import write_atomically

MASKS = ("mask", "composite_mask", "instanceURI")
WITHOUT_AREA = ("point", "line")


# ------------------------------------------------------------------ reading


def is_labelbox(file: Path) -> bool:
    """Whether a file holds data rows of Labelbox, by its beginning."""
    text = beginning(file)
    newer = re.search(rb'"data_row"\s*:\s*\{', text) and re.search(rb'"(projects|media_attributes|external_id)"', text)
    return bool(newer) or (b'"External ID"' in text and b'"Label"' in text)


def _records(files: Sequence[Path], left_out: LeftOut) -> Iterator[Record]:
    for file in files:
        is_list = beginning(file).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
        latest = _latest(file) if is_list else {}
        for number, row in enumerate(json_list(file) if is_list else json_lines(file), 1):
            with of_form(f"{file}: data row {number}", FORMAT.title):
                if "data_row" in row:
                    record = _record(row, file, left_out)
                elif latest.get(_old_key(row), number) == number:
                    record = _old_record(row, file, left_out)
                else:
                    record = None
                    left_out.add("earlier labels of an image, left out for its last", _old_key(row))
            if record is not None:
                yield record


def _record(row: Any, file: Path, left_out: LeftOut) -> Record | None:
    data, media = row["data_row"], row.get("media_attributes") or {}
    name = _image(data.get("external_id"), data.get("row_data"), data.get("global_key"), data.get("id"))
    labels = [label for project in (row.get("projects") or {}).values() for label in project.get("labels") or []]
    if not labels:
        left_out.add("data rows without a label, left out", name)
        return None
    if len(labels) > 1:
        left_out.add("images with several labels, of which a benchmark's reference counts, else the last", name)
    annotations = _chosen(labels)["annotations"]
    if "objects" not in annotations and ("frames" in annotations or "segments" in annotations):
        left_out.add("data rows of videos, left out", name)
        return None
    items = read_objects(annotations.get("objects") or [], partial(_item, left_out=left_out))
    return Record(name, items, given_size(media.get("width"), media.get("height")), str(file))


def _chosen(labels: Sequence[Any]) -> Any:
    """The label that counts of several."""

    def rank(label: Any) -> tuple[bool, str]:
        details = label.get("label_details") or {}
        return details.get("is_benchmark_reference") is True, str(details.get("created_at") or "")

    return max(reversed(labels), key=rank) if any(rank(label)[0] or rank(label)[1] for label in labels) else labels[-1]


def _old_key(row: Any) -> str:
    return str(row.get("DataRow ID") or row.get("External ID"))


def _latest(file: Path) -> dict[str, int]:
    """Of the older form, which has a row for each label: image -> the number of its last row."""
    latest: dict[str, tuple[str, int]] = {}
    for number, row in enumerate(json_list(file), 1):
        if isinstance(row, Mapping) and "data_row" not in row and row.get("Label"):
            rank = str(row.get("Created At") or ""), number
            latest[_old_key(row)] = max(rank, latest.get(_old_key(row), rank))
    return {key: number for key, (_, number) in latest.items()}


def _old_record(row: Any, file: Path, left_out: LeftOut) -> Record | None:
    name = _image(row.get("External ID"), row.get("Labeled Data"))
    label = row.get("Label")
    if row.get("Skipped") or not label or label == "Skip":
        left_out.add("data rows skipped or without a label, left out", name)
        return None
    items = read_objects(label.get("objects") or [], partial(_item, left_out=left_out))
    return Record(name, items, file=str(file))


def _image(*names: Any) -> str:
    """The first of the names of an image that ends like one; else the first there is."""
    texts = [name for name in names if isinstance(name, str) and name.strip()]
    paths = [unquote(urlsplit(text).path) if "://" in text else text for text in texts]
    named = (path for path in paths if path.lower().endswith(IMAGE_EXTENSIONS))
    return next(named, paths[0] if paths else "")


def _item(entry: Any, left_out: LeftOut) -> Item | None:
    box, polygon = entry.get("bounding_box", entry.get("bbox")), entry.get("polygon")
    if box is None and polygon is None:
        if any(key in entry for key in MASKS):
            left_out.add("masks behind web addresses, left out; export boxes or polygons", str(entry.get("name", "")))
            return None
        kind = next((key for key in WITHOUT_AREA if key in entry), None) or entry.get("annotation_kind") or "unknown"
        left_out.add(f"objects of the kind {kind}, without an area, left out")
        return None
    name = class_name(entry.get("name") or entry.get("title") or entry.get("value"))
    if polygon is not None:
        return Item(name, polygons=[flat(polygon)])
    left, top, width, height = (float(box[key]) for key in ("left", "top", "width", "height"))
    return Item(name, (left, top, left + width, top + height))


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: <split>.ndjson, images/<split>/, and classes.txt."""
    write_classes(annotations, folder)
    names = placed_names(annotations, folder, f"images/{split}", images)
    polygons = single_polygons(annotations, folder, FORMAT.title)
    boxes = np.round(convert_boxes(annotations.boxes, "xyxy", "xywh"), 10).tolist()
    labels = annotations.labels.tolist()
    lines = []
    for row, name in enumerate(names):
        owned = annotations.objects(row)
        objects = [
            _object(annotations.names[labels[position]], boxes[position], polygons.get(position))
            for position in range(owned.start, owned.stop)
        ]
        width, height = annotations.sizes[row].tolist()
        objects_of = {"objects": objects, "classifications": []}
        label = {"label_kind": "Default", "version": "1.0.0", "annotations": objects_of}
        content = {
            "data_row": {"id": str(annotations.image_ids[row]), "external_id": name},
            "media_attributes": {"height": height, "width": width, "asset_type": "image"},
            "projects": {"detseg": {"name": "detseg", "labels": [label]}},
        }
        lines.append(msgspec.json.encode(content))
    write_atomically(folder / f"{split}.ndjson", b"".join(line + b"\n" for line in lines))


def _object(name: str, box: Sequence[float], polygon: Sequence[Sequence[float]] | None) -> dict[str, Any]:
    common = {"name": name, "value": name, "classifications": []}
    if polygon is not None:
        return common | {"annotation_kind": "ImagePolygon", "polygon": [{"x": x, "y": y} for x, y in polygon]}
    left, top, width, height = box
    sides = {"top": top, "left": left, "height": height, "width": width}
    return common | {"annotation_kind": "ImageBoundingBox", "bounding_box": sides}


FORMAT = Format(
    name="labelbox",
    title="Labelbox",
    looks_for='an .ndjson or .json export with "data_row" in each line: train.ndjson and val.ndjson',
    find=partial(file_sources, suffixes=(".ndjson", ".jsonl", ".json"), is_ours=is_labelbox, records=_records),
    write=_write,
    holds=frozenset({"polygons"}),
)
