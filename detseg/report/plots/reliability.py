"""The reliability diagram: how often detections of a score are right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detseg.report.plots.style import BLUE, QUIET, add_axes, new_figure, set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from detseg.metrics.detection.reliability import Reliability


def reliability_figure(found: Reliability) -> Figure:
    """The share of right detections over their score, a bar a bin with its number; on the diagonal both agree."""
    figure = new_figure(6.2, 4.4)
    axes = add_axes(figure, "score", "share that is right")
    filled = found.counts > 0
    widths = np.diff(found.edges)[filled]
    axes.bar(found.edges[:-1][filled], found.right[filled], widths, align="edge", color=BLUE, alpha=0.35)
    axes.plot(found.scores[filled], found.right[filled], "o-", color=BLUE, lw=1.5, ms=4)
    axes.plot([0, 1], [0, 1], "--", color=QUIET, lw=1)
    for left, width, count in zip(found.edges[:-1][filled], widths, found.counts[filled], strict=True):
        axes.text(left + width / 2, 0.01, str(count), ha="center", fontsize=7, color=QUIET)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    set_title(axes, f"Expected calibration error {found.error:.3f}", "detections by score, with their number")
    return figure
