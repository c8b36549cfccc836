"""COCO JSON: the writer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from detseg.data.annotations import Annotations
from detseg.data.formats.locate import require_writable
from detseg.files import write_atomically


def write_coco(annotations: Annotations, path: str | Path) -> None:
    """Write a COCO JSON file: boxes, polygons, masks, crowd, ids and areas, in one step.

    Images stay where they are; their names are written relative to the JSON file when they lie near it.

    Raises:
        AnnotationError: a box is not finite or an object has no category.
    """
    path = Path(path)
    require_writable(annotations, path)
    here = path.resolve().parent
    sizes = annotations.sizes.tolist()
    images = [
        {"id": number, "file_name": _relative(name, here), "width": size[0], "height": size[1]}
        for number, name, size in zip(annotations.image_ids.tolist(), annotations.paths.tolist(), sizes, strict=True)
    ]
    content = {
        "images": images,
        "annotations": _written_objects(annotations),
        "categories": [{"id": c.id, "name": c.name} for c in annotations.categories],
    }
    write_atomically(path, msgspec.json.encode(content))


def _relative(name: str, here: Path) -> str:
    """Relative to the JSON file's folder for images under the folder above it, absolute otherwise."""
    full = os.path.abspath(name)  # noqa: PTH100 - keeps links as they are
    if here.parent != here and full.startswith(f"{here.parent}{os.sep}"):
        return Path(os.path.relpath(full, here)).as_posix()
    return full


def _written_objects(annotations: Annotations) -> list[dict[str, Any]]:
    corners = annotations.boxes
    # x2 - x1 leaves dust like 113.00000000000001; ten digits are far finer than any annotation.
    boxes = np.round(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1), 10)
    image_ids = annotations.image_ids[annotations.image_index]
    category_ids = np.array([c.id for c in annotations.categories], np.int64)[annotations.labels]
    rows = zip(
        annotations.ids.tolist(),
        image_ids.tolist(),
        category_ids.tolist(),
        boxes.tolist(),
        annotations.areas.tolist(),
        annotations.iscrowd.tolist(),
        strict=True,
    )
    written: list[dict[str, Any]] = []
    for row, (number, image_id, category_id, box, area, crowd) in enumerate(rows):
        item = {
            "id": number,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
        }
        outline = _written_outline(annotations, row)
        if outline is not None:
            item["segmentation"] = outline
        written.append(item)
    return written


def _written_outline(annotations: Annotations, row: int) -> Any:
    segments = annotations.segments
    if segments is None:
        return None
    polygons = segments.polygons(row)
    if polygons:
        return [polygon.ravel().tolist() for polygon in polygons]
    rle = segments.rle(row, 0, 0)
    return rle and {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
