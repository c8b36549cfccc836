"""Plots of classes in any task: a figure of each with its confidence interval, and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from detseg.report.columns import Column, Confusions
from detseg.report.plots.style import BLUE, INK, add_axes, font_families, new_figure, set_title, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_CLASSES = 30  # so many bars, and rows of a matrix with numbers in them, can be read


def ranked_figure(names: Sequence[str], columns: Sequence[Column], level: float) -> Figure:
    """The first column of class figures, best first, as a dot with its interval as a bar; NaN is left out.

    Of many classes the best and the worst are shown. The figure is in 0..1; where the next column is "from", it and
    the one behind it are the limits, at `level`.
    """
    values = columns[0].values
    bounded = len(columns) > 2 and columns[1].head == "from"
    order = sorted((k for k, value in enumerate(values) if not math.isnan(value)), key=lambda k: -values[k])
    count = len(order)
    if count > _MOST_CLASSES:
        order = order[: _MOST_CLASSES // 2] + order[-_MOST_CLASSES // 2 :]
    figure = new_figure(6.4, 1.3 + 0.24 * max(4, len(order)))
    axes = add_axes(figure, columns[0].head, "")
    for place, k in enumerate(order):
        if bounded:
            ends = [column.values[k] for column in columns[1:3]]
            axes.plot(ends, [place, place], color=BLUE, lw=5, alpha=0.3, solid_capstyle="butt")
        axes.plot(values[k], place, "o", ms=5, color=BLUE)
    axes.set(xlim=(0, 1.005), ylim=(len(order) - 0.4, -0.6))
    _name_ticks(axes, "y", [names[k] for k in order])
    shown = f"the best and the worst of {count} classes" if len(order) < count else ""
    bars = f"bars: {100 * level:.3g} % confidence intervals" if bounded else ""
    set_title(axes, f"{columns[0].title} of each class", "; ".join(filter(None, (shown, bars))))
    return figure


def confusion_figure(confusions: Confusions) -> Figure:
    """The confusion matrix, coloured by the share of each row; of more than 30 rows without numbers."""
    share, rows = confusions.share, confusions.rows
    side = float(np.clip(1.5 + 0.42 * len(rows), 4.2, 14))
    figure = new_figure(side + 0.9, side)
    axes = add_axes(figure, confusions.verb, "in truth")
    axes.grid(visible=False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(rows) <= _MOST_CLASSES:
        numbers = np.rint(100 * share).astype(int) if confusions.percent else confusions.counts
        for (row, column), value in np.ndenumerate(numbers):
            if value:
                color = "white" if share[row, column] > 0.6 else INK
                axes.text(column, row, str(value), ha="center", va="center", fontsize=7, color=color)
    _name_ticks(axes, "y", rows)
    _name_ticks(axes, "x", confusions.columns)
    percent = "percent of the row" if confusions.percent else ""
    set_title(axes, f"Confusion matrix of {confusions.unit}", confusions.remark or percent)
    return figure


def _name_ticks(axes: Axes, axis: str, names: Sequence[str]) -> None:
    """A name at each of 0, 1, …; of very many only every second, third, …"""
    step = max(1, math.ceil(len(names) / 100))
    setter, rotation = (axes.set_xticks, 90) if axis == "x" else (axes.set_yticks, 0)
    size = 8 if len(names) <= _MOST_CLASSES else 5
    short = [shortened(name) for name in names[::step]]
    setter(range(0, len(names), step), short, family=font_families(), fontsize=size, rotation=rotation)
