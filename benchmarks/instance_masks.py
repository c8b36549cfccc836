"""What instance masks cost in training: time a sample, and memory.

    python benchmarks/instance_masks.py [--objects 1 10 30 100] [--size 320] [--seconds 3]

Generated images of 480 x 360 pixels with polygons of 40 points, 16 to 80 pixels wide; one thread. The dataset draws an
image's masks at 1.25 times --size and TrainTransform augments it to --size, in turns with the same without masks. Then
the memory that the masks of 10 000 objects take in `Annotations`, as polygons and as run lengths, and the most that one
sample takes by its number of objects.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco
from rich.console import Console
from rich.table import Table

from detseg.data.annotations import Annotations, Category
from detseg.data.augment.transforms import TrainTransform
from detseg.data.dataset import DetectionDataset
from detseg.data.polygons import SegmentsBuilder

WIDTH, HEIGHT, IMAGES = 480, 360, 4


def outline(rng: np.random.Generator) -> np.ndarray:
    """A polygon (40, 2) around a random point."""
    radius = rng.uniform(8, 40)
    centre = rng.uniform(radius, np.array([WIDTH, HEIGHT]) - radius)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    around = np.stack([np.cos(angles), np.sin(angles)], 1)
    return centre + radius * around * rng.uniform(0.6, 1, (40, 1))


def draw_set(folder: Path, objects: int) -> Annotations:
    """Images of noise with so many objects each."""
    rng, builder, boxes, paths = np.random.default_rng(objects), SegmentsBuilder(), [], []
    for index in range(IMAGES):
        paths.append(str(folder / f"{objects}-{index}.png"))
        cv2.imwrite(paths[-1], rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
        for _ in range(objects):
            points = outline(rng)
            builder.add_polygons([points.ravel()])
            boxes.append([*points.min(0), *points.max(0)])
    corners = np.array(boxes)
    count = len(corners)
    return Annotations(
        categories=(Category(1, "object"),),
        image_ids=np.arange(IMAGES),
        paths=np.array(paths),
        sizes=np.array([(WIDTH, HEIGHT)] * IMAGES, np.int32),
        image_index=np.repeat(np.arange(IMAGES, dtype=np.int32), objects),
        boxes=corners,
        labels=np.zeros(count, np.int32),
        iscrowd=np.zeros(count, bool),
        ids=np.arange(count),
        areas=(corners[:, 2:] - corners[:, :2]).prod(1),
        segments=builder.build(),
        source="generated",
    )


def milliseconds(data: Annotations, size: int, seconds: float) -> tuple[float, float]:
    """Median CPU time of a sample without and with masks."""
    sets = [DetectionDataset(data, round(size * 1.25), masks=masks) for masks in (False, True)]
    transform, taken, end, turn = TrainTransform(size), ([], []), 0.0, 0
    while turn < 3 or time.monotonic() < end:
        if turn == 2:  # what is compiled is compiled
            taken, end = ([], []), time.monotonic() + seconds
        for dataset, times in zip(sets, taken, strict=True):
            started = time.process_time()
            transform(dataset[turn % IMAGES], np.random.default_rng(turn))
            times.append(1e3 * (time.process_time() - started))
        turn += 1
    plain, masked = (float(np.median(times)) for times in taken)
    return plain, masked


def megabytes(objects: int) -> tuple[float, float]:
    """Of the masks of so many objects: as polygons, as run lengths."""
    rng, polygons, runs = np.random.default_rng(0), SegmentsBuilder(), SegmentsBuilder()
    for _ in range(objects):
        flat = outline(rng).ravel()
        polygons.add_polygons([flat])
        runs.add_rle(HEIGHT, WIDTH, coco.frPyObjects([flat.tolist()], HEIGHT, WIDTH)[0]["counts"])
    built = [builder.build() for builder in (polygons, runs)]
    first, second = (sum(array.nbytes for array in segments.arrays) / 1e6 for segments in built if segments is not None)
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="*", default=[1, 10, 30, 100])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    table = Table("objects an image", "CPU ms without masks", "with masks", "times", "MB of masks a sample")
    with tempfile.TemporaryDirectory() as folder:
        for objects in options.objects:
            plain, masked = milliseconds(draw_set(Path(folder), objects), options.size, options.seconds)
            large = objects * options.size**2 / 1e6
            table.add_row(str(objects), f"{plain:.2f}", f"{masked:.2f}", f"{masked / plain:.2f}", f"{large:.1f}")
    console = Console()
    console.print(table)
    polygons, runs = megabytes(10_000)
    console.print(f"masks of 10 000 objects in Annotations: polygons {polygons:.1f} MB, run lengths {runs:.1f} MB")


if __name__ == "__main__":
    main()
