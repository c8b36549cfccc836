"""CreateML JSON: a list of images with boxes as centre and size in pixels; reader and writer.

Apple's form, as LabelImg and Roboflow write it too; older files have "imagefilename" and "annotation".
Format: https://developer.apple.com/documentation/createml/building-an-object-detector-data-source
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detseg.box_formats import convert_boxes
from detseg.data.annotations import Annotations
from detseg.data.formats.format import Format
from detseg.data.formats.json_files import (
    LeftOut,
    class_name,
    file_sources,
    json_list,
    of_form,
    placed_names,
    read_objects,
    write_classes,
    write_json,
)
from detseg.data.formats.layout import beginning
from detseg.data.formats.locate import PlaceImages
from detseg.data.formats.records import Item, Record

IMAGE_KEYS = ("image", "imagefilename", "imageFilename")


def is_createml(file: Path) -> bool:
    """Whether a JSON file is a list of images with CreateML's annotations, by its beginning."""
    text = beginning(file)
    drawn = b'"coordinates"' in text or not re.search(rb'"annotations?"\s*:\s*\[\s*[^\]\s]', text)
    return (
        text.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
        and bool(re.search(rb'"image(filename)?"\s*:\s*"', text, re.IGNORECASE))
        and bool(re.search(rb'"annotations?"\s*:\s*\[', text) and drawn)
        and not re.search(rb'"data"\s*:\s*\{|"result"\s*:\s*\[|"annotation_id"', text)  # Label Studio
    )


def _records(files: Sequence[Path], left_out: LeftOut) -> Iterator[Record]:
    for file in files:
        for number, entry in enumerate(json_list(file), 1):
            with of_form(f"{file}: image {number}", FORMAT.title):
                name = next((entry[key] for key in IMAGE_KEYS if key in entry), None) or entry["image"]
                objects = entry.get("annotations", entry.get("annotation")) or []
                yield Record(str(name), read_objects(objects, _item, "annotation"), file=str(file))


def _item(entry: Any) -> Item:
    place = entry["coordinates"]
    x, y, width, height = (float(place[key]) for key in ("x", "y", "width", "height"))
    return Item(class_name(entry.get("label")), (x - width / 2, y - height / 2, x + width / 2, y + height / 2))


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: <split>/_annotations.createml.json with the images beside it, and classes.txt."""
    write_classes(annotations, folder)
    names = placed_names(annotations, folder / split, "", images)
    boxes = np.round(convert_boxes(annotations.boxes, "xyxy", "cxcywh"), 10).tolist()
    labels = annotations.labels.tolist()
    content = []
    for row, name in enumerate(names):
        owned = annotations.objects(row)
        objects = [
            {
                "label": annotations.names[label],
                "coordinates": dict(zip(("x", "y", "width", "height"), box, strict=True)),
            }
            for label, box in zip(labels[owned], boxes[owned], strict=True)
        ]
        content.append({"image": name, "annotations": objects})
    write_json(folder / split / "_annotations.createml.json", content)


FORMAT = Format(
    name="createml",
    title="CreateML",
    looks_for="a .json list of images: train/_annotations.createml.json and valid/; train.json and val.json",
    find=partial(file_sources, suffixes=(".json",), is_ours=is_createml, records=_records),
    write=_write,
)
