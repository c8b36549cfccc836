"""`detseg demo`: the whole road on the embedded images, without any data of one's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Demo:
    """Draw annotated flower images, train a detector (or segmenter) on them, and show metrics and predictions.

    A quick look in a minute, the full demo, the same with a segmenter:

        detseg demo --images 100 --minutes 0.5
        detseg demo
        detseg demo --task segmenter
    """

    task: Literal["detector", "segmenter"] = "detector"
    """What to train: boxes around the flowers, or the class of every pixel."""

    output: Path = Path("runs/demo")
    """Folder for the images (data/) and the runs (detector-1, segmenter-1, …)."""
    images: int = 400
    """Number of training images to draw; a quarter as many for validation."""
    minutes: float = 5.0
    """Training time in minutes."""
    seed: int = 0
    """Random seed of the images and the training."""


def run(config: Demo) -> int:
    """Draw, train, show; returns the exit code.

    Raises:
        ValueError: settings out of range, or the output folder holds something else.
    """
    from rich.progress import Progress

    from detseg.cli.terminal import Terminal
    from detseg.cli.train import run as run_training
    from detseg.console import print_line
    from detseg.flowers.dataset import write_flowers
    from detseg.train.config import TrainDetector, TrainSegmenter

    if config.images < 1:
        raise ValueError(f"--images must be at least 1, not {config.images}")
    data, output = config.output / "data", _free_folder(config.output, config.task)
    detector = TrainDetector(data=data, output=output, minutes=config.minutes, seed=config.seed).check()
    segmenter = TrainSegmenter(
        data=data, output=output, minutes=config.minutes, seed=config.seed, decoder="pyramid"
    ).check()
    console = Terminal()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("drawing flowers", total=None)
        write_flowers(
            data,
            train=config.images,
            val=max(1, config.images // 4),
            seed=config.seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print_line(console, f"flower images, drawn and annotated, are in {data}")
    return run_training(detector if config.task == "detector" else segmenter)


def _free_folder(output: Path, name: str) -> Path:
    """The next of name-1, name-2, … that is not there."""
    number = 1
    while (output / f"{name}-{number}").exists():
        number += 1
    return output / f"{name}-{number}"
