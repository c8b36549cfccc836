"""Small sets of images with masks for the tests."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from detseg.data.images import ORIENTATION
from tests.data.annotation_samples import write_picture


def blobs(width: int, height: int, classes: int, seed: int = 0, ignore: bool = True) -> np.ndarray:
    """A label map (H, W) of random rectangles; every class occurs if there is room, and 255 if `ignore`."""
    rng = np.random.default_rng([seed, width, height])
    mask = np.zeros((height, width), np.uint8)
    for label in [*range(1, classes), *([255] if ignore else [])]:
        x, y = int(rng.integers(0, max(1, width - 4))), int(rng.integers(0, max(1, height - 4)))
        mask[y : y + height // 3 + 1, x : x + width // 3 + 1] = label
    return mask


def save_mask(path: Path, mask: np.ndarray) -> Path:
    """A grey PNG (8 or 16 bits) whose values are the labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def write_mask_set(folder: Path, *, train: int = 3, val: int = 2, classes: tuple[str, ...] = ("soil", "daisy")) -> Path:
    """images/, masks/, train.txt, val.txt, classes.txt; images of several sizes."""
    for split, count in (("train", train), ("val", val)):
        names = [f"{split}{i}" for i in range(count)]
        for i, name in enumerate(names):
            width, height = 40 + 8 * i, 32
            write_picture(folder / f"images/{name}.jpg", width, height, seed=len(split) * 100 + i)
            save_mask(folder / f"masks/{name}.png", blobs(width, height, len(classes), i))
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")
    return folder


def write_grey_png(path: Path, width: int, height: int, bits: int, rows: bytes) -> Path:
    """A grey PNG of 1 to 16 bits; `rows` are packed, each behind a byte with its filter, and may end too early."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def write_turned_image(path: Path, stored: tuple[int, int], orientation: int, seed: int = 0) -> Path:
    """A JPEG of `stored` = (width, height) pixels with an EXIF orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return write_picture(path, *stored, seed=seed, exif=exif.tobytes())
