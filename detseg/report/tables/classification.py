"""Tables of classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group

from detseg.report.columns import Column, Confusions, whole
from detseg.report.tables.builders import below_each_other, class_table, confusion_table, figures_table

if TYPE_CHECKING:
    from detseg.metrics.classification import ClassificationMetrics


def tables(metrics: ClassificationMetrics) -> Group:
    """Figures, classes and confusions: `rich.print(tables(metrics))`."""
    largest = metrics.largest_class
    counts = (
        f"images: {metrics.images}, classes: {len(metrics.per_class)}; always answering {largest.name} would have an "
        f"accuracy of {largest.count / metrics.images:.3f}"
    )
    caption = "predicted: how many images were taken for the class"
    return below_each_other(
        figures_table(metrics, "Classification", counts, limits=metrics.intervals, level=metrics.level),
        class_table(metrics.names, class_columns(metrics), caption),
        confusion_table(confusions_of(metrics)),
    )


def class_columns(metrics: ClassificationMetrics) -> list[Column]:
    """What is known of each class."""
    rows = metrics.per_class
    return [
        Column("recall", [row.recall for row in rows]),
        Column("precision", [row.precision for row in rows]),
        Column("F1", [row.f1 for row in rows]),
        Column("images", [row.count for row in rows], whole),
        Column("predicted", [row.predicted for row in rows], whole),
    ]


def confusions_of(metrics: ClassificationMetrics) -> Confusions:
    """The confusion matrix of images."""
    wrong = int(metrics.confusion.sum() - metrics.confusion.trace())
    remark = f"{wrong} of {metrics.images} images taken for another class"
    return Confusions(metrics.confusion, metrics.names, "images", "taken for", remark)
