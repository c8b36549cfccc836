"""A small set with masks that is quick to draw and easy to learn: bright rectangles and discs on noise."""

from pathlib import Path

import cv2
import numpy as np

from detseg.data import write_index_png

COLOURS = {"box": (40, 60, 230), "disc": (60, 200, 40)}
NAMES = ("background", *COLOURS)
VALUES = (0, 4, 9)
"""Of the classes in the mask files: ids of the set's own, which are not labels."""


def write_small_masks(folder: Path, *, train=8, val=5, width=96, height=72) -> Path:
    """A folder with images/, masks/, classes.txt, train.txt and val.txt. Some pixels are ignored, and one training
    image has nothing in it."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "classes.txt").write_text("".join(f"{v} {n}\n" for v, n in zip(VALUES, NAMES, strict=True)))
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            pixels, labels = draw((index, split == "val"), width, height, empty=split == "train" and index == 1)
            values = np.array([*VALUES, *[0] * 252, 255], np.uint8)[labels]
            cv2.imwrite(str(folder / "images" / f"{split}{index}.png"), pixels[..., ::-1])
            write_index_png(folder / "masks" / f"{split}{index}.png", values)
        (folder / f"{split}.txt").write_text("".join(f"{split}{index}\n" for index in range(count)))
    return folder


def draw(seed, width, height, *, empty=False):
    """An image (H, W, 3) RGB with a rectangle and a disc, and its labels (H, W), 255 in the lowest two rows."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 120, (height, width, 3), dtype=np.uint8)
    labels = np.zeros((height, width), np.uint8)
    if not empty:
        w, h = (int(v) for v in rng.integers(height // 4, height // 2, 2))
        x, y = int(rng.integers(0, width // 2 - 4)), int(rng.integers(0, height - h))
        labels[y : y + h, x : x + min(w, width // 2 - x)] = 1
        radius = int(rng.integers(height // 8, height // 5))
        centre = int(rng.integers(width // 2 + radius, width - radius)), int(rng.integers(radius, height - radius))
        cv2.circle(labels, centre, radius, 2, -1)
    for label, colour in enumerate(COLOURS.values(), start=1):
        pixels[labels == label] = colour
    labels[-2:] = 255
    return pixels, labels
