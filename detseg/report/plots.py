"""Plots of a run: precision against recall, anchors over box sizes, losses and mAP by epoch.

Each `*_figure` builds a matplotlib figure, each `plot_*` writes one as a PNG. matplotlib is imported when the
first figure is made, and only its object interface is used: no window, no backend, no style of the caller
changes.
"""

import csv
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.visualize import class_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from detseg.metrics import DetectionMetrics

_INK, _QUIET, _GRID = "#222222", "#6b6b6b", "#e4e4e4"
_BLUE, _ORANGE, _GREEN, _PINK, _RED, _SKY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"
_LINES = (_BLUE, _GREEN, _SKY, _RED, _ORANGE, _PINK)  # without the palette's yellow, too pale on white
_CJK_FAMILIES = ("Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "Malgun Gothic", "Hiragino Sans")
_EXTREMES = 3  # so many best and worst classes are shown
_MOST_POINTS = 20_000  # more dots than this only blacken the scatter and slow it down


def plot_precision_recall(metrics: "DetectionMetrics", path: str | Path) -> Path:
    """Write `precision_recall_figure` as PNG; returns the path."""
    return _save(precision_recall_figure(metrics), path)


def plot_anchors(sizes: ArrayLike, anchors: ArrayLike, path: str | Path) -> Path:
    """Write `anchors_figure` as PNG; returns the path."""
    return _save(anchors_figure(sizes, anchors), path)


def plot_history(csv_path: str | Path, path: str | Path) -> Path:
    """Write `history_figure` of a run's metrics.csv as PNG; returns the path."""
    return _save(history_figure(read_history(csv_path)), path)


def precision_recall_figure(metrics: "DetectionMetrics") -> "Figure":
    """Left: mean over classes, at IoU 0.50, 0.75 and over all IoU. Right: best and worst classes at IoU 0.50.

    The area under each curve is the AP in its legend.
    """
    curves = metrics.precision_recall
    figure = _figure(10.4, 5.2)
    left, right = (_axes(figure, "recall", "precision", position=position) for position in (121, 122))
    mean = [
        (
            f"IoU {threshold:.2f}",
            color,
            curves.mean[int(np.argmin(np.abs(metrics.iou_thresholds - threshold)))],
        )
        for threshold, color in ((0.5, _ORANGE), (0.75, _GREEN))
        if np.isclose(metrics.iou_thresholds, threshold).any()
    ]
    mean.append(("IoU .50 to .95", _BLUE, curves.mean.mean(axis=0)))
    for label, color, precision in mean:
        _curve(left, curves.recall, precision, label, color, "-")
    _title(left, "Mean over classes")

    at = int(np.argmin(np.abs(metrics.iou_thresholds - 0.5)))
    ranked = [(float(curves.precision[at, k].mean()), k) for k in range(len(metrics.per_class))]
    ranked = sorted(((ap, k) for ap, k in ranked if not math.isnan(ap)), key=lambda pair: (-pair[0], pair[1]))
    few = len(ranked) <= 2 * _EXTREMES
    chosen = ranked if few else ranked[:_EXTREMES] + ranked[-_EXTREMES:]
    for rank, (_, k) in enumerate(chosen):
        dash = "-" if rank < _EXTREMES else "--"
        _curve(right, curves.recall, curves.precision[at, k], metrics.per_class[k].name, _LINES[rank], dash)
    threshold = f"IoU {metrics.iou_thresholds[at]:.2f}"
    ends = f"{_EXTREMES} best and {_EXTREMES} worst of {len(ranked)} classes"
    _title(right, f"{'Each class' if few else ends} at {threshold}")
    for axes in (left, right):
        if axes.lines:
            legend = axes.legend(
                title="AP",
                title_fontsize=8,
                alignment="left",
                frameon=False,
                ncols=3,
                prop={"family": _families(), "size": 8},
                loc="upper left",
                bbox_to_anchor=(-0.03, -0.13),
            )
            legend.get_title().set_color(_QUIET)
        else:
            axes.text(0.5, 0.5, "no objects to judge by", ha="center", va="center", color=_QUIET)
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

    figure = _figure(6.4, 6.4)
    axes = _axes(figure, "width of the box (pixels at training size)", "height of the box (pixels)")
    shown = np.arange(len(size))
    if len(size) > _MOST_POINTS:
        shown = np.sort(np.random.default_rng(0).choice(len(size), _MOST_POINTS, replace=False))
    alpha = float(np.clip(60 / math.sqrt(max(1, len(shown))), 0.15, 0.8))
    order = np.argsort(anchor.prod(axis=1), kind="stable")
    for rank, a in enumerate(order.tolist()):
        color = _hex(rank)
        mine = shown[nearest[shown] == a]
        axes.scatter(size[mine, 0], size[mine, 1], s=9, color=color, alpha=alpha, linewidths=0)
        axes.scatter(
            anchor[a, 0],
            anchor[a, 1],
            s=70,
            marker="s",
            color=color,
            edgecolors=_INK,
            linewidths=1.2,
            zorder=3,
            clip_on=False,
        )
    for a in order.tolist():
        text = f"{anchor[a, 0]:.0f}×{anchor[a, 1]:.0f}"
        label = axes.annotate(text, anchor[a], (7, 5), textcoords="offset points", fontsize=8, color=_INK)
        label.set(zorder=4, path_effects=[withStroke(linewidth=2.5, foreground="white")])
    _log_axes(axes, np.concatenate([size, anchor]))
    if len(size):
        title = f"Mean best IoU {best.mean():.3f} with {len(anchor)} anchors"
        reached = f"{100 * (best >= 0.5).mean():.1f} % of them reach IoU 0.5"
        _title(axes, title, f"{len(size)} boxes in the colour of their best anchor, {reached}")
    else:
        _title(axes, f"{len(anchor)} anchors, no boxes")
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
    """Loss and its parts, mAP and learning rate by epoch, under each other.

    Args:
        history: columns (E,): `epoch`, `loss`, any `loss_*`, `map`, `map50`, `lr`. Missing columns and
            NaN are left out; an epoch without a validation has NaN in `map`.
    """
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in history.items()}
    count = max((len(column) for column in columns.values()), default=0)
    epochs = columns.get("epoch", np.arange(1.0, count + 1.0))
    parts = [name for name in columns if name.startswith("loss_")]
    panels: list[tuple[str, list[tuple[str, str, str]]]] = [
        (
            "loss",
            [("loss", "total", _INK)] + [(p, _words(p[5:]), _LINES[i % len(_LINES)]) for i, p in enumerate(parts)],
        ),
        ("AP on validation", [("map", "mAP@[.5:.95]", _BLUE), ("map50", "mAP@.50", _ORANGE)]),
        ("learning rate", [("lr", "", _QUIET)]),
    ]
    panels = [(label, lines) for label, lines in panels if any(_seen(columns, name) for name, _, _ in lines)]
    figure = _figure(7.2, 0.6 + sum(_HEIGHTS.get(label, 2.4) for label, _ in panels) if panels else 2.4)
    if not panels:
        figure.text(0.5, 0.5, "no epochs yet", ha="center", va="center", color=_QUIET)
        return figure
    grid = figure.add_gridspec(len(panels), 1, height_ratios=[_HEIGHTS.get(label, 2.4) for label, _ in panels])
    first: Axes | None = None
    for row, (label, lines) in enumerate(panels):
        last = row == len(panels) - 1
        axes = _axes(figure, "epoch" if last else "", label, position=grid[row, 0], share=first)
        first = first or axes
        axes.tick_params(labelbottom=last)
        _history_lines(axes, epochs, columns, lines)
    assert first is not None
    figure.align_ylabels()
    best = columns.get("map", np.array([np.nan]))
    if np.isfinite(best).any():
        at = int(np.nanargmax(best))
        _title(first, f"Best mAP@[.5:.95] {best[at]:.3f} after epoch {epochs[at]:.0f}")
    else:
        _title(first, "Training")
    return figure


_HEIGHTS = {"loss": 2.6, "AP on validation": 2.6, "learning rate": 1.2}


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
            wide = 2.2 if name in ("loss", "map") else 1.4
            axes.plot(epochs[there], columns[name][there], color=color, lw=wide, marker=marker, ms=3, label=label)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=True)
    axes.yaxis.get_offset_text().set(fontsize=8, color=_QUIET)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(axes.lines) > 1:
        axes.legend(frameon=False, fontsize=8, ncols=2 if len(axes.lines) > 4 else 1)


def _words(name: str) -> str:
    return name.replace("_", " ")


# ------------------------------------------------------------------------------------------------ style


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: "Figure", x: str, y: str, position: Any = 111, share: "Axes | None" = None) -> "Axes":
    axes = figure.add_subplot(position, sharex=share)
    axes.set_xlabel(x, color=_INK, fontsize=9)
    axes.set_ylabel(y, color=_INK, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    axes.tick_params(colors=_QUIET, labelsize=8, length=3)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _title(axes: "Axes", title: str, subtitle: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=23 if subtitle else 9)
    if subtitle:
        axes.annotate(subtitle, (0, 1), (0, 7), "axes fraction", "offset points", fontsize=9, color=_QUIET)


def _families() -> list[str]:
    """DejaVu Sans, then what the machine has for Chinese, Japanese and Korean class names."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(family for family in _CJK_FAMILIES if family in installed)]


def _hex(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*class_color(label))


def _save(figure: "Figure", path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # A name in a script without a font is drawn as boxes; the warning would come once a letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path)
    return path
