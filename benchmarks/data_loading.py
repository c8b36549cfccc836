"""Augmentation speed: detseg's TrainTransform against the same steps of torchvision.transforms.v2.

    python benchmarks/data_loading.py [--size 320] [--seconds 3] [--objects 8]

One thread, decoded images of the training size in memory, as the cache gives them. Both sides flip, zoom,
shift, rotate, change light and colour, blur and add noise with the same probabilities, and clip and drop
boxes. torchvision gets its images padded to the square beforehand, which saves it one step.
detseg's figures always include the warp into the square, about 0.4 ms, so single cheap steps look slow.
"""

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torchvision import tv_tensors
from torchvision.transforms import v2

from detseg.data.augment.mosaic import mixup
from detseg.data.augment.transforms import TrainTransform
from detseg.data.letterbox import EvalTransform
from detseg.data.sample import PADDING, Sample

BILINEAR = v2.InterpolationMode.BILINEAR
OFF = {
    "flip": "none",
    "scale": (1.0, 1.0),
    "aspect": 0.0,
    "rotate": 0.0,
    "light": 0.0,
    "colour": 0.0,
    "blur": 0.0,
    "noise": 0.0,
}


def make_samples(size: int, objects: int, count: int = 32) -> list[Sample]:
    """Smooth random images of common shapes, with boxes."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(count):
        height, width = ((size * 3 // 4, size), (size, size * 2 // 3), (size, size))[i % 3]
        small = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        corner = rng.uniform(0, 0.7, (objects, 2)) * [width, height]
        sides = rng.uniform(0.05, 0.3, (objects, 2)) * [width, height]
        boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
        samples.append(Sample(image, boxes, rng.integers(0, 20, objects), np.zeros(objects, bool)))
    return samples


def to_torchvision(sample: Sample, size: int) -> dict[str, object]:
    """The sample padded to the square, as tv_tensors."""
    square = np.full((size, size, 3), PADDING, np.uint8)
    square[: sample.image.shape[0], : sample.image.shape[1]] = sample.image
    boxes = tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=(size, size))
    image = tv_tensors.Image(torch.from_numpy(square).permute(2, 0, 1).contiguous())
    return {"image": image, "boxes": boxes, "labels": torch.from_numpy(sample.labels)}


def torchvision_steps() -> dict[str, list[v2.Transform]]:
    """torchvision's steps with the strengths and probabilities of TrainTransform's defaults."""
    affine = v2.RandomAffine(5, translate=(0.25, 0.25), scale=(0.5, 1.5), fill=PADDING, interpolation=BILINEAR)
    boxes = [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=2)]
    return {
        "flip": [v2.RandomHorizontalFlip(0.5), *boxes],
        "zoom, shift, rotate": [affine, *boxes],
        "light": [v2.ColorJitter(brightness=0.2, contrast=0.2)],
        "colour": [v2.ColorJitter(saturation=0.4, hue=0.02)],
        "blur": [v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.2))], p=0.05)],
        "noise": [v2.RandomApply([FloatNoise()], p=0.1)],
        "all": [
            v2.RandomHorizontalFlip(0.5),
            affine,
            *boxes,
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.4, hue=0.02),
            v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.2))], p=0.05),
            v2.RandomApply([FloatNoise()], p=0.1),
        ],
    }


class FloatNoise(v2.Transform):
    """v2.GaussianNoise takes float images only, so convert there and back."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = v2.Compose(
            [
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.GaussianNoise(sigma=7 / 255),
                v2.ToDtype({tv_tensors.Image: torch.uint8, "others": None}, scale=True),
            ]
        )

    def forward(self, *inputs: object) -> object:
        return self.steps(*inputs)


def detseg_steps(size: int) -> dict[str, TrainTransform]:
    """TrainTransform with one option on at its default, and with all."""
    return {
        "flip": TrainTransform(size, **{**OFF, "flip": "horizontal"}),
        "zoom, shift, rotate": TrainTransform(size, **{**OFF, "scale": (0.5, 1.5), "rotate": 5.0}),
        "light": TrainTransform(size, **{**OFF, "light": 0.2}),
        "colour": TrainTransform(size, **{**OFF, "colour": 0.4}),
        "blur": TrainTransform(size, **{**OFF, "blur": 0.05}),
        "noise": TrainTransform(size, **{**OFF, "noise": 0.1}),
        "all": TrainTransform(size),
    }


def rate(step: Callable[[int], object], seconds: float) -> float:
    """Calls per second: the best of three runs, so that other work on the machine matters less."""
    best = 0.0
    step(0)
    for _ in range(3):
        count, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds / 3:
            step(count)
            count += 1
        best = max(best, count / spent)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each figure")
    parser.add_argument("--objects", type=int, default=8, help="to an image")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    samples = make_samples(options.size, options.objects)
    padded = [to_torchvision(sample, options.size) for sample in samples]
    rng, n = np.random.default_rng(0), len(samples)
    ours, theirs = detseg_steps(options.size), torchvision_steps()
    table = Table(title=f"images/s, one thread, {options.size} px, {options.objects} objects")
    for column in ("step alone", "detseg", "torchvision v2", "ratio"):
        table.add_column(column, justify="left" if column == "step alone" else "right")
    for name, transform in ours.items():
        other = v2.Compose(theirs[name])
        a = rate(lambda i, t=transform: t(samples[i % n], rng), options.seconds)
        b = rate(lambda i, t=other: t(padded[i % n]), options.seconds)
        table.add_row(name, f"{a:.0f}", f"{b:.0f}", f"{a / b:.1f}")
    full, plain = ours["all"], EvalTransform(options.size)
    alone = {
        "all, mosaic": lambda i: full.mosaic([samples[(i + k) % n] for k in range(4)], rng),
        "all, mixup": lambda i: mixup(full(samples[i % n], rng), full(samples[(i + 1) % n], rng), rng),
        "letterbox of a cached image": lambda i: plain(samples[i % n]),
    }
    for name, step in alone.items():
        table.add_row(name, f"{rate(step, options.seconds):.0f}", "", "")
    Console().print(table)


if __name__ == "__main__":
    main()
