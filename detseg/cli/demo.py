"""`detseg demo`: the whole road on the embedded pictures, without any data of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Demo:
    """Draw annotated flower pictures, train a detector on them, show its table and pictures.

    A first look in a minute, then the real thing:

        detseg demo --pictures 100 --minutes 0.5
        detseg demo
    """

    output: Path = Path("runs/demo")
    """Folder for the pictures (data/) and the runs (detector-1, …)."""
    pictures: int = 400
    """Training pictures to draw; a quarter as many for validation."""
    minutes: float = 5.0
    """How long to train."""
    seed: int = 0
    """Of pictures and training."""


def run(config: Demo) -> int:
    """Draw, train, show; returns the exit code.

    Raises:
        ValueError: settings out of range, or the output folder holds something else.
    """
    from rich.console import Console
    from rich.progress import Progress

    from detseg.cli.train import run_detector
    from detseg.data.flowers import write_flowers
    from detseg.train.config import TrainDetector

    if config.pictures < 1:
        raise ValueError(f"--pictures must be at least 1, not {config.pictures}")
    training = TrainDetector(
        data=config.output / "data", output=_free_folder(config.output), minutes=config.minutes, seed=config.seed
    ).check()
    console = Console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("drawing flowers", total=None)
        data = write_flowers(
            config.output / "data",
            train=config.pictures,
            val=max(1, config.pictures // 4),
            seed=config.seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(f"flower pictures, drawn and annotated, are in {data}", markup=False, highlight=False, soft_wrap=True)
    return run_detector(training)


def _free_folder(output: Path) -> Path:
    """The next of detector-1, detector-2, … that is not there."""
    number = 1
    while (output / f"detector-{number}").exists():
        number += 1
    return output / f"detector-{number}"
