"""The table, the pictures and the report of a localizer's run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from detseg.data.cache import full_images
from detseg.report.pages.html import (
    Card,
    ClassTable,
    Page,
    Row,
    Table,
    count_cells,
    figure_cells,
    number,
    range_text,
    write_page,
)
from detseg.report.pictures import SHOWN, rate_curve, some_of, write_picture
from detseg.report.plots.detection import plot_history
from detseg.train.sampler import Request
from detseg.train.tasks.localizer import training_samples
from detseg.visualize import compare_sheet, contact_sheet, draw_boxes

if TYPE_CHECKING:
    from detseg.metrics.localization import LocalizationMetrics
    from detseg.train.tasks.localizer import LocalizerRun

_MEANINGS = {
    "mean_iou": ("mean IoU", "of the predicted with the true box"),
    "accuracy": ("accuracy", "share of pictures whose class is right"),
    "localized": ("localised", "class right and IoU at least 0.5"),
    "iou50": ("IoU 0.50", "share of boxes with that IoU or more"),
    "iou75": ("IoU 0.75", "the same"),
    "objectness": ("objectness", "how often a picture with an object scores higher than one without; 0.5 is chance"),
    "quality": ("quality", "mean of mean IoU and objectness"),
}
_SNIPPET = """\
import detseg

model = detseg.load({run})
(found,) = model.predict(["picture.jpg"], score_threshold=0)
print(found["boxes"], found["scores"], found["labels"])  # one: xyxy in the picture's pixels
"""


def localization_table(metrics: LocalizationMetrics) -> Group:
    """Figures and, below, a row for each class: `rich.print(localization_table(metrics))`."""
    title = f"Localisation, one object in each of {metrics.images} pictures"
    title += f", none in {metrics.without}" if metrics.without else ""
    figures = Grid(title=title, title_justify="left")
    figures.add_column("")
    for column in ("value", "from", "to"):
        figures.add_column(column, justify="right")
    figures.add_column("")
    for name, value in metrics.figures().items():
        title, meaning = _MEANINGS[name]
        interval = metrics.intervals.get(name)
        known = interval is not None and not math.isnan(interval.low)
        limits = (number(interval.low), number(interval.high)) if interval is not None and known else ("", "")
        figures.add_row(title, number(value), *limits, meaning, style="bold" if name == "mean_iou" else None)
    classes = Grid(title="Per class", title_justify="left")
    classes.add_column("class")
    for column in ("pictures", "mean IoU", "accuracy"):
        classes.add_column(column, justify="right")
    for row in metrics.per_class:
        classes.add_row(Text(row.name), str(row.count), number(row.mean_iou), number(row.accuracy))
    return Group(figures, "", classes)


def draw_training(run: LocalizerRun) -> dict[str, Path]:
    """Write pictures of what is trained on into the run folder; returns their captions and paths."""
    return {"training samples as the network sees them": _samples(run)}


def write_pictures(run: LocalizerRun) -> list[tuple[str, Path]]:
    """Write all other pictures and `report.html` into the run folder; returns (caption, path), the report first."""
    if run.metrics is None or run.predictions is None:
        raise ValueError(f"{run.folder}: the run has no metrics to report on")
    folder, metrics = run.folder, run.metrics
    pictures = {
        "ground truth beside predictions, the lowest IoU first": _worst(run),
        **run.drawn,
        "losses, IoU and accuracy": plot_history(folder / "metrics.csv", folder / "history.png"),
        **rate_curve(folder),
    }
    limits = metrics.intervals
    rows = [
        Row(*_MEANINGS[name], [number(value), range_text(limits[name]) if name in limits else ""])
        for name, value in metrics.figures().items()
    ]
    cards = [
        Card(_MEANINGS[name][0], number(metrics.figures()[name]), range_text(limits[name]) if name in limits else "")
        for name in ("mean_iou", "accuracy", "localized", "objectness")
        if name in metrics.figures()
    ]
    classes = [
        (row.name, figure_cells((row.mean_iou, row.accuracy)) + count_cells((row.count,))) for row in metrics.per_class
    ]
    page = Page(
        title="Localizer",
        summary={
            "Backbone": run.config.backbone,
            "Training pictures": len(run.train),
            "Validation pictures": len(run.val),
            "Input size": f"{run.config.size} px",
            "Training time": f"{run.seconds / 60:.1f} min",
        },
        pictures=[(caption, path.relative_to(folder)) for caption, path in pictures.items()],
        cards=cards,
        figures=Table("Figures", rows),
        classes=ClassTable(("Class", "Mean IoU", "Accuracy", "Pictures"), classes),
        predicts="draws the box of the object",
        snippet=_SNIPPET,
    )
    return [("report", write_page(folder, page)), *pictures.items()]


def _worst(run: LocalizerRun) -> Path:
    """The validation pictures with the lowest IoU, in full size."""
    data = run.val.annotations
    there = np.flatnonzero(run.objects >= 0)
    chosen = there[np.argsort(run.metrics.ious, kind="stable")[:SHOWN]]
    rows = [slice(int(row), int(row) + 1) for row in run.objects[chosen]]
    sheet = compare_sheet(
        list(full_images(data, chosen)),
        [{"boxes": data.boxes[s], "labels": data.labels[s], "iscrowd": data.iscrowd[s]} for s in rows],
        [run.predictions[i] for i in chosen],
        data.names,
        captions=[Path(str(data.paths[i])).name for i in chosen],
    )
    return write_picture(sheet, run.folder / "worst.jpg")


def _samples(run: LocalizerRun) -> Path:
    """Augmented training pictures with their boxes."""
    samples = training_samples(run.train, run.config)
    shown = []
    for position, i in enumerate(some_of(len(run.train), run.config.seed)):
        sample, _ = samples[Request(0, position, i, run.config.size, False)]
        names = run.train.annotations.names
        shown.append(draw_boxes(sample.image, sample.boxes, sample.labels, names, iscrowd=sample.iscrowd))
    return write_picture(contact_sheet(shown, 4), run.folder / "samples.jpg")
