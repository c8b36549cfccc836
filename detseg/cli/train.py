"""`detseg train`: train a model and show how good it is."""

from __future__ import annotations

from detseg.train.config import TrainDetector


def run_detector(config: TrainDetector) -> int:
    """Train a detector, print its table, write pictures and report; returns the exit code."""
    from rich.console import Console

    from detseg.report.detector import write_pictures
    from detseg.report.tables import metrics_table
    from detseg.train.detector import train_detector

    console = Console()
    run = train_detector(config, console)
    if run.interrupted:
        console.print(
            f"interrupted; go on with: detseg train detector --resume {run.folder}",
            markup=False,
            highlight=False,
        )
        return 130
    if run.metrics is None:  # another process of a distributed run has them
        return 0
    paths = write_pictures(run)
    console.print(metrics_table(run.metrics))
    for caption, path in paths:
        console.print(f"{caption}: {path}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"use it: detseg predict {run.folder} picture.jpg", markup=False, highlight=False)
    return 0
