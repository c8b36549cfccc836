"""`detseg demo`: the whole road on the embedded pictures, without any data of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Demo:
    """Draw annotated flower pictures, train the detector on them, show the table and the pictures."""

    output: Path = Path("runs/demo")
    """Folder for the pictures (data/) and the runs (detector-1, …)."""
    pictures: int = 400
    """Training pictures to draw; a quarter as many for validation."""
    minutes: float = 5.0
    """How long to train."""
    seed: int = 0
    """Of pictures and training."""


def run(config: Demo) -> int:
    """Draw, train, show; returns the exit code."""
    from rich.progress import Progress

    from detseg.cli.train import run_detector
    from detseg.data.flowers import write_flowers
    from detseg.train.config import TrainDetector

    with Progress(transient=True) as bar:
        task = bar.add_task("drawing flowers", total=None)
        data = write_flowers(
            config.output / "data",
            train=config.pictures,
            val=config.pictures // 4,
            seed=config.seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    number = 1
    while (config.output / f"detector-{number}").exists():
        number += 1
    return run_detector(
        TrainDetector(data=data, output=config.output / f"detector-{number}", minutes=config.minutes, seed=config.seed)
    )
