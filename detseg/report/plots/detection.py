"""Plots of a run: precision against recall, AP by class, confusions, anchors over box sizes, losses by epoch.

Each `*_figure` builds a matplotlib figure, each `plot_*` writes one as a PNG. matplotlib is imported when the
first figure is made, and only its object interface is used: no window, no backend, no style of the caller
changes.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.report.plots.classes import matrix_figure, ranked_figure
from detseg.report.plots.style import (
    BLUE,
    GREEN,
    INK,
    LINES,
    ORANGE,
    QUIET,
    add_axes,
    font_families,
    hex_color,
    new_figure,
    save,
    set_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from detseg.metrics.bootstrap.draws import Intervals
    from detseg.metrics.detection.average_precision import DetectionMetrics
    from detseg.metrics.detection.confusion import Confusion

_EXTREMES = 3  # so many best and worst classes are shown
_MOST_POINTS = 20_000  # more dots than this only blacken the scatter and slow it down


def plot_precision_recall(metrics: "DetectionMetrics", path: str | Path) -> Path:
    """Write `precision_recall_figure` as PNG; returns the path."""
    return save(precision_recall_figure(metrics), path)


def plot_class_ap(metrics: "DetectionMetrics", intervals: "Intervals | None", path: str | Path) -> Path:
    """Write `class_ap_figure` as PNG; returns the path."""
    return save(class_ap_figure(metrics, intervals), path)


def plot_confusion(confusion: "Confusion", path: str | Path) -> Path:
    """Write `confusion_figure` as PNG; returns the path."""
    return save(confusion_figure(confusion), path)


def plot_anchors(sizes: ArrayLike, anchors: ArrayLike, path: str | Path) -> Path:
    """Write `anchors_figure` as PNG; returns the path."""
    return save(anchors_figure(sizes, anchors), path)


def plot_history(csv_path: str | Path, path: str | Path) -> Path:
    """Write `history_figure` of a run's metrics.csv as PNG; returns the path."""
    return save(history_figure(read_history(csv_path)), path)


def precision_recall_figure(metrics: "DetectionMetrics") -> "Figure":
    """Left: mean over classes, at IoU 0.50, 0.75 and over all IoU. Right: best and worst classes at IoU 0.50.

    The area under each curve is the AP in its legend.
    """
    curves = metrics.precision_recall
    figure = new_figure(10.4, 5.2)
    left, right = (add_axes(figure, "recall", "precision", position=position) for position in (121, 122))
    mean = [
        (
            f"IoU {threshold:.2f}",
            color,
            curves.mean[int(np.argmin(np.abs(metrics.iou_thresholds - threshold)))],
        )
        for threshold, color in ((0.5, ORANGE), (0.75, GREEN))
        if np.isclose(metrics.iou_thresholds, threshold).any()
    ]
    mean.append(("IoU .50 to .95", BLUE, curves.mean.mean(axis=0)))
    for label, color, precision in mean:
        _curve(left, curves.recall, precision, label, color, "-")
    set_title(left, "Mean over classes")

    at = int(np.argmin(np.abs(metrics.iou_thresholds - 0.5)))
    ranked = [(float(curves.precision[at, k].mean()), k) for k in range(len(metrics.per_class))]
    ranked = sorted(((ap, k) for ap, k in ranked if not math.isnan(ap)), key=lambda pair: (-pair[0], pair[1]))
    few = len(ranked) <= 2 * _EXTREMES
    chosen = ranked if few else ranked[:_EXTREMES] + ranked[-_EXTREMES:]
    for rank, (_, k) in enumerate(chosen):
        dash = "-" if rank < _EXTREMES else "--"
        _curve(right, curves.recall, curves.precision[at, k], metrics.per_class[k].name, LINES[rank], dash)
    threshold = f"IoU {metrics.iou_thresholds[at]:.2f}"
    ends = f"{_EXTREMES} best and {_EXTREMES} worst of {len(ranked)} classes"
    set_title(right, f"{'Each class' if few else ends} at {threshold}")
    for axes in (left, right):
        if axes.lines:
            legend = axes.legend(
                title="AP",
                title_fontsize=8,
                alignment="left",
                frameon=False,
                ncols=3,
                prop={"family": font_families(), "size": 8},
                loc="upper left",
                bbox_to_anchor=(-0.03, -0.13),
            )
            legend.get_title().set_color(QUIET)
        else:
            axes.text(0.5, 0.5, "no objects to judge by", ha="center", va="center", color=QUIET)
        axes.set(xlim=(0, 1.005), ylim=(0, 1.02))
    return figure


def _curve(
    axes: "Axes",
    recall: NDArray[np.float64],
    precision: NDArray[np.float64],
    name: str,
    color: str,
    dash: str,
) -> None:
    if np.isfinite(precision).all():
        # The number comes first: a label that begins with "_" would be left out. "$" would be mathematics.
        short = name if len(name) <= 24 else name[:23] + "…"
        label = f"{precision.mean():.3f}  {short}".replace("$", r"\$")
        axes.plot(recall, precision, color=color, linestyle=dash, lw=2, label=label, drawstyle="steps-pre")


# ---------------------------------------------------------------------------------------------- classes


def class_ap_figure(metrics: "DetectionMetrics", intervals: "Intervals | None" = None) -> "Figure":
    """AP of each class as `ranked_figure`; classes without objects are left out."""
    return ranked_figure(
        [row.name for row in metrics.per_class],
        [row.ap for row in metrics.per_class],
        None if intervals is None else [row.ap for row in intervals.per_class],
        level=math.nan if intervals is None else intervals.level,
        title="AP of each class",
        axis="AP (IoU .50 to .95)",
    )


def confusion_figure(confusion: "Confusion") -> "Figure":
    """Rows are what the objects are, columns what they were detected as; a colour is the share of its row."""
    counts = confusion.counts
    return matrix_figure(
        counts / np.maximum(counts.sum(axis=1, keepdims=True), 1),
        np.where(counts, counts.astype(str), ""),
        [*confusion.names, "nothing"],
        [*confusion.names, "missed"],
        title="What was detected as what",
        subtitle=f"score from {confusion.score_threshold:.2f}, IoU from {confusion.iou_threshold:.2f}",
        row_axis="in truth",
        column_axis="detected as",
    )


# ---------------------------------------------------------------------------------------------- anchors


def anchors_figure(sizes: ArrayLike, anchors: ArrayLike) -> "Figure":
    """Box sizes in the colour of the anchor that fits them best, on log axes; the anchors are the squares.

    Args:
        sizes: (M, 2) width and height of the training boxes, in pixels at training scale. Sizes that are not
            positive are left out.
        anchors: (A, 2) in the same pixels.
    """
    from matplotlib.patheffects import withStroke

    size, anchor = _sizes("sizes", sizes), _sizes("anchors", anchors)
    if not len(anchor) or not (anchor > 0).all():
        raise ValueError(f"anchors must be at least one positive (width, height), got {anchor.tolist()}")
    size = size[(size > 0).all(axis=1) & np.isfinite(size).all(axis=1)]
    shared = np.minimum(size[:, None], anchor[None]).prod(axis=2)
    iou = shared / (size.prod(axis=1)[:, None] + anchor.prod(axis=1)[None] - shared)  # (M, A), same centre
    best, nearest = iou.max(axis=1, initial=0.0), iou.argmax(axis=1)

    figure = new_figure(6.4, 6.4)
    axes = add_axes(figure, "width of the box (pixels at training size)", "height of the box (pixels)")
    shown = np.arange(len(size))
    if len(size) > _MOST_POINTS:
        shown = np.sort(np.random.default_rng(0).choice(len(size), _MOST_POINTS, replace=False))
    alpha = float(np.clip(60 / math.sqrt(max(1, len(shown))), 0.15, 0.8))
    order = np.argsort(anchor.prod(axis=1), kind="stable")
    for rank, a in enumerate(order.tolist()):
        color = hex_color(rank)
        mine = shown[nearest[shown] == a]
        axes.scatter(size[mine, 0], size[mine, 1], s=9, color=color, alpha=alpha, linewidths=0)
        axes.scatter(
            anchor[a, 0],
            anchor[a, 1],
            s=70,
            marker="s",
            color=color,
            edgecolors=INK,
            linewidths=1.2,
            zorder=3,
            clip_on=False,
        )
    for a in order.tolist():
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


def _sizes(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return array.reshape(-1, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{name} must have shape (N, 2), width and height, got {array.shape}")
    return array


def _log_axes(axes: "Axes", points: NDArray[np.float64]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    low, high = float(points.min()) / 1.25, float(points.max()) * 1.25
    ticks = 2.0 ** np.arange(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    for axis, limit, scale in (
        (axes.xaxis, axes.set_xlim, axes.set_xscale),
        (axes.yaxis, axes.set_ylim, axes.set_yscale),
    ):
        scale("log")
        limit(low, high)
        axis.set_major_locator(FixedLocator(ticks.tolist()))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(ScalarFormatter())
    axes.set_aspect("equal")


# ---------------------------------------------------------------------------------------------- history


def read_history(csv_path: str | Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a metrics.csv; empty cells are NaN.

    Raises:
        ValueError: if a cell is not a number (names file, line and column).
    """
    with Path(csv_path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        columns: dict[str, list[float]] = {name: [] for name in names}
        for row in reader:
            for name in names:
                text = (row[name] or "").strip()
                try:
                    columns[name].append(float(text) if text else math.nan)
                except ValueError:
                    where = f"{csv_path}, line {reader.line_num}, column {name!r}"
                    raise ValueError(f"{where}: {text!r} is not a number") from None
    return {name: np.array(values) for name, values in columns.items()}


def history_figure(history: Mapping[str, ArrayLike]) -> "Figure":
    """Loss and its parts, what validation found and learning rate by epoch, under each other.

    Args:
        history: columns (E,): `epoch`, `loss`, any `loss_*`, `lr`, and the figures of validation, such as `map` and
            `map50`, the one that decides which model is the best first. Missing columns and NaN are left out; an
            epoch without a validation has NaN in the figures.
    """
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in history.items()}
    count = max((len(column) for column in columns.values()), default=0)
    epochs = columns.get("epoch", np.arange(1.0, count + 1.0))
    parts = [name for name in columns if name.startswith("loss_")]
    parts = parts if len(parts) > 1 else []  # a single one is the total
    figures = [name for name in columns if name not in _NO_FIGURES and not name.startswith("loss_")]
    judged = "AP on validation" if set(figures) <= {"map", "map50"} else "on validation"
    panels: list[tuple[str, list[tuple[str, str, str]]]] = [
        (
            "loss",
            [("loss", "total", INK)] + [(p, _words(p[5:]), LINES[i % len(LINES)]) for i, p in enumerate(parts)],
        ),
        (judged, [(f, _FIGURE_NAMES.get(f, _words(f)), _FIGURE_LINES[i % 6]) for i, f in enumerate(figures)]),
        ("learning rate", [("lr", "", QUIET)]),
    ]
    panels = [(label, lines) for label, lines in panels if any(_seen(columns, name) for name, _, _ in lines)]
    figure = new_figure(7.2, 0.6 + sum(_HEIGHTS.get(label, 2.4) for label, _ in panels) if panels else 2.4)
    if not panels:
        figure.text(0.5, 0.5, "no epochs yet", ha="center", va="center", color=QUIET)
        return figure
    grid = figure.add_gridspec(len(panels), 1, height_ratios=[_HEIGHTS.get(label, 2.4) for label, _ in panels])
    first: Axes | None = None
    for row, (label, lines) in enumerate(panels):
        last = row == len(panels) - 1
        axes = add_axes(figure, "epoch" if last else "", label, position=grid[row, 0], share=first)
        first = first or axes
        axes.tick_params(labelbottom=last)
        _history_lines(axes, epochs, columns, lines)
    assert first is not None
    figure.align_ylabels()
    best = columns[figures[0]] if figures else np.array([np.nan])
    if np.isfinite(best).any():
        at = int(np.nanargmax(best))
        name = _FIGURE_NAMES.get(figures[0], _words(figures[0]))
        set_title(first, f"Best {name} {best[at]:.3f} after epoch {epochs[at]:.0f}")
    else:
        set_title(first, "Training")
    return figure


_HEIGHTS = {"loss": 2.6, "AP on validation": 2.6, "on validation": 2.6, "learning rate": 1.2}
_NO_FIGURES = ("epoch", "step", "seconds", "lr", "loss")
_FIGURE_NAMES = {
    "map": "mAP@[.5:.95]",
    "map50": "mAP@.50",
    "miou": "mIoU",
    "top1": "accuracy",
    "top5": "top-5 accuracy",
}
_FIGURE_LINES = (BLUE, ORANGE, *LINES[1:4], LINES[5])


def _seen(columns: Mapping[str, NDArray[np.float64]], name: str) -> bool:
    return name in columns and bool(np.isfinite(columns[name]).any())


def _history_lines(
    axes: "Axes",
    epochs: NDArray[np.float64],
    columns: Mapping[str, NDArray[np.float64]],
    lines: Sequence[tuple[str, str, str]],
) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, label, color in lines:
        if _seen(columns, name):
            there = np.isfinite(columns[name])
            marker = "o" if there.sum() <= 30 else ""
            wide = 2.2 if name == lines[0][0] else 1.4
            axes.plot(epochs[there], columns[name][there], color=color, lw=wide, marker=marker, ms=3, label=label)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=True)
    axes.yaxis.get_offset_text().set(fontsize=8, color=QUIET)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(axes.lines) > 1:
        axes.legend(frameon=False, fontsize=8, ncols=2 if len(axes.lines) > 4 else 1)


def _words(name: str) -> str:
    return name.replace("_", " ")
