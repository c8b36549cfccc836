"""Training throughput, all of it: loading, augmenting and steps of detseg and ultralytics YOLO11n, in turn.

    python benchmarks/whole_training.py [--data FOLDER] [--rounds 2] [--ultralytics-python /path/to/python]

One epoch a round at one image size and batch, on all cores, without validation; rates are medians over batches.
Without --data it draws 200 images. ResNet-18 runs as it does with pretrained weights (fine stages frozen, norms
folded) and from scratch; its weights are random numbers, which changes nothing about the time. ultralytics is AGPL
and no dependency of detseg: install it into an environment of its own and name that environment's Python.
Left to itself it computes on one core less than there are; here it gets all, and a row tells of it left to itself.
`benchmarks/training.py` measures the steps alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import timm
from rates import print_rates
from safetensors.torch import save_file

from detseg.data.formats import read_dataset, write_yolo
from detseg.flowers.dataset import write_flowers

SIZE, BATCH = 320, 16

ULTRALYTICS = """
import json, os, time
os.environ["YOLO_OFFLINE"] = "true"
import torch
from ultralytics import YOLO
starts, gaps = [], []
def epoch(trainer):
    starts.clear()
    if "{backbone}" == "all cores":
        torch.set_num_threads({threads})
def batch(trainer):
    now = time.perf_counter()
    if starts: gaps.append(now - starts[-1])
    starts.append(now)
model = YOLO("yolo11n.yaml")
model.add_callback("on_train_epoch_start", epoch)
model.add_callback("on_train_batch_start", batch)
model.train(data=r"{data}", epochs=1, imgsz={size}, batch={batch}, device="cpu", workers={threads}, project=r"{out}",
            plots=False, cache="ram", pretrained=False, amp=False, val=False, verbose=False)
print(json.dumps({batch} / sorted(gaps)[len(gaps) // 2]))
"""

DETSEG = """
import json, statistics, sys
from pathlib import Path
from detseg.train.config import TrainDetector
from detseg.train.runner import train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
out = Path(r"{out}")
train(TrainDetector(data=Path(r"{data}"), output=out, epochs=1, size={size}, batch_size={batch},
                             multi_scale=False, backbone="{backbone}", weights="{weights}"))
events = EventAccumulator(str(out / "tensorboard"))
events.Reload()
rates = [event.value for event in events.Scalars("train/images_per_second")]
print(json.dumps(statistics.median(rates[1:] or rates)))
"""


def measure(python: str, script: str) -> float:
    """Images per second of one epoch, in a child process."""
    child = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    if child.returncode:
        raise SystemExit(child.stderr)
    return float(json.loads(child.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ultralytics-python", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = (options.data or write_flowers(folder / "drawn", train=200, val=8, seed=0)).absolute()
        common = {"threads": os.cpu_count(), "size": SIZE, "batch": BATCH}
        random_weights = folder / "resnet18.safetensors"
        save_file(timm.create_model("resnet18").state_dict(), random_weights)
        contenders = {
            name: (sys.executable, DETSEG, data, backbone, str(weights))
            for name, backbone, weights in (
                ("detseg EfficientNet-Lite0 (the default)", "tf_efficientnet_lite0", "pretrained"),
                ("detseg ResNet-18, fine-tuned", "resnet18", random_weights),
                ("detseg ResNet-18, from scratch", "resnet18", "none"),
            )
        }
        if options.ultralytics_python:
            for split, annotations in read_dataset(data).items():
                write_yolo(annotations, folder / "yolo", split)
            yaml = folder / "yolo" / "data.yaml"
            peers = {
                f"ultralytics YOLO11n, {cores}": (options.ultralytics_python, ULTRALYTICS, yaml, cores, "")
                for cores in ("all cores", "left to itself")
            }
            contenders = peers | contenders
        rates: dict[str, list[float]] = {contender: [] for contender in contenders}
        for turn in range(options.rounds):
            for number, (contender, (python, script, source, backbone, weights)) in enumerate(contenders.items()):
                out = folder / f"{turn}-{number}"
                text = script.format(data=source, out=out, backbone=backbone, weights=weights, **common)
                rates[contender].append(measure(python, text))
    print_rates(f"whole training at {SIZE} px, batches of {BATCH}, {os.cpu_count()} cores", rates)


if __name__ == "__main__":
    main()
