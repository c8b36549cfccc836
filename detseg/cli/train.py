"""`detseg train`: train a model and show how good it is."""

from __future__ import annotations

import shlex

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
        if run.main:
            console.print(
                f"interrupted; go on with: detseg train detector --resume {shlex.quote(str(run.folder))}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        return 130
    if run.metrics is None:  # of several processes, the first one reports
        return 0
    paths = write_pictures(run)
    console.print(metrics_table(run.metrics))
    for caption, path in paths:
        console.print(f"{caption}: {path}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"use it: detseg predict {shlex.quote(str(run.folder))} picture.jpg",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0
