"""A small annotated set that is quick to draw and easy to learn: bright rectangles on noise."""

import json
from pathlib import Path

import cv2
import numpy as np

COLOURS = {"square": (40, 60, 230), "bar": (60, 200, 40)}
IDS = {"square": 7, "bar": 3}


def write_small_set(folder: Path, *, train=6, val=5, width=96, height=72, prefix="") -> Path:
    """A COCO folder. The last validation image has nothing in it, the first training image a crowd."""
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        for index in range(count):
            rng = np.random.default_rng((index, split == "val"))
            name = f"{prefix}{split}{index}.png"
            pixels = rng.integers(90, 120, (height, width, 3), dtype=np.uint8)
            boxes = [] if split == "val" and index == count - 1 else draw(pixels, rng)
            cv2.imwrite(str(folder / "images" / name), pixels)
            images.append({"id": 100 - index, "file_name": name, "width": width, "height": height})
            for kind, box in boxes:
                entry = {"bbox": box, "area": box[2] * box[3], "category_id": IDS[kind], "image_id": 100 - index}
                crowd = int(split == "train" and index == 0 and kind == "bar")
                annotations.append({"id": len(annotations), "iscrowd": crowd, **entry})
        categories = [{"id": number, "name": name} for name, number in IDS.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def draw(pixels, rng):
    """Draw one object of each kind, the bar in the lower half; returns (kind, COCO box)."""
    height, width = pixels.shape[:2]
    side = int(rng.integers(height // 4, height // 2 - 4))
    boxes = [("square", side, side, 0), ("bar", width // 2, height // 6, height // 2)]
    found = []
    for kind, w, h, top in boxes:
        x, y = int(rng.integers(0, width - w)), top + int(rng.integers(0, height // 2 - h))
        pixels[y : y + h, x : x + w] = COLOURS[kind]
        found.append((kind, [x, y, w, h]))
    return found
