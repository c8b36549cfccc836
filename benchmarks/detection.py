"""Detectors of detseg and torchvision after equal minutes: mAP on the validation images, speed, memory.

    python benchmarks/detection.py [--data FOLDER | --train FILE --val FILE] [--minutes 10] [--masks] [--only NAME …]

detseg trains as `detseg train detector` does, with its defaults. torchvision's detectors stand on the same backbone
with the same ImageNet weights and see the same cached images in a plain loop, see `torchvision_detectors.py`. All are
judged by the same evaluator, each in a process of its own, in turn. Training speed is that of all minutes, detseg's
validations included; prediction that of the validation images, in batches of 8. With --masks those that find instance
masks compete, and the data must have some. Without data it draws 200 images.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torchvision_detectors import BACKBONE, BATCH, PEERS, SIZE, predict_peer, train_peer

from detseg.data.dataset import DetectionDataset
from detseg.flowers.dataset import write_flowers
from detseg.metrics.detection.analysis import analyse
from detseg.metrics.detection.inputs import Detections
from detseg.models import load_model
from detseg.train.config import config_for
from detseg.train.data import read_split
from detseg.train.runner import train
from detseg.train.tasks.detector import predict_dataset

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "yolo": ("yolo", {}),
    "ssd": ("ssd", {}),
    "faster_rcnn": ("faster_rcnn", {}),
    "yolo --masks": ("yolo", {"masks": True}),
    "mask_rcnn": ("mask_rcnn", {}),
}
OF_MASKS = ("yolo --masks", "mask_rcnn", "torchvision Mask R-CNN")
NAMES = (*OURS, *PEERS)


def child(options: argparse.Namespace) -> None:
    """Train one detector and print its figures as JSON."""
    name, masks = options.child, options.child in OF_MASKS
    val = DetectionDataset(read_split(options.val, "val"), SIZE)
    if name in OURS:
        steps, images, seconds, found = run_ours(name, options, val)
    else:
        data = DetectionDataset(read_split(options.train, "train"), SIZE, masks=masks)
        model, steps = train_peer(name, data, options.minutes, options.seed)
        images = len(data)
        predict_peer(model, val)
        started = time.monotonic()
        found = predict_peer(model, val)
        seconds = time.monotonic() - started
    figures = {
        "epochs": steps * BATCH / images,
        "images/s": steps * BATCH / (60 * options.minutes),
        "ms": 1000 * seconds / len(val),
        "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }
    ids = [category.id for category in val.annotations.categories]
    detections = Detections.from_predictions(found, val.annotations.image_ids.tolist(), ids)
    for kind in ("bbox", "segm") if masks else ("bbox",):
        analysis = analyse(val.annotations, detections, kind)
        interval = analysis.intervals.figures["AP"]
        figures |= {f"{kind} mAP": f"{analysis.metrics.map:.3f} ({interval.low:.3f}-{interval.high:.3f})"}
        figures |= {f"{kind} mAP@.50": f"{analysis.metrics.map50:.3f}"}
    print(json.dumps(figures))


def run_ours(name: str, options: argparse.Namespace, val: DetectionDataset) -> tuple[int, int, float, list[Any]]:
    """Steps, training images, seconds of prediction and what is found."""
    kind, settings = OURS[name]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        common = {"train": options.train, "val": options.val, "output": out, "minutes": options.minutes}
        run = train(config_for("detector", kind)(**common, **settings, size=SIZE, seed=options.seed, backbone=BACKBONE))
        with (out / "metrics.csv").open() as file:
            steps = int(float(list(csv.DictReader(file))[-1]["step"]))
        model = load_model(out)[0].to(memory_format=torch.channels_last)
        list(predict_dataset(model, val, range(len(val)), SIZE))
        started = time.monotonic()
        found = list(predict_dataset(model, val, range(len(val)), SIZE))
        return steps, len(run.train), time.monotonic() - started, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--train", type=Path, default=None)
    parser.add_argument("--val", type=Path, default=None)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--only", nargs="+", default=None, choices=NAMES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    names = options.only or [name for name in NAMES if (name in OF_MASKS) == options.masks]
    table = Table(title=f"{BACKBONE} at {SIZE} px, {options.minutes:g} minutes")
    with tempfile.TemporaryDirectory() as folder:
        if options.train is None:
            options.data = options.data or write_flowers(Path(folder) / "drawn", train=200, val=50, seed=0)
            options.train = options.val = options.data
        for name in names:
            words = ["--train", options.train, "--val", options.val, "--minutes", options.minutes]
            words += ["--seed", options.seed, "--child", name]
            command = [sys.executable, __file__, *map(str, words)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stdout.strip().splitlines()[-1])
            if not table.columns:
                for column in ("", *found):
                    table.add_column(column, justify="right" if column else "left", no_wrap=True)
            table.add_row(name, *(v if isinstance(v, str) else f"{v:.1f}" for v in found.values()))
            Console(stderr=True).print(name, found)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
