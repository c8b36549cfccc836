"""`detseg train`: train a model and show how good it is."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detseg.train.config import TrainClassifier, TrainConfig, TrainDetector, TrainLocalizer, TrainSegmenter

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from detseg.train.task import Run
    from detseg.train.tasks.detector import DetectorRun

    Shown = tuple[Sequence[tuple[str, Path]], RenderableType]  # captions and paths of images, and the table


def run_detector(config: TrainDetector) -> int:
    """Train a detector, print its table, write images and report; returns the exit code."""
    from detseg.report.pages.detector import analysis_of, write_pictures
    from detseg.report.tables import metrics_table
    from detseg.train.tasks.detector import train_detector

    def show(run: DetectorRun) -> Shown:
        analysis = analysis_of(run)
        return write_pictures(run, analysis), metrics_table(run.metrics, analysis.intervals)

    return _run(config, train_detector, show)


def run_segmenter(config: TrainSegmenter) -> int:
    """Train a segmenter, print its table, write images and report; returns the exit code."""
    from detseg.report.pages.segmenter import write_pictures
    from detseg.report.segmentation_tables import segmentation_tables
    from detseg.train.tasks.segmenter import train_segmenter

    return _run(config, train_segmenter, lambda run: (write_pictures(run), segmentation_tables(run.metrics)))


def run_classifier(config: TrainClassifier) -> int:
    """Train a classifier, print its tables, write images and report; returns the exit code."""
    from detseg.report.classification_tables import classification_tables
    from detseg.report.pages.classifier import write_pictures
    from detseg.train.tasks.classifier import train_classifier

    return _run(config, train_classifier, lambda run: (write_pictures(run), classification_tables(run.metrics)))


def run_localizer(config: TrainLocalizer) -> int:
    """Train a localizer, print its table, write images and report; returns the exit code."""
    from detseg.report.pages.localizer import localization_table, write_pictures
    from detseg.train.tasks.localizer import train_localizer

    return _run(config, train_localizer, lambda run: (write_pictures(run), localization_table(run.metrics)))


def _run(config: TrainConfig, train: Callable[[Any, Console], Run[Any]], show: Callable[[Any], Shown]) -> int:
    """Train, then show the table, where the images are, and what to do next; or how to go on after a stop."""
    from rich.console import Console

    from detseg.train.runner import tell

    console = Console()
    run = train(config, console)
    folder = shlex.quote(str(run.folder))
    if run.interrupted:
        if run.main:
            tell(console, f"interrupted; go on with: detseg train {config.task} --resume {folder}")
        return 130
    if run.metrics is not None:
        images, table = show(run)
        console.print(table)
        for caption, path in images:
            tell(console, f"{caption}: {path}")
        tell(console, f"use it: detseg predict {folder} image.jpg")
    return 0
