"""Detectors of detseg and torchvision after equal minutes: mAP on the validation images.

    python benchmarks/detection.py [--data FOLDER] [--minutes 10] [--only NAME …]

detseg trains as `detseg train detector` does. torchvision's SSD with the SSDlite head stands on the same
EfficientNet-Lite0 with the same ImageNet weights and sees the same cached images at 320 px, mirrored at random, in a
plain loop: float32 in channels_last, batches of 8, AdamW with a cosine. Both are judged by the same evaluator, each in
a process of its own, in turn. Without --data it draws 200 images.
"""

import argparse
import csv
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSD, DefaultBoxGenerator
from torchvision.models.detection.ssdlite import SSDLiteHead

from detseg.backbones import create_backbone
from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_dataset
from detseg.data.letterbox import EvalTransform, Letterbox
from detseg.flowers.dataset import write_flowers
from detseg.metrics import Detections, evaluate_detections
from detseg.train.config import TrainDetector
from detseg.train.memory import keep_freed_memory
from detseg.train.runner import train

SIZE, BATCH, BACKBONE = 320, 8, "tf_efficientnet_lite0"
RATE, WARM_UP = 5e-4, 50
NAMES = ("detseg", "torchvision SSD-Lite")


class Body(nn.Module):
    """The backbone's maps of stride 16 and 32, and three coarser ones."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = create_backbone(BACKBONE, pretrained=True, strides=(16, 32))
        channels = [self.backbone.channels[-1], 256, 256, 128]
        self.coarser = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b // 2, 1), nn.ReLU6(), nn.Conv2d(b // 2, b, 3, 2, 1), nn.ReLU6())
            for a, b in itertools.pairwise(channels)
        )
        self.channels = [*self.backbone.channels, *channels[1:]]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = list(self.backbone(x))
        for layer in self.coarser:
            maps.append(layer(maps[-1]))
        return {str(i): found for i, found in enumerate(maps)}


def ssd_lite(classes: int) -> SSD:
    """The peer; label 0 is its background."""
    body = Body()
    anchors = DefaultBoxGenerator([[2, 3]] * len(body.channels), min_ratio=0.2, max_ratio=0.95)
    head = SSDLiteHead(body.channels, anchors.num_anchors_per_location(), classes + 1, nn.BatchNorm2d)
    means = {"image_mean": body.backbone.mean, "image_std": body.backbone.std}
    return SSD(body, anchors, (SIZE, SIZE), classes + 1, head=head, **means).to(memory_format=torch.channels_last)


def example(data: DetectionDataset, index: int, mirrored: bool):
    """An image (3, H, W) in 0..1 and its objects, as torchvision takes them."""
    sample = EvalTransform(SIZE)(data[index])[0]
    kept = ~sample.iscrowd & ((sample.boxes[:, 2:] - sample.boxes[:, :2]).min(1) > 1)  # torchvision takes no empty ones
    image, boxes = sample.image, sample.boxes[kept].copy()
    if mirrored:
        image, boxes[:, [0, 2]] = np.ascontiguousarray(image[:, ::-1]), SIZE - boxes[:, [2, 0]]
    target = {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(sample.labels[kept] + 1)}
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255, target


def train_peer(train: DetectionDataset, val: DetectionDataset, minutes: float, seed: int) -> dict[str, float]:
    keep_freed_memory()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = ssd_lite(len(train.annotations.categories)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-4)
    started, steps, order = time.monotonic(), 0, []
    while (fraction := (time.monotonic() - started) / (60 * minutes)) < 1:
        if len(order) < BATCH:
            order = rng.permutation(len(train)).tolist()
        batch = [example(train, order.pop(), rng.random() < 0.5) for _ in range(BATCH)]
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (steps + 1) / WARM_UP) * (0.5 * (1 + math.cos(math.pi * fraction)) + 1e-3)
        loss = torch.stack(list(model([x for x, _ in batch], [t for _, t in batch]).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        steps += 1
    found = [predict_peer(model.eval(), val, index) for index in range(len(val))]
    ids = [category.id for category in val.annotations.categories]
    detections = Detections.from_predictions(found, val.annotations.image_ids.tolist(), ids)
    metrics = evaluate_detections(val.annotations, detections)
    return {"map": metrics.map, "map50": metrics.map50, "epochs": steps * BATCH / len(train)}


@torch.inference_mode()
def predict_peer(model: SSD, data: DetectionDataset, index: int) -> dict[str, np.ndarray]:
    """Detections in an image, in its own pixels."""
    (found,) = model([example(data, index, mirrored=False)[0]])
    width, height = data.annotations.sizes[index].tolist()
    boxes = Letterbox.fit(width, height, SIZE).to_original(found["boxes"].numpy(), (width, height))
    return {"boxes": boxes, "scores": found["scores"].numpy(), "labels": found["labels"].numpy() - 1}


def train_ours(data: Path, minutes: float, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "run"
        run = train(TrainDetector(data=data, output=out, minutes=minutes, size=SIZE, seed=seed))
        with (out / "metrics.csv").open() as file:
            epochs = float(list(csv.DictReader(file))[-1]["epoch"])
        return {"map": run.metrics.map, "map50": run.metrics.map50, "epochs": epochs}


def child(options: argparse.Namespace) -> None:
    """Train one detector and print its figures as JSON."""
    if options.child == "detseg":
        figures = train_ours(options.data, options.minutes, options.seed)
    else:
        train, val = (DetectionDataset(read_dataset(options.data)[split], SIZE) for split in ("train", "val"))
        figures = train_peer(train, val, options.minutes, options.seed)
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    table = Table(title=f"{BACKBONE} at {SIZE} px, {options.minutes:g} minutes")
    for column in ("", "epochs", "mAP@[.5:.95]", "mAP@.50"):
        table.add_column(column, justify="right" if column else "left")
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or write_flowers(Path(folder) / "drawn", train=200, val=50, seed=0)
        for name in options.only:
            words = ["--data", data, "--minutes", options.minutes, "--seed", options.seed, "--child", name]
            command = [sys.executable, __file__, *map(str, words)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stdout.strip().splitlines()[-1])
            table.add_row(name, f"{found['epochs']:.1f}", f"{found['map']:.3f}", f"{found['map50']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
