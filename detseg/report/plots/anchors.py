"""Anchors among the box sizes that they are to fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.data.colours import class_color
from detseg.report.plots.style import INK, add_axes, new_figure, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 20_000  # more dots than this only blacken the scatter and slow it down


def anchors_figure(sizes: ArrayLike, anchors: ArrayLike) -> Figure:
    """Box sizes in the colour of the anchor that fits them best, on log axes; the anchors are the squares.

    Args:
        sizes: (M, 2) width and height of boxes, in pixels at training scale; those that are not positive are left out.
        anchors: (A, 2) in the same pixels.
    """
    from matplotlib.patheffects import withStroke

    size, anchor = (np.asarray(values, np.float64).reshape(-1, 2) for values in (sizes, anchors))
    if not len(anchor) or not (anchor > 0).all():
        raise ValueError(f"anchors must be at least one positive (width, height), got {anchor.tolist()}")
    size = size[(size > 0).all(axis=1) & np.isfinite(size).all(axis=1)]
    shared = np.minimum(size[:, None], anchor).prod(axis=2)
    iou = shared / (size.prod(axis=1)[:, None] + anchor.prod(axis=1) - shared)  # (M, A), of the same centre
    best, nearest = iou.max(axis=1, initial=0.0), iou.argmax(axis=1)

    figure = new_figure(6.4, 6.4)
    axes = add_axes(figure, "width of the box (pixels at training size)", "height of the box (pixels)")
    shown = np.arange(len(size))
    if len(size) > _MOST_POINTS:
        shown = np.sort(np.random.default_rng(0).choice(len(size), _MOST_POINTS, replace=False))
    alpha = float(np.clip(60 / math.sqrt(max(1, len(shown))), 0.15, 0.8))
    order = np.argsort(anchor.prod(axis=1), kind="stable")
    for rank, a in enumerate(order.tolist()):
        color = [channel / 255 for channel in class_color(rank)]
        mine = shown[nearest[shown] == a]
        axes.scatter(size[mine, 0], size[mine, 1], s=9, color=color, alpha=alpha, linewidths=0)
        square: dict[str, Any] = {"s": 70, "marker": "s", "edgecolors": INK, "linewidths": 1.2}
        axes.scatter(anchor[a, 0], anchor[a, 1], color=color, zorder=3, clip_on=False, **square)
        text = f"{anchor[a, 0]:.0f}×{anchor[a, 1]:.0f}"
        label = axes.annotate(text, anchor[a], (7, 5), textcoords="offset points", fontsize=8, color=INK)
        label.set(zorder=4, path_effects=[withStroke(linewidth=2.5, foreground="white")])
    _log_axes(axes, np.concatenate([size, anchor]))
    if len(size):
        title = f"Mean best IoU {best.mean():.3f} with {len(anchor)} anchors"
        reached = f"{100 * (best >= 0.5).mean():.1f} % of them reach IoU 0.5"
        set_title(axes, title, f"{len(size)} boxes in the colour of their best anchor, {reached}")
    else:
        set_title(axes, f"{len(anchor)} anchors, no boxes")
    return figure


def _log_axes(axes: Axes, points: NDArray[np.float64]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    low, high = float(points.min()) / 1.25, float(points.max()) * 1.25
    ticks = 2.0 ** np.arange(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ticks.tolist()))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(ScalarFormatter())
