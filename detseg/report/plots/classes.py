"""Plots of classes, whatever the task: a figure of each with its interval, and which was taken for which."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detseg.report.plots.style import BLUE, INK, add_axes, font_families, new_figure, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from detseg.metrics.bootstrap.draws import Interval

_MOST_CLASSES = 30  # so many bars, and rows of a matrix with numbers in them, can be read


def ranked_figure(
    names: Sequence[str],
    values: Sequence[float],
    intervals: "Sequence[Interval] | None",
    *,
    level: float,
    title: str,
    axis: str,
) -> "Figure":
    """A figure of each class, best first, as a dot with its interval as a bar; classes with NaN are left out.

    Of many classes the best and the worst are shown.

    Args:
        names, values, intervals: (K,) of the classes, values in 0..1; None for no intervals.
        level: of the intervals.
        title, axis: what stands above the plot and below its axis.
    """
    order = sorted((k for k, value in enumerate(values) if not math.isnan(value)), key=lambda k: -values[k])
    count = len(order)
    if count > _MOST_CLASSES:
        order = order[: _MOST_CLASSES // 2] + order[-_MOST_CLASSES // 2 :]
    figure = new_figure(6.4, 1.3 + 0.24 * max(4, len(order)))
    axes = add_axes(figure, axis, "")
    for place, k in enumerate(order):
        if intervals is not None:
            limits = [intervals[k].low, intervals[k].high]
            axes.plot(limits, [place, place], color=BLUE, lw=5, alpha=0.3, solid_capstyle="butt")
        axes.plot(values[k], place, "o", ms=5, color=BLUE)
    axes.set(xlim=(0, 1.005), ylim=(len(order) - 0.4, -0.6))
    _name_ticks(axes, "y", [names[k] for k in order])
    shown = f"the best and the worst of {count} classes" if len(order) < count else ""
    bars = "" if intervals is None else f"bars: {100 * level:.3g} % interval"
    set_title(axes, title, "; ".join(filter(None, (shown, bars))))
    return figure


def matrix_figure(
    share: NDArray[np.float64],
    texts: NDArray[np.str_],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    subtitle: str,
    row_axis: str,
    column_axis: str,
) -> "Figure":
    """Which class was taken for which.

    Args:
        share: (R, C) in 0..1, the colour of each field.
        texts: (R, C) what stands in it; of more than 30 rows it is left out.
        rows, columns: names of the rows and columns.
        title, subtitle, row_axis, column_axis: what stands above the plot and along its axes.
    """
    side = float(np.clip(1.5 + 0.42 * len(rows), 4.2, 14))
    figure = new_figure(side + 0.9, side)
    axes = add_axes(figure, column_axis, row_axis)
    axes.grid(visible=False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(rows) <= _MOST_CLASSES:
        for (row, column), text in np.ndenumerate(texts):
            if text:
                color = "white" if share[row, column] > 0.6 else INK
                axes.text(column, row, str(text), ha="center", va="center", fontsize=7, color=color)
    _name_ticks(axes, "y", rows)
    _name_ticks(axes, "x", columns)
    set_title(axes, title, subtitle)
    return figure


def _name_ticks(axes: "Axes", axis: str, names: Sequence[str]) -> None:
    """A name at each of 0, 1, …; of very many only every second, third, …"""
    step = max(1, math.ceil(len(names) / 100))
    short = [(name if len(name) <= 24 else name[:23] + "…").replace("$", r"\$") for name in names]
    rotation = 90 if axis == "x" else 0
    small = 8 if len(names) <= _MOST_CLASSES else 5
    setter = axes.set_xticks if axis == "x" else axes.set_yticks
    setter(range(0, len(names), step), short[::step], family=font_families(), fontsize=small, rotation=rotation)
