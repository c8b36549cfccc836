"""The curve of a learning-rate finder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detseg.report.plots.style import BLUE, ORANGE, QUIET, add_axes, new_figure, save, set_title

if TYPE_CHECKING:
    from detseg.train.finder import RateCurve


def plot_rates(curve: RateCurve, path: str | Path) -> Path:
    """Write the loss over the learning rate, and where it falls fastest; returns the path."""
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
    set_title(axes, f"Learning rate {curve.suggestion:.2g}", "where the smoothed loss falls fastest")
    return save(figure, path)
