"""Precision against recall, of the mean over classes and of single classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detseg.report.plots.style import (
    BLUE,
    GREEN,
    LINES,
    ORANGE,
    QUIET,
    add_axes,
    font_families,
    new_figure,
    set_title,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from detseg.metrics.detection.average_precision import DetectionMetrics

Floats = NDArray[np.float64]

_EXTREMES = 3  # so many best and worst classes are shown


def precision_recall_figure(metrics: DetectionMetrics) -> Figure:
    """Left: mean over classes, at IoU 0.50, 0.75 and over all IoU. Right: best and worst classes at IoU 0.50."""
    curves = metrics.precision_recall
    figure = new_figure(10.4, 5.2)
    left, right = (add_axes(figure, "recall", "precision", position=position) for position in (121, 122))
    for threshold, color in ((0.5, ORANGE), (0.75, GREEN)):
        for place in np.flatnonzero(np.isclose(metrics.iou_thresholds, threshold)):
            _curve(left, curves.recall, curves.mean[place], f"IoU {threshold:.2f}", color)
    _curve(left, curves.recall, curves.mean.mean(axis=0), "IoU .50 to .95", BLUE)
    set_title(left, "Mean over classes")

    at = int(np.argmin(np.abs(metrics.iou_thresholds - 0.5)))
    aps = curves.precision[at].mean(axis=1)  # (K,)
    ranked = [k for k in np.argsort(-aps, kind="stable").tolist() if not math.isnan(aps[k])]
    few = len(ranked) <= 2 * _EXTREMES
    chosen = ranked if few else ranked[:_EXTREMES] + ranked[-_EXTREMES:]
    for rank, k in enumerate(chosen):
        dash = "-" if rank < _EXTREMES else "--"
        _curve(right, curves.recall, curves.precision[at, k], metrics.per_class[k].name, LINES[rank], dash)
    ends = f"{_EXTREMES} best and {_EXTREMES} worst of {len(ranked)} classes"
    set_title(right, f"{'Each class' if few else ends} at IoU {metrics.iou_thresholds[at]:.2f}")
    for axes in (left, right):
        if axes.lines:
            font = {"family": font_families(), "size": 8}
            below: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (-0.03, -0.13), "alignment": "left"}
            legend = axes.legend(title="AP", title_fontsize=8, frameon=False, ncols=3, prop=font, **below)
            legend.get_title().set_color(QUIET)
        else:
            axes.text(0.5, 0.5, "no objects", ha="center", va="center", color=QUIET)
        axes.set(xlim=(0, 1.005), ylim=(0, 1.02))
    return figure


def _curve(axes: Axes, recall: Floats, precision: Floats, name: str, color: str, dash: str = "-") -> None:
    """A line above an area that is the AP of its legend."""
    if np.isfinite(precision).all():
        # The number comes first: a label that begins with "_" would be left out. "$" would be mathematics.
        label = f"{precision.mean():.3f}  {shortened(name)}"
        axes.plot(recall, precision, color=color, linestyle=dash, lw=2, label=label, drawstyle="steps-pre")
