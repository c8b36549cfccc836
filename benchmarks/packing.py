"""Reading an epoch of images: a packed file against a folder of JPEG files and against images in memory.

    python benchmarks/packing.py [--images 1000] [--size 256] [--source 640] [--repeats 2]
                                 [--task classification|detection|segmentation]

Draws JPEG files of --source pixels (and boxes, or masks as PNG files) into a temporary folder and packs them. Then
every way reads two shuffled epochs in a process of its own, one thread: the first epoch after the files were dropped
from the system's memory, as a set larger than the memory is always read, the second with whatever the system has kept.
What is read are the samples that training augments: image and label, boxes or mask. Every image is copied once, as
putting a batch together does.

    folder    read and decode a JPEG file, shrink it to --size; the same with its mask
    packed    the packed file, images in random order, as training takes them
    by chunk  the packed file, chunks in random order (PackedImages.order)
    memory    all in memory (what training does with a folder), filled once; its time is told too

Memory is what the process grew by, from before the first image to its highest.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import h5py  # noqa: F401 - loaded by all ways, so that it counts for none
import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from detseg.data.dataset import ClassificationDataset, DetectionDataset, SegmentationDataset
from detseg.data.formats import read_annotations, read_labels, read_masks
from detseg.data.images import read_image
from detseg.data.letterbox import resize_long_side, resize_mask
from detseg.data.pack.datasets import write_pack

WAYS = ("folder", "packed", "by chunk", "memory")
# task -> its reader, its samples, what lies beside the packed file
TASKS: dict[str, tuple[Callable[..., Any], Callable[..., Any], str]] = {
    "classification": (read_labels, ClassificationDataset, "images"),
    "detection": (read_annotations, DetectionDataset, "boxes.json"),
    "segmentation": (read_masks, SegmentationDataset, "."),
}


def draw_images(root: Path, count: int, side: int) -> None:
    """JPEG files of photo-like smoothness and grain in two class folders, a few boxes in each, a mask of these."""
    rng = np.random.default_rng(0)
    height = side * 3 // 4
    grain = rng.normal(0, 6, (8, height, side, 3)).astype(np.int16)
    images, objects = [], []
    for i in range(count):
        small = rng.integers(0, 256, (15, 20, 3), np.uint8)
        image = cv2.resize(small, (side, height), interpolation=cv2.INTER_CUBIC)
        name = f"{'ab'[i % 2]}/{i:06d}"
        mask = np.zeros((height, side), np.uint8)
        for x, y in rng.integers(0, height // 2, (5, 2)).tolist():
            w, h = rng.integers(height // 20, height // 3, 2).tolist()
            cv2.ellipse(mask, (x + w // 2, y + h // 2), (w // 2, h // 2), 0, 0, 360, 1, -1)
            box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            objects.append(box | {"id": len(objects) + 1, "image_id": i, "category_id": 1})
        images.append({"id": i, "file_name": f"images/{name}.jpg", "width": side, "height": height})
        for place, values in (
            (root / "images" / f"{name}.jpg", np.clip(image + grain[i % 8], 0, 255).astype(np.uint8)),
            (root / "masks" / f"{name}.png", mask),
        ):
            place.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place), values)
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]}
    (root / "boxes.json").write_text(json.dumps(content))
    (root / "classes.txt").write_text("background\nthing\n")
    (root / "images").symlink_to("images")


def drop_from_memory(root: Path) -> None:
    """Ask the system to forget what it keeps of the files."""
    for pattern in ("*.h5", "images/**/*.jpg", "masks/**/*.png"):
        for file in root.glob(pattern):
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def megabytes() -> float:
    """Memory of this process."""
    return psutil.Process().memory_info().rss / 1e6


def decoded(data: Any, size: int) -> Callable[[int], Any]:
    """Reads an image, and its mask if there are masks, from their files."""

    def read(index: int) -> Any:
        image = resize_long_side(read_image(str(data.paths[index])), size)
        if not hasattr(data, "mask"):
            return (image,)
        return image, resize_mask(data.mask(index), (image.shape[1], image.shape[0]))

    return read


def arrays(sample: Any) -> Iterator[NDArray[Any]]:
    """The image and the mask of a sample."""
    parts = sample if isinstance(sample, tuple) else (sample.image, sample.mask)
    return (part for part in parts if isinstance(part, np.ndarray))


def measure(way: str, root: Path, size: int, task: str) -> dict[str, float]:
    """Seconds of two epochs, of filling the cache, and megabytes."""
    cv2.setNumThreads(0)
    rng = np.random.default_rng(0)
    read, samples, name = TASKS[task]
    packed = way in ("packed", "by chunk")
    data = read(root / "set.h5" if packed else root / name)
    before, start = megabytes(), time.perf_counter()
    dataset = None if way == "folder" else samples(data, size)
    filling = time.perf_counter() - start
    source = decoded(data, size) if dataset is None else dataset.__getitem__
    drop_from_memory(root)
    seconds, most = [], megabytes()
    for _ in range(2):
        order = dataset.images.order(rng) if dataset and way == "by chunk" else rng.permutation(len(data))
        spent = 0.0
        for some in np.array_split(order, 10):
            start = time.perf_counter()
            for i in some.tolist():
                for array in arrays(source(i)):
                    array.copy()
            spent += time.perf_counter() - start
            most = max(most, megabytes())
        seconds.append(spent)
    return {"first": seconds[0], "second": seconds[1], "filling": filling, "memory": most - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--source", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=2, help="of every way, in turn; the best counts")
    parser.add_argument("--task", choices=TASKS, default="detection")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.root, options.size, options.task)))
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw_images(root, options.images, options.source)
        read, _, place = TASKS[options.task]
        start = time.perf_counter()
        write_pack(root / "set.h5", {"train": read(root / place)}, options.size)
        packing = time.perf_counter() - start
        found: dict[str, dict[str, float]] = {}
        for way in WAYS * options.repeats:
            command = [sys.executable, __file__, "--way", way, "--root", name, "--size", str(options.size)]
            done = subprocess.run([*command, "--task", options.task], check=True, capture_output=True, text=True)
            now = json.loads(done.stdout)
            found[way] = {figure: min(value, found.get(way, now)[figure]) for figure, value in now.items()}
        files = sum(file.stat().st_size for file in (root / "images").rglob("*.jpg")) / 1e6
        table = Table(
            title=f"{options.task}: {options.images} images of {options.source} px, read at {options.size} px, "
            "one thread",
            caption=f"packing took {packing:.1f} s, filling the memory {found['memory']['filling']:.1f} s\n"
            f"JPEG files {files:.0f} MB, packed file {(root / 'set.h5').stat().st_size / 1e6:.0f} MB",
        )
    for column in ("", "first epoch, images/s", "ratio", "second epoch, images/s", "ratio", "memory, MB"):
        table.add_column(column, justify="right" if column else "left")
    for way, row in found.items():
        cells = []
        for epoch in ("first", "second"):
            cells += [f"{options.images / row[epoch]:.0f}", f"{found['folder'][epoch] / row[epoch]:.1f}"]
        table.add_row(way, *cells, f"{row['memory']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
