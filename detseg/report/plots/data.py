"""Plots of a data set: its classes, objects an image, and the sizes, shapes and places of boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.statistics import Counts
from detseg.report.plots.style import (
    BLUE,
    GREEN,
    INK,
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
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

MOST_CLASSES = 40  # so many bars can be read
CELLS = 64  # of the map of positions, across and down
SMALL, MEDIUM = 32, 96  # sides in pixels at which COCO's small and medium objects end


def classes_figure(names: Sequence[str], splits: Mapping[str, Counts], unit: str) -> Figure:
    """A bar for each class, the largest first, with a part for each split; of many classes the largest and smallest.

    `unit` is what is counted; pixels are shown as percent of all pixels of a class.
    """
    total = sum(counts.per_class for counts in splits.values())
    scale = 100 / max(1, int(np.sum(total))) if unit == "pixels" else 1
    order = np.argsort(-np.asarray(total), kind="stable").tolist()
    if len(order) > MOST_CLASSES:
        order = order[: MOST_CLASSES // 2] + order[-MOST_CLASSES // 2 :]
    figure = new_figure(6.4, 1.3 + 0.24 * max(4, len(order)))
    axes = add_axes(figure, "percent of the pixels" if unit == "pixels" else unit, "")
    left = np.zeros(len(order))
    for place, (split, counts) in enumerate(splits.items()):
        amounts = counts.per_class[order] * scale
        axes.barh(range(len(order)), amounts, 0.72, left=left, color=LINES[place % len(LINES)], label=split)
        left += amounts
    for row, value in enumerate(left.tolist()):
        text = f"{value:.2g} %" if unit == "pixels" else f"{value:.0f}"
        axes.annotate(text, (value, row), (3, 0), textcoords="offset points", va="center", fontsize=7, color=INK)
    axes.set(ylim=(len(order) - 0.4, -0.6))
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(len(order)), [shortened(names[k]) for k in order], family=font_families(), fontsize=8)
    if len(splits) > 1:
        axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0.2)
    shown = f"the largest and the smallest of {len(names)}" if len(order) < len(names) else ""
    set_title(axes, f"{unit[:1].upper()}{unit[1:]} of each class", shown)
    return figure


def per_image_figure(splits: Mapping[str, Counts]) -> Figure:
    """How many images have how many objects, as shares of each split."""
    figure = new_figure(6.4, 3.4)
    axes = add_axes(figure, "objects in the image", "percent of the images")
    most = max((int(counts.per_image.max(initial=0)) for counts in splits.values()), default=0)
    step = max(1, -(-most // 40))
    edges = np.arange(0, most + step + 1, step) - 0.5
    for place, (split, counts) in enumerate(splits.items()):
        share = 100 * np.histogram(counts.per_image, edges)[0] / max(1, counts.images)
        color = LINES[place % len(LINES)]
        axes.stairs(share, edges, color=color, fill=len(splits) == 1, alpha=0.9, linewidth=1.6, label=split)
    axes.set(ylim=(0, None))
    if len(splits) > 1:
        axes.legend(fontsize=8, frameon=False)
    everywhere = np.concatenate([counts.per_image for counts in splits.values()])
    middle = np.median(everywhere) if len(everywhere) else 0
    without = f"{(everywhere == 0).sum()} images without"
    set_title(axes, "Objects in an image", f"median {middle:g}, at most {most}; {without}")
    return figure


def sizes_figure(boxes: NDArray[np.float64]) -> Figure:
    """Widths and heights of boxes (M, 4) in pixels, as a density on logarithmic axes."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    figure = new_figure(6.4, 5.4)
    axes = add_axes(figure, "width of the box (pixels)", "height of the box (pixels)")
    axes.set(xscale="log", yscale="log")
    if len(boxes):
        low, high = (float(limit) for limit in (min(width.min(), height.min()), max(width.max(), height.max())))
        edges = np.geomspace(low * 0.9, high * 1.1, 61)
        _, _, _, cells = axes.hist2d(width, height, [edges, edges], cmap=_blues(), cmin=1)
        _colorbar(figure, axes, cells, "objects")
        powers = [2**k for k in range(20) if edges[0] <= 2**k <= edges[-1]]
        for ticks in (axes.set_xticks, axes.set_yticks):
            ticks(powers, [str(power) for power in powers])
        axes.minorticks_off()
        for side in (SMALL, MEDIUM):
            across = np.geomspace(edges[0], edges[-1], 50)
            axes.plot(across, side**2 / across, color=ORANGE, linewidth=1, linestyle="--")
        axes.set(xlim=(edges[0], edges[-1]), ylim=(edges[0], edges[-1]), aspect="equal")
    set_title(axes, "Sizes of the boxes", f"dashed: areas of {SMALL}² and {MEDIUM}² pixels")
    return figure


def aspects_figure(boxes: NDArray[np.float64]) -> Figure:
    """Width by height of boxes (M, 4), on a logarithmic axis."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    figure = new_figure(6.4, 3.4)
    axes = add_axes(figure, "width / height", "objects")
    ratio = width / height
    reach = max(4.0, float(np.max(np.exp(np.abs(np.log(ratio))), initial=1)) * 1.05)
    axes.hist(ratio, np.geomspace(1 / reach, reach, 61).tolist(), color=GREEN)
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set(xscale="log", xlim=(1 / reach, reach))
    ticks = [t for t in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16) if 1 / reach <= t <= reach]
    axes.set_xticks(ticks, [f"{t:g}" if t >= 1 else f"1/{1 / t:g}" for t in ticks])
    axes.minorticks_off()
    wide = f"{np.mean(ratio > 1):.0%} wider than high" if len(ratio) else ""
    set_title(axes, "Aspect ratios of the boxes", wide)
    return figure


def positions_figure(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> Figure:
    """How often each place of the image, stretched to a square, lies in a box (M, 4) of an image of `sizes` (M, 2)."""
    figure = new_figure(6.4, 5.4)
    axes = add_axes(figure, "share of the width", "share of the height")
    axes.grid(visible=False)
    known = (sizes > 0).all(axis=1)
    cover = _cover(boxes[known] / np.tile(sizes[known], 2))
    drawn = axes.imshow(100 * cover, cmap=_blues(), vmin=0, extent=(0, 1, 1, 0), interpolation="bilinear")
    _colorbar(figure, axes, drawn, "percent of the boxes")
    set_title(axes, "Positions of the boxes", "how many of all boxes cover a place")
    return figure


def _cover(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(CELLS, CELLS) share of boxes (M, 4), in 0..1 of the image, that cover the middle of each cell."""
    first = np.clip(np.ceil(boxes[:, :2] * CELLS - 0.5), 0, CELLS).astype(np.int64)
    last = np.clip(np.ceil(boxes[:, 2:] * CELLS - 0.5), 0, CELLS).astype(np.int64)
    # Ones at the corners, added up along both axes, are ones within (Crow 1984).
    corners = np.zeros((CELLS + 1, CELLS + 1))
    for (x, y), sign in (((first[:, 0], first[:, 1]), 1), ((last[:, 0], last[:, 1]), 1)):
        np.add.at(corners, (y, x), sign)
    for x, y in ((first[:, 0], last[:, 1]), (last[:, 0], first[:, 1])):
        np.add.at(corners, (y, x), -1)
    return np.asarray(corners.cumsum(0).cumsum(1)[:CELLS, :CELLS] / max(1, len(boxes)))


def _colorbar(figure: Figure, axes: Axes, drawn: Any, label: str) -> None:
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label(label, color=INK, fontsize=9)
    bar.ax.tick_params(colors=QUIET, labelsize=8, length=3)
    bar.outline.set_visible(False)


def _blues() -> Colormap:
    """White to blue, from a first colour that is told from the paper."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blues", ["#e6eff6", "#8fbfdd", BLUE, "#00304d"])
