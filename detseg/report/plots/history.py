"""The course of a training run by epoch, and what a learning-rate finder saw before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.report.plots.style import BLUE, INK, LINES, ORANGE, QUIET, add_axes, new_figure, save, set_title
from detseg.train.metrics_file import number_at, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from detseg.train.finder import RateCurve

Line = tuple[str, str, str]  # column, name in the legend, colour


def plot_history(csv_path: str | Path, path: str | Path, figures: Mapping[str, str]) -> Path:
    """Write `history_figure` of a run's metrics.csv as PNG; returns the path."""
    return save(history_figure(read_history(csv_path), figures), path)


def read_history(csv_path: str | Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a metrics.csv; empty cells are NaN. Raises FileError, naming the line, where it is damaged."""
    path = Path(csv_path)
    names, rows, lines = read_metrics(path)
    columns = {
        name: [number_at(path, row, name, line) for row, line in zip(rows, lines, strict=True)]
        for name in dict.fromkeys([*names, "epoch"] if rows else names)
    }
    return {name: np.array(values) for name, values in columns.items()}


def history_figure(history: Mapping[str, ArrayLike], figures: Mapping[str, str]) -> Figure:
    """Loss and its parts, figures of validation and learning rate by epoch, under each other.

    Args:
        history: columns (E,): `epoch`, `loss`, any `loss_*`, `lr` and figures; missing ones and NaN are left out.
        figures: title of each figure by its column, the most important first; the first two with numbers are shown.
    """
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in history.items()}
    seen = {name for name, column in columns.items() if np.isfinite(column).any()}
    parts = [name for name in columns if name.startswith("loss_")]
    parts = parts if len(parts) > 1 else []  # a single one is the total
    shown = [name for name in figures if name in seen]
    losses = [("loss", "total", INK)]
    losses += [(part, part[5:].replace("_", " "), LINES[i % len(LINES)]) for i, part in enumerate(parts)]
    judged = [(name, figures[name], color) for name, color in zip(shown, (BLUE, ORANGE), strict=False)]
    panels: list[tuple[str, float, list[Line]]] = [
        ("loss", 2.6, losses),
        ("on validation", 2.6, judged),
        ("learning rate", 1.2, [("lr", "", QUIET)]),
    ]
    panels = [(label, high, [line for line in lines if line[0] in seen]) for label, high, lines in panels]
    panels = [panel for panel in panels if panel[2]]
    heights = [high for _, high, _ in panels]
    figure = new_figure(7.2, 0.6 + sum(heights) if panels else 2.4)
    if not panels:
        figure.text(0.5, 0.5, "no epochs yet", ha="center", va="center", color=QUIET)
        return figure
    grid = figure.add_gridspec(len(panels), 1, height_ratios=heights)
    first: Axes | None = None
    for row, (label, _, lines) in enumerate(panels):
        last = row == len(panels) - 1
        axes = add_axes(figure, "epoch" if last else "", label, position=grid[row, 0], share=first)
        first = first or axes
        axes.tick_params(labelbottom=last)
        _history_lines(axes, columns, lines)
    assert first is not None
    figure.align_ylabels()
    if shown:
        best = columns[shown[0]]
        at = int(np.nanargmax(best))
        set_title(first, f"Best {figures[shown[0]]} {best[at]:.3f} after epoch {columns['epoch'][at]:.0f}")
    else:
        set_title(first, "Training")
    return figure


def _history_lines(axes: Axes, columns: Mapping[str, NDArray[np.float64]], lines: Sequence[Line]) -> None:
    from matplotlib.ticker import MaxNLocator

    for place, (name, label, color) in enumerate(lines):
        there = np.isfinite(columns[name])
        marker = "o" if there.sum() <= 30 else ""
        wide = 1.4 if place else 2.2
        axes.plot(columns["epoch"][there], columns[name][there], color=color, lw=wide, marker=marker, ms=3, label=label)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=True)
    axes.yaxis.get_offset_text().set(fontsize=8, color=QUIET)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(axes.lines) > 1:
        axes.legend(frameon=False, fontsize=8, ncols=2 if len(axes.lines) > 4 else 1)


def plot_rates(curve: RateCurve, path: str | Path) -> Path:
    """Write the loss over the learning rate, and the rate that is suggested; returns the path."""
    figure = new_figure(7.2, 3.6)
    axes = add_axes(figure, "learning rate", "loss")
    axes.plot(curve.rates, curve.losses, color=QUIET, lw=0.8, alpha=0.6, label="of each step")
    axes.plot(curve.rates, curve.smooth, color=BLUE, lw=2, label="smoothed")
    axes.axvline(curve.suggestion, color=ORANGE, lw=1.5)
    axes.set_xscale("log")
    low, high = float(curve.smooth.min()), float(np.max(curve.smooth))
    margin = 0.15 * max(high - low, 1e-6)
    axes.set_ylim(low - margin, high + margin)
    axes.legend(frameon=False, fontsize=8)
    set_title(axes, f"Learning rate {curve.suggestion:.2g}", "where the smoothed loss has made most of its fall")
    return save(figure, path)
