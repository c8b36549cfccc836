"""The pictures and the report of a classifier's run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detseg.data.augment.classification_transforms import ClassificationEval
from detseg.report.classification_tables import MEANINGS
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
from detseg.report.plots.classes import matrix_figure, ranked_figure
from detseg.report.plots.detection import plot_history
from detseg.report.plots.style import save
from detseg.train.sampler import Request, TrainingSamples
from detseg.visualize import contact_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from detseg.metrics import ClassificationMetrics
    from detseg.train.tasks.classifier import ClassifierRun

_SNIPPET = """\
import detseg

model = detseg.load({run})
(seen,) = model.predict(["picture.jpg"])
print(model.names[seen.labels[0]], seen.scores[0])  # the likeliest class and its probability; then the others
"""


def draw_training(run: ClassifierRun) -> dict[str, Path]:
    """Write pictures of what is trained on into the run folder; returns their captions and paths."""
    return {"training samples as the network sees them": _samples(run)}


def write_pictures(run: ClassifierRun) -> list[tuple[str, Path]]:
    """Write all other pictures and `report.html` into the run folder; returns (caption, path), the report first."""
    if run.metrics is None or run.predictions is None:
        raise ValueError(f"{run.folder}: the run has no metrics to report on")
    folder = run.folder
    pictures = {
        "validation pictures, the likeliest class of each, the worst mistakes first": _worst(run),
        **run.drawn,
        "which class was taken for which": save(confusion_figure(run.metrics), folder / "confusion.png"),
        "accuracy on each class": save(class_figure(run.metrics), folder / "class_accuracy.png"),
        "losses and accuracy": plot_history(folder / "metrics.csv", folder / "history.png"),
        **rate_curve(folder),
    }
    page = Page(
        title="Classifier",
        summary=_summary(run),
        pictures=[(caption, path.relative_to(folder)) for caption, path in pictures.items()],
        cards=_cards(run.metrics),
        figures=_figures(run.metrics),
        classes=_classes(run.metrics),
        predicts="tells the class of a picture",
        snippet=_SNIPPET,
    )
    return [("report", write_page(folder, page)), *pictures.items()]


def _summary(run: ClassifierRun) -> dict[str, Any]:
    config = run.config
    return {
        "Backbone": config.backbone,
        "Strategy": config.strategy,
        "Training pictures": len(run.train),
        "Validation pictures": len(run.val),
        "Input size": f"{config.size} px",
        "Training time": f"{run.seconds / 60:.1f} min",
    }


def _cards(metrics: ClassificationMetrics) -> list[Card]:
    shown = ("top1", "mean_class_accuracy", "calibration_error")
    ranges = {name: range_text(interval) for name, interval in metrics.intervals.items()}
    return [Card(MEANINGS[name][0], number(metrics.figures()[name]), ranges.get(name, "")) for name in shown]


def _figures(metrics: ClassificationMetrics) -> Table:
    limits = metrics.intervals
    rows = [
        Row(*MEANINGS[name], [number(value), range_text(limits[name]) if name in limits else ""])
        for name, value in metrics.figures().items()
    ]
    note = f"Ranges are {100 * metrics.level:.3g} % intervals: the pictures drawn anew by chance."
    return Table("Figures", rows, note=note if limits else "")


def _classes(metrics: ClassificationMetrics) -> ClassTable:
    rows = [
        (row.name, figure_cells((row.recall, row.precision, row.f1)) + count_cells((row.count, row.predicted)))
        for row in metrics.per_class
    ]
    return ClassTable(("Class", "Recall", "Precision", "F1", "Pictures", "Taken for it"), rows)


def confusion_figure(metrics: ClassificationMetrics) -> Figure:
    """Rows are what the pictures are of, columns what they were taken for."""
    counts = metrics.confusion
    wrong = int(counts.sum() - np.trace(counts))
    return matrix_figure(
        counts / np.maximum(counts.sum(1, keepdims=True), 1),
        np.where(counts > 0, counts.astype(str), ""),
        metrics.names,
        metrics.names,
        title=f"{wrong} of {metrics.images} pictures taken for another class",
        subtitle="numbers are pictures, colours their share of the row",
        row_axis="in truth",
        column_axis="taken for",
    )


def class_figure(metrics: ClassificationMetrics) -> Figure:
    """Recall of each class, best first."""
    values = [row.recall for row in metrics.per_class]
    return ranked_figure(
        metrics.names, values, None, level=metrics.level, title="Accuracy on each class", axis="share of its pictures"
    )


def _worst(run: ClassifierRun) -> Path:
    """The validation pictures whose own class got the lowest probability."""
    labels, names = run.val.labelled.labels, run.val.labelled.names
    own = run.predictions[np.arange(len(labels)), labels]
    chosen = np.argsort(own, kind="stable")[:SHOWN]
    cut = ClassificationEval(run.config.size)
    captions = []
    for i in chosen:
        guess = int(run.predictions[i].argmax())
        if guess == labels[i]:
            captions.append(f"{names[guess]}: {run.predictions[i, guess]:.0%}")
        else:
            captions.append(f"{names[guess]}: {run.predictions[i, guess]:.0%} — is {names[labels[i]]}: {own[i]:.0%}")
    sheet = contact_sheet([cut(run.val.images[int(i)]) for i in chosen], 4, captions=captions)
    return write_picture(sheet, run.folder / "worst.jpg")


def _samples(run: ClassifierRun) -> Path:
    """Augmented training pictures."""
    from detseg.train.tasks.classifier import augmentation_of

    samples = TrainingSamples(run.train, run.config.seed, augmentation_of(run.config))
    order = enumerate(some_of(len(run.train), run.config.seed))
    shown = [samples[Request(0, position, i, run.config.size, False)][0] for position, i in order]
    names = run.train.labelled.names
    sheet = contact_sheet([image for image, _ in shown], 4, captions=[names[label] for _, label in shown])
    return write_picture(sheet, run.folder / "samples.jpg")
