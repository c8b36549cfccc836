"""Tables of localizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group

from detseg.report.columns import Column, whole
from detseg.report.tables.builders import class_table, figures_table

if TYPE_CHECKING:
    from detseg.metrics.localization import LocalizationMetrics


def tables(metrics: LocalizationMetrics) -> Group:
    """Figures and, below, a row for each class: `rich.print(tables(metrics))`."""
    counts = f"images with an object: {metrics.images}"
    counts += f", without: {metrics.without}" if metrics.without else ""
    figures = figures_table(metrics, "Localisation", counts, limits=metrics.intervals, level=metrics.level)
    return Group(figures, "", class_table([row.name for row in metrics.per_class], class_columns(metrics)))


def class_columns(metrics: LocalizationMetrics) -> list[Column]:
    """What is known of each class."""
    rows = metrics.per_class
    return [
        Column("mean IoU", [row.mean_iou for row in rows]),
        Column("accuracy", [row.accuracy for row in rows]),
        Column("images", [row.count for row in rows], whole),
    ]
