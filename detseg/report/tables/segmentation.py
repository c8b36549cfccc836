"""Tables of semantic segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group

from detseg.report.columns import Column, Confusions, interval_note, limit_columns, whole
from detseg.report.tables.builders import below_each_other, class_table, confusion_table, figures_table

if TYPE_CHECKING:
    from detseg.metrics.bootstrap.segmentation import SegmentationIntervals
    from detseg.metrics.segmentation.mean_iou import SegmentationMetrics


def tables(metrics: SegmentationMetrics, intervals: SegmentationIntervals | None = None) -> Group:
    """Figures, classes and confusions: `rich.print(tables(metrics, bootstrap_segmentation(metrics)))`."""
    shown = intervals if intervals is not None and intervals.known else None
    limits, level = ({}, 0.0) if shown is None else (shown.figures, shown.level)
    caption = "pixels: share of all in truth; recall: share of them that is right"
    if shown is not None:
        caption += f"\nfrom, to: {interval_note(level)}, of IoU"
    counts = f"images: {len(metrics.images.image_ids)}, pixels: {metrics.confusion.sum():,}"
    return below_each_other(
        figures_table(metrics, "Segmentation", counts, limits=limits, level=level),
        class_table(metrics.names, class_columns(metrics, shown), caption),
        confusion_table(confusions_of(metrics)),
    )


def class_columns(metrics: SegmentationMetrics, intervals: SegmentationIntervals | None = None) -> list[Column]:
    """What is known of each class. Precision follows from IoU and recall, so a terminal does without it."""
    rows = metrics.per_class
    total = max(1, int(metrics.confusion.sum()))
    bounded = metrics.images.boundary is not None
    return [
        Column("IoU", [row.iou for row in rows]),
        *limit_columns(intervals.per_class if intervals is not None and intervals.known else ()),
        Column("Dice", [row.dice for row in rows], narrow=False),
        Column("recall", [row.accuracy for row in rows]),
        Column("precision", [row.precision for row in rows], narrow=False),
        *([Column("boundary IoU", [row.boundary_iou for row in rows])] if bounded else []),
        Column("pixels", [100 * row.pixels / total for row in rows], lambda share: f"{share:.1f} %"),
        Column("images", [row.images for row in rows], whole),
    ]


def confusions_of(metrics: SegmentationMetrics) -> Confusions:
    """The confusion matrix of pixels."""
    return Confusions(metrics.confusion, metrics.names, "pixels", "predicted as", percent=True)
