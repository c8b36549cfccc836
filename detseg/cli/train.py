"""`detseg train`: train a model and show how good it is."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detseg.train.config import TrainClassifier, TrainDetector, TrainLocalizer, TrainSegmenter

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from detseg.train.run import Run


def run_detector(config: TrainDetector) -> int:
    """Train a detector, print its table, write pictures and report; returns the exit code."""
    from rich.console import Console

    from detseg.report.detector import write_pictures
    from detseg.report.tables import metrics_table
    from detseg.train.detector import train_detector

    console = Console()
    run = train_detector(config, console)
    if _ended_early(run, console):
        return 130
    if run.metrics is not None:
        _show(run, console, write_pictures(run), metrics_table(run.metrics))
    return 0


def run_segmenter(config: TrainSegmenter) -> int:
    """Train a segmenter, print its table, write pictures and report; returns the exit code."""
    from rich.console import Console

    from detseg.report.segmentation_tables import segmentation_tables
    from detseg.report.segmenter import write_pictures
    from detseg.train.segmenter import train_segmenter

    console = Console()
    run = train_segmenter(config, console)
    if _ended_early(run, console):
        return 130
    if run.metrics is not None:
        _show(run, console, write_pictures(run), segmentation_tables(run.metrics))
    return 0


def run_classifier(config: TrainClassifier) -> int:
    """Train a classifier, print its tables, write pictures and report; returns the exit code."""
    from rich.console import Console

    from detseg.report.classification_tables import classification_tables
    from detseg.report.classifier import write_pictures
    from detseg.train.classifier import train_classifier

    console = Console()
    run = train_classifier(config, console)
    if _ended_early(run, console):
        return 130
    if run.metrics is not None:
        _show(run, console, write_pictures(run), classification_tables(run.metrics))
    return 0


def run_localizer(config: TrainLocalizer) -> int:
    """Train a localizer, print its table, write pictures and report; returns the exit code."""
    from rich.console import Console

    from detseg.report.localizer import localization_table, write_pictures
    from detseg.train.localizer import train_localizer

    console = Console()
    run = train_localizer(config, console)
    if _ended_early(run, console):
        return 130
    if run.metrics is not None:
        _show(run, console, write_pictures(run), localization_table(run.metrics))
    return 0


def _ended_early(run: Run[Any], console: Console) -> bool:
    """Whether the run was interrupted; says how to go on."""
    if run.interrupted and run.main:
        command = f"detseg train {run.config.task} --resume {shlex.quote(str(run.folder))}"
        _tell(console, f"interrupted; go on with: {command}")
    return run.interrupted


def _show(run: Run[Any], console: Console, paths: Iterable[tuple[str, Path]], table: RenderableType) -> None:
    """The table, where the pictures are, and what to do next."""
    console.print(table)
    for caption, path in paths:
        _tell(console, f"{caption}: {path}")
    _tell(console, f"use it: detseg predict {shlex.quote(str(run.folder))} picture.jpg")


def _tell(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
