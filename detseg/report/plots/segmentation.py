"""Plots of segmentation: IoU by class, and which class's pixels were taken for which."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detseg.report.plots.classes import matrix_figure, ranked_figure
from detseg.report.plots.style import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from detseg.metrics.bootstrap.segmentation import SegmentationIntervals
    from detseg.metrics.segmentation.mean_iou import SegmentationMetrics


def plot_class_iou(metrics: "SegmentationMetrics", intervals: "SegmentationIntervals | None", path: str | Path) -> Path:
    """Write `class_iou_figure` as PNG; returns the path."""
    return save(class_iou_figure(metrics, intervals), path)


def plot_pixel_confusion(metrics: "SegmentationMetrics", path: str | Path) -> Path:
    """Write `pixel_confusion_figure` as PNG; returns the path."""
    return save(pixel_confusion_figure(metrics), path)


def class_iou_figure(metrics: "SegmentationMetrics", intervals: "SegmentationIntervals | None" = None) -> "Figure":
    """IoU of each class as `ranked_figure`; classes that do not occur in truth are left out."""
    return ranked_figure(
        metrics.names,
        [row.iou for row in metrics.per_class],
        None if intervals is None else intervals.per_class,
        level=math.nan if intervals is None else intervals.level,
        title="IoU of each class",
        axis="IoU",
    )


def pixel_confusion_figure(metrics: "SegmentationMetrics") -> "Figure":
    """Rows are what the pixels are, columns what was predicted; colours and numbers are the share of the row."""
    counts = metrics.confusion
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    percent = np.round(100 * share).astype(int)
    return matrix_figure(
        share,
        np.where(percent, percent.astype(str), ""),
        metrics.names,
        metrics.names,
        title="Which pixels were predicted as what",
        subtitle="percent of the pixels of the row",
        row_axis="in truth",
        column_axis="predicted as",
    )
