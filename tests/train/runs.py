"""A tiny training run without files, as a function and as a program that can be killed:

python -m tests.train.runs FOLDER kill      # dies by SIGKILL in the second epoch, after a save in its midst
python -m tests.train.runs FOLDER wait      # trains until interrupted; prints a line when it has begun
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from detseg.backbones import create_backbone
from detseg.data.dataset import collate
from detseg.data.sample import Sample
from detseg.detect.yolo import YoloDetector
from detseg.train.loop import Settings, Trainer
from detseg.train.optim import create_optimizer, parameter_groups
from detseg.train.precision import Choice, Decision
from detseg.train.resume import RESUME, load_state
from detseg.train.sampler import Batches, Progress, SizeSchedule, TrainingSamples

IMAGES, BATCH = 6, 2
PER_EPOCH = IMAGES // BATCH
EPOCHS = 4
ARCHITECTURE = {"kind": "yolo", "backbone": "test_efficientnet", "num_classes": 2, "anchors": [[[12, 12]]]}
# Options of a training command that takes a second or two.
QUICK = [
    "--backbone",
    "test_efficientnet",
    "--weights",
    "none",
    "--size",
    "64",
    "--batch-size",
    "4",
    "--precision",
    "fp32",
]
PROCESS = {"random": {"host": torch.Generator().get_state()}, "sums": {"a": torch.tensor(1.5)}}
# A state with all that one must hold, and more.
STATE = {
    **{"step": 3, "elapsed": 2.5, "best": 0.5, "validated_at": 0.2, "summed": 2, "world": 1, "fingerprint": {"a": "b"}},
    **{"model": {}, "average": {}, "choice": ["fp32", True]},
    "optimizer": {"state": {}, "param_groups": []},
    "processes": [PROCESS],
    "nested": [(1, "x"), None],
}


class Drawn:
    """Images of a bright box each, by position; `at(index)` is called before each is given out."""

    def __init__(self, at=lambda index: None, images=IMAGES):
        self.at, self.images = at, images

    def __len__(self):
        return self.images

    def __getitem__(self, index):
        self.at(index)
        rng = np.random.default_rng(index)
        image = rng.integers(0, 100, (48, 64, 3), dtype=np.uint8)
        x, y = (int(v) for v in rng.integers(2, 20, 2))
        image[y : y + 24, x : x + 30] = 220
        box = np.array([[x, y, x + 30, y + 24]], np.float32)
        return Sample(image, box, np.array([index % 2]), np.zeros(1, bool))


class Silent:
    """A log that remembers."""

    def __init__(self):
        self.steps, self.rows, self.rewound = [], [], []

    def step(self, step, fraction, losses, images):
        self.steps.append(step)

    def validated(self, row, took=0.0):
        self.rows.append(dict(row))

    def rewind(self, step):
        self.rewound.append(step)


def tiny_model():
    """A detector with batch norms and dropout, so that buffers and torch's random state matter."""
    set_seed(0)
    anchors = torch.tensor([[[12.0, 12]], [[24, 24]], [[40, 40]]])
    model = YoloDetector(create_backbone("test_efficientnet"), 2, anchors, width=16)
    model.head.where = nn.Sequential(nn.Dropout2d(0.2), *model.head.where)
    return model


@dataclass
class Job:
    """What a trainer knows of its run."""

    folder: Path
    validate_: Callable
    names: list
    marks: dict
    goal: str = "map"
    architecture: dict = field(default_factory=lambda: ARCHITECTURE)
    figures: dict = field(default_factory=lambda: {"map": "mAP@[.5:.95]"})

    def validate(self, model, accelerator):
        return self.validate_(model)

    def describe(self, row):
        return {"architecture": {}, "row": dict(row)}

    def keep_latest(self):
        pass

    def fingerprint(self):
        return self.marks

    def image_names(self):
        return self.names


def tiny_trainer(folder, *, at=lambda index: None, steps=EPOCHS * PER_EPOCH, seconds=None, **changes):
    """A trainer with mosaics, mixup and changing sizes; `changes` replace what it is made of."""

    def given(kind, **defaults):
        names = {field.name for field in fields(kind)} & changes.keys()
        return kind(**(defaults | {name: changes.pop(name) for name in names}))

    model = changes.pop("model", None) or tiny_model()
    choice = changes.get("choice", Choice("fp32", True))
    job = Job(
        Path(folder),
        changes.pop("validate", lambda model: {"map": 0.5, "map50": 0.5}),
        changes.pop("names", [f"image-{i}.jpg" for i in range(IMAGES)]),
        changes.pop("fingerprint", {"annotations": "tiny"}),
    )
    batches = given(
        Batches,
        samples=TrainingSamples(Drawn(at), 5),
        collate=collate,
        sizes=SizeSchedule(96, 32, hold=2, mosaic=0.5, mixup=0.3, seed=5),
        batch_size=BATCH,
        seed=5,
        memory_format=choice.memory_format,
    )
    settings = given(Settings, warmup=2, ema_decay=0.9)
    optimizer = create_optimizer("adamw", parameter_groups(model, lr=0.01, weight_decay=0.01, backbone_lr=0.5))
    first = changes.pop("first_step", 0), changes.pop("first_second", 0.0)
    progress = Progress(None if seconds else steps, seconds, 0, 0.0, *first)
    parts = {"optimizer": optimizer, "accelerator": Accelerator(), "log": Silent()} | changes
    return Trainer(model=model, batches=batches, job=job, progress=progress, settings=settings, **parts)


def stop_at(folder, step, **changes):
    """A trainer that gets SIGTERM in the midst of a step, counted from 1."""
    trainer = tiny_trainer(folder, at=lambda index: trainer.progress.step + 1 == step and terminate(), **changes)
    return trainer


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def resumed(folder, **changes):
    """A trainer that has gone on with the run in a folder, to its end."""
    trainer = tiny_trainer(folder, **changes)
    trainer.run(load_state(Path(folder) / RESUME))
    return trainer


def state_of(folder):
    """What is saved, without what is meant to differ: the time it took."""
    state = load_state(Path(folder) / RESUME)
    state.pop("elapsed")
    return state


def differences(a, b, path=""):
    """Where two nested states differ in a single bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) and a.dtype == b.dtype else [path]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{path}: {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [d for key in a for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [path]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}/{i}")]
    return [] if a == b else [f"{path}: {a!r} {b!r}"]


@contextmanager
def untimed() -> Iterator[None]:
    """Runs train in float32 at once, without a child process that measures what is fastest."""
    choice = Choice("fp32", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detseg.train.process.choose", lambda spec, precision: Decision(choice, {choice: 1.0}))
        yield


def main(folder, what):
    def at(index):
        if what == "kill" and trainer.progress.step == PER_EPOCH + 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "wait" and trainer.progress.step == 3:
            print("begun", flush=True)

    trainer = tiny_trainer(folder, at=at, **({"save_seconds": 0} if what == "kill" else {"steps": 10**6}))
    trainer.run()
    print(f"interrupted: {trainer.interrupted}, steps: {trainer.progress.step}")


if __name__ == "__main__":
    main(*sys.argv[1:])
