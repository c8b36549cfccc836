"""Small datasets for the annotation tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detseg.data.annotations import Annotations, Category

CATEGORIES = [{"id": 7, "name": "rose"}, {"id": 0, "name": "daisy"}, {"id": 90, "name": "water lily"}]


def write_picture(path: Path, width: int = 64, height: int = 48, seed: int = 0, **options: Any) -> Path:
    """An image of coarse random blocks, so that JPEG keeps its colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    pixels = np.kron(blocks, np.ones((8, 8, 1), np.uint8))[:height, :width]
    Image.fromarray(pixels).save(path, **options)
    return path


def coco_content() -> dict[str, Any]:
    """Four images (one without objects), ids from 0, category ids with holes, all kinds of outline."""
    return {
        "images": [
            {"id": 5, "file_name": "b.jpg", "width": 64, "height": 48},
            {"id": 0, "file_name": "a.jpg", "width": 64, "height": 48},
            {"id": 9, "file_name": "empty.jpg", "width": 32, "height": 40},
            {"id": 3, "file_name": "c.jpg", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 0, "bbox": [1.5, 2.25, 20, 10], "area": 150.5, "iscrowd": 0},
            {
                "id": 4,
                "image_id": 5,
                "category_id": 90,
                "bbox": [10, 5, 20, 30],
                "area": 300.0,
                "iscrowd": 0,
                "segmentation": [[10, 5, 30, 5, 30, 35], [10, 20, 15, 20, 15, 35, 10, 35]],
            },
            {
                "id": 2,
                "image_id": 0,
                "category_id": 7,
                "bbox": [0, 0, 10, 20],
                "area": 200,
                "iscrowd": 1,
                "segmentation": {"size": [48, 64], "counts": [0, 20] + [28, 20] * 9 + [28 + 54 * 48]},
            },
            {"id": 11, "image_id": 3, "category_id": 7, "bbox": [0.1, 0.2, 39.9, 29.8], "iscrowd": 0},
        ],
        "categories": CATEGORIES,
    }


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_coco_dataset(folder: Path, name: str = "train.json") -> Path:
    """`coco_content` with its images in images/; returns the JSON file."""
    content = coco_content()
    for seed, image in enumerate(content["images"]):
        write_picture(folder / "images" / image["file_name"], image["width"], image["height"], seed)
    return write_json(folder / name, content)


def make(
    boxes: Any = (),
    labels: Any = None,
    image_index: Any = None,
    sizes: Any = ((64, 48),),
    paths: Any = None,
    **fields: Any,
) -> Annotations:
    """`Annotations` from short lists; one category name per label."""
    corners = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    count = len(corners)
    names = ("rose", "daisy", "water lily")
    values: dict[str, Any] = {
        "categories": tuple(Category(number, name) for number, name in enumerate(names, 1)),
        "image_ids": np.arange(1, len(sizes) + 1),
        "paths": np.array([f"{i}.jpg" for i in range(len(sizes))] if paths is None else paths, dtype=np.str_),
        "sizes": np.array(sizes, dtype=np.int32).reshape(-1, 2),
        "image_index": np.array([0] * count if image_index is None else image_index, dtype=np.int32),
        "boxes": corners,
        "labels": np.array([0] * count if labels is None else labels, dtype=np.int32),
        "iscrowd": np.zeros(count, bool),
        "ids": np.arange(1, count + 1),
        "areas": (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]),
        "source": "sample.json",
    }
    return Annotations(**(values | fields))


def by_image(annotations: Annotations) -> dict[str, list[tuple[str, bool, list[float]]]]:
    """File name -> its objects as (category name, crowd, box), sorted: what every format keeps."""
    found = {}
    for image, path in enumerate(annotations.paths.tolist()):
        owned = annotations.objects(image)
        found[Path(path).name] = sorted(
            (annotations.names[label], bool(crowd), np.round(box, 6).tolist())
            for label, crowd, box in zip(
                annotations.labels[owned], annotations.iscrowd[owned], annotations.boxes[owned], strict=True
            )
        )
    return found
