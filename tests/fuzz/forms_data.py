"""Forms of data: annotation formats, images, packs, detections."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detseg.data import raise_on_problems, read_annotations, validate
from tests.fuzz.harness import Form


def picture(path: Path, width: int = 16, height: int = 12, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)
    Image.fromarray(pixels).save(path, **options)
    return path


def make_coco(folder: Path) -> list[Path]:
    images = [picture(folder / f"images/{name}.png") for name in "ab"]
    content = {
        "images": [{"id": i, "file_name": image.name, "width": 16, "height": 12} for i, image in enumerate(images)],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 7, "bbox": [1, 2, 5, 6], "area": 30, "iscrowd": 0},
            {"id": 4, "image_id": 1, "category_id": 3, "bbox": [1.5, 2, 5, 6], "area": 30.5, "iscrowd": 1},
        ],
        "categories": [{"id": 7, "name": "rose"}, {"id": 3, "name": "daisy", "supercategory": "flower"}],
    }
    file = folder / "train.json"
    file.write_text(json.dumps(content))
    return [file]


def read_objects(folder: Path) -> None:
    data = read_annotations(folder)
    raise_on_problems(validate(data))


FORMS = [Form("coco", make_coco, read_objects)]
