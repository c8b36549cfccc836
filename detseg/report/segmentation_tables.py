"""Metrics of segmentation as tables for the terminal (rich renderables); nothing here prints."""

import math
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from detseg.metrics.bootstrap.segmentation import SegmentationIntervals
    from detseg.metrics.segmentation.mean_iou import SegmentationMetrics

MEANINGS = {
    "miou": ("mIoU", "mean IoU of the classes"),
    "pixel_accuracy": ("pixel accuracy", "share of the pixels that are right"),
    "mean_accuracy": ("mean accuracy", "the same of each class, then the mean"),
    "frequency_weighted_iou": ("frequency-weighted IoU", "large classes count more"),
    "dice": ("Dice", "mean of the classes"),
    "boundary_iou": ("boundary IoU", "IoU along the borders alone"),
}
_MOST_IN_MATRIX = 12  # classes; of more, the most frequent confusions are listed
_MOST_IN_LIST = 20


def segmentation_tables(metrics: "SegmentationMetrics", intervals: "SegmentationIntervals | None" = None) -> Group:
    """Figures, classes and confusions: `rich.print(segmentation_tables(metrics))`.

    With intervals of 95 %, unless others are given. (The single tables can do without.)
    """
    if intervals is None:
        from detseg.metrics.bootstrap.segmentation import bootstrap_segmentation

        intervals = bootstrap_segmentation(metrics)
    tables = (
        segmentation_figures_table(metrics, intervals),
        segmentation_class_table(metrics, intervals),
        pixel_confusion_table(metrics),
    )
    return Group(*(part for table in tables for part in (table, "")))


def segmentation_figures_table(
    metrics: "SegmentationMetrics", intervals: "SegmentationIntervals | None" = None
) -> Table:
    """A row for each figure, with its interval where there is one."""
    shown = intervals if intervals is not None and intervals.known else None
    table = _table("Segmentation", f"pictures: {len(metrics.images.image_ids)}, pixels: {metrics.confusion.sum():,}")
    table.add_column("")
    for column in ("value", *(("from", "to") if shown else ())):
        table.add_column(column, justify="right")
    table.add_column("")
    if shown:
        level = f"{100 * shown.level:.3g} %"
        table.caption = f"{table.caption}\nfrom, to: {level} interval, the pictures drawn anew by chance"
    for name, value in metrics.figures().items():
        title, meaning = MEANINGS[name]
        cells = [_number(v) for v in (shown.figures[name].low, shown.figures[name].high)] if shown else []
        table.add_row(title, _number(value), *cells, meaning, style="bold" if name == "miou" else None)
    return table


def segmentation_class_table(metrics: "SegmentationMetrics", intervals: "SegmentationIntervals | None" = None) -> Table:
    """A row for each class in the dataset's order; "–" for classes that do not occur.

    (Precision is left out: with IoU and recall it is known, and 80 columns are few.)
    """
    shown = intervals if intervals is not None and intervals.known else None
    bounded = metrics.images.boundary is not None
    table = _table("Per class", "pixels: share of all in truth; recall: share of them that is right")
    if shown:
        table.caption = f"{table.caption}\nfrom, to: {100 * shown.level:.3g} % interval of IoU"
    table.add_column("class")
    heads = ["pixels", "pictures", "IoU", *(("from", "to") if shown else ()), "recall"]
    for name in [*heads, *(["boundary"] if bounded else [])]:
        table.add_column(name, justify="right")
    total = max(1, int(metrics.confusion.sum()))
    for k, row in enumerate(metrics.per_class):
        figures = [row.iou, row.accuracy, *([row.boundary_iou] if bounded else [])]
        if shown:
            figures[1:1] = [shown.per_class[k].low, shown.per_class[k].high]
        share = f"{100 * row.pixels / total:.1f} %"
        table.add_row(Text(row.name), share, str(row.images), *map(_number, figures))
    return table


def pixel_confusion_table(metrics: "SegmentationMetrics") -> Table:
    """What the pixels of each class were predicted as, or of many classes the most frequent confusions."""
    counts = metrics.confusion
    title = "Which pixels were predicted as what"
    if len(counts) > _MOST_IN_MATRIX:
        return _confusion_list(metrics, title)
    table = _table(title, "percent of the pixels of the row; columns, by number: what they were predicted as")
    table.box, table.collapse_padding = box.SIMPLE_HEAD, True
    table.add_column("")
    for number in range(1, len(counts) + 1):
        table.add_column(str(number), justify="right")
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for i, (name, row) in enumerate(zip(metrics.names, share.tolist(), strict=True)):
        cells = [Text(_percent(value), style="bold" if i == j else "") for j, value in enumerate(row)]
        table.add_row(Text(f"{i + 1} {name}"), *cells)
    return table


def _confusion_list(metrics: "SegmentationMetrics", title: str) -> Table:
    counts = metrics.confusion
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    table = _table(title, f"pixels predicted as another class: {_percent(100 * wrong.sum() / max(1, counts.sum()))} %")
    table.add_column("in truth")
    table.add_column("predicted as")
    table.add_column("pixels", justify="right")
    table.add_column("of the class", justify="right")
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_IN_LIST]
    for i, j in zip(*(axis.tolist() for axis in np.unravel_index(order, wrong.shape)), strict=True):
        if wrong[i, j]:
            share = 100 * wrong[i, j] / counts[i].sum()
            table.add_row(Text(metrics.names[i]), Text(metrics.names[j]), f"{wrong[i, j]:,}", f"{_percent(share)} %")
    return table


def _table(title: str, caption: str) -> Table:
    return Table(title=title, caption=caption, title_justify="left", caption_justify="left")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    """One decimal; a dot for nothing at all, so that rare confusions are told from none."""
    if value == 0:
        return "·"
    return "<0.1" if value < 0.05 else f"{value:.1f}"
