"""Segmentation networks of detseg and its peers: quality after equal minutes, training speed, inference speed.

    python benchmarks/segmentation.py [--data FOLDER] [--masks masks] [--minutes 8] [--only NAME …]
                                      [--peers-python /path/to/python]

All stand on EfficientNet-Lite0 with the same ImageNet weights, see the same images through the same augmentation
and are judged by the same evaluator, at 256 px and batches of 8. detseg's train as `detseg train segmenter` does, the
peers by a plain loop with AdamW at 1e-3 and a cosine. Without --data it draws 200 images. segmentation_models.pytorch
is no dependency of detseg: install it beside detseg into an environment of its own and name that environment's Python.

    python benchmarks/segmentation.py --inference     # the speed of prediction alone
"""

import argparse
import contextlib
import importlib.util
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from detseg.backbones import create_backbone
from detseg.data.dataset import SegmentationDataset, collate_masks
from detseg.data.formats import read_mask_dataset
from detseg.flowers.dataset import write_flowers
from detseg.metrics import bootstrap_segmentation
from detseg.models import build_model
from detseg.train.config import TrainSegmenter
from detseg.train.memory import keep_freed_memory
from detseg.train.runner import train
from detseg.train.tasks.segmenter import AUGMENTATION, CACHE_ZOOM, SegmenterTask

SIZE, BATCH, BACKBONE = 256, 8, "tf_efficientnet_lite0"
OURS = {
    "FCN-32s": {"strides": (32,)},
    "FCN-16s": {"strides": (16, 32)},
    "FCN-8s": {},
    "pyramid": {"decoder": "pyramid"},
}
PEERS = ("Unet", "FPN", "DeepLabV3Plus", "torchvision FCN")


class Peer(nn.Module):
    """A peer's network behind detseg's interface: uint8 images in, logits of their size out."""

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        if name == "torchvision FCN":
            from torchvision.models.segmentation.fcn import FCNHead

            self.backbone = create_backbone(BACKBONE, pretrained=True, strides=(32,))
            self.head = FCNHead(self.backbone.channels[0], classes)
            self.net = lambda x: F.interpolate(self.head(self.backbone(x)[0]), x.shape[-2:], mode="bilinear")
        else:
            import segmentation_models_pytorch as smp

            self.net = getattr(smp, name)(f"tu-{BACKBONE}", encoder_weights=None, classes=classes)
            weights = create_backbone(BACKBONE, pretrained=True, strides=(2, 4, 8, 16, 32)).net.state_dict()
            own = self.net.encoder.model.state_dict()
            assert own.keys() <= weights.keys(), "the encoder has other layers than timm's network"
            self.net.encoder.model.load_state_dict({name: weights[name] for name in own})

    def forward(self, images):
        return self.net(images.float() / 127.5 - 1).float()


def train_peer(name: str, train, val, minutes: float, seed: int, bf16: bool):
    """Metrics and the training's images a second."""
    keep_freed_memory()
    torch.manual_seed(seed)
    random.seed(seed)
    rng = np.random.default_rng(seed)
    model = Peer(name, len(train.annotations.categories)).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    transform = AUGMENTATION(SIZE)
    started, steps, rates, order = time.monotonic(), 0, [], []
    while (fraction := (time.monotonic() - started) / (60 * minutes)) < 1:
        begun = time.monotonic()
        if len(order) < BATCH:
            order = rng.permutation(len(train)).tolist()
        images, masks = collate_masks([transform(train[order.pop()], rng) for _ in range(BATCH)])
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (steps + 1) / 50) * (0.5 * (1 + math.cos(math.pi * fraction)) + 1e-3)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, masks.long(), ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        rates.append(BATCH / (time.monotonic() - begun))
    metric, _ = SegmenterTask(TrainSegmenter(size=SIZE), Console(quiet=True)).evaluate(model, val, range(len(val)))
    return metric.compute(), statistics.median(rates)


def train_ours(name: str, options, folder: Path, minutes: float, seed: int, precision: str, out: Path):
    """Metrics and the training's images a second, from its log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainSegmenter(
        data=folder, masks=options, output=out, minutes=minutes, size=SIZE, batch_size=BATCH, seed=seed,
        precision=precision, **OURS[name],
    )  # fmt: skip
    run = train(config)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    rates = [event.value for event in events.Scalars("train/images_per_second")]
    return run.metrics, statistics.median(rates[-max(1, len(rates) // 10) :])  # at full size, as the peers' steps


def child(options) -> None:
    """Train one network and print its figures as JSON."""
    splits = read_mask_dataset(options.data, masks=options.masks)
    if options.child in OURS:
        with tempfile.TemporaryDirectory() as name:
            out = Path(name) / "run"
            metrics, rate = train_ours(
                options.child, options.masks, options.data, options.minutes, options.seed, options.precision, out
            )
    else:
        train = SegmentationDataset(splits["train"], round(SIZE * CACHE_ZOOM))
        val = SegmentationDataset(splits["val"], SIZE)
        bf16 = options.precision == "bf16"
        metrics, rate = train_peer(options.child, train, val, options.minutes, options.seed, bf16)
    intervals = bootstrap_segmentation(metrics).figures
    print(json.dumps({name: astuple(intervals[name]) for name in ("miou", "boundary_iou")} | {"rate": rate}))


def inference(names, rounds: int = 7) -> dict[str, float]:
    """Images a second of each network in evaluation, in turn."""
    images = torch.randint(0, 256, (BATCH, SIZE, SIZE, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    models = {}
    for name in names:
        if name in OURS:
            strides = OURS[name].get("strides", (4, 8, 16, 32) if "decoder" in OURS[name] else (8, 16, 32))
            architecture = {"kind": "fcn", "backbone": BACKBONE, "strides": strides, "folded": True, "num_classes": 2}
            models[name] = build_model(architecture | {"decoder": OURS[name].get("decoder", "fcn")})
        else:
            models[name] = Peer(name, 2)
        models[name].to(memory_format=torch.channels_last).eval()
    times = {name: [] for name in models}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, model in models.items():
                begun = time.perf_counter()
                model(images)
                if turn:
                    times[name].append(time.perf_counter() - begun)
    return {name: BATCH / statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--masks", default=None)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", nargs="+", default=None, help="names of the table's rows")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--peers-python", default=None)
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    python = options.peers_python or sys.executable
    if options.peers_python is None and importlib.util.find_spec("segmentation_models_pytorch") is None:
        Console().print("segmentation_models.pytorch is not here; name the Python of an environment that has it")
        names = [*OURS, "torchvision FCN"]
    else:
        names = [*OURS, *PEERS]
    names = [name for name in names if options.only is None or name in options.only]
    if options.inference and options.peers_python:
        raise SystemExit(subprocess.call([python, __file__, "--inference", *(["--only", *names] if names else [])]))
    speeds = inference(names) if options.inference else {}
    results = {}
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(KeyboardInterrupt):
        data = options.data or write_flowers(Path(name) / "drawn", train=200, val=50, seed=0, size=(SIZE, SIZE))
        for network in () if options.inference else names:
            words = ["--data", data, "--minutes", options.minutes, "--precision", options.precision]
            words += ["--seed", options.seed, "--child", network]
            words += ["--masks", options.masks] if options.masks else []
            done = subprocess.run([python, __file__, *map(str, words)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            results[network] = json.loads(done.stdout.strip().splitlines()[-1])
            print(network, results[network], file=sys.stderr, flush=True)
    show(results, speeds, options.minutes)


def show(results, speeds, minutes: float) -> None:
    base = "Unet"
    table = Table(title=f"{BACKBONE} at {SIZE} px" + (f", {minutes:g} minutes" if results else ""))
    columns = ("prediction images/s", f"ratio to {base}")
    if results:
        columns = ("mIoU", "boundary IoU", "training images/s")
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    for name, found in results.items():
        figures = ("{:.3f} ({:.3f}-{:.3f})".format(*found[figure]) for figure in ("miou", "boundary_iou"))
        table.add_row(name, *figures, f"{found['rate']:.1f}")
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:.1f}", f"{speed / speeds[base]:.2f} x" if base in speeds else "")
    Console().print(table)


if __name__ == "__main__":
    main()
