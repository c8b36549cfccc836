"""Metrics of classifiers as tables for the terminal (rich renderables); nothing here prints."""

import math

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from detseg.metrics.classification import ClassificationMetrics

_MOST_IN_MATRIX = 12  # classes; of more, the most frequent confusions are listed
MEANINGS = {
    "top1": ("accuracy", "right at the first guess"),
    "top5": ("top-5 accuracy", "among the first five guesses"),
    "mean_class_accuracy": ("mean class accuracy", "every class counts alike"),
    "macro_f1": ("macro F1", "precision and recall, every class alike"),
    "log_loss": ("log loss", "lower is better"),
    "calibration_error": ("calibration error", "how far confidence is from accuracy"),
}


def classification_tables(metrics: ClassificationMetrics) -> Group:
    """Figures, classes and confusions: `rich.print(classification_tables(metrics))`."""
    tables = (
        classification_figures_table(metrics),
        classification_class_table(metrics),
        classification_confusion_table(metrics),
    )
    return Group(*(part for table in tables for part in (table, "")))


def classification_figures_table(metrics: ClassificationMetrics) -> Table:
    """A row for each figure, with its interval where there is one. Of up to five classes top-5 says nothing."""
    shown = {name: limits for name, limits in metrics.intervals.items() if not math.isnan(limits.low)}
    table = Table(title="Classification", title_justify="left", caption_justify="left")
    table.caption = f"pictures: {metrics.images}, classes: {len(metrics.per_class)}"
    if shown:
        table.caption += f"\nfrom, to: {100 * metrics.level:.3g} % interval, the pictures drawn anew by chance"
    table.add_column("")
    for column in ("value", *(("from", "to") if shown else ())):
        table.add_column(column, justify="right")
    table.add_column("")
    for name, value in metrics.figures().items():
        if name == "top5" and len(metrics.per_class) <= 5:
            continue
        title, meaning = MEANINGS[name]
        limits = [shown[name].low, shown[name].high] if name in shown else [math.nan] * 2
        cells = [_number(v) for v in (limits if shown else ())]
        table.add_row(title, _number(value), *cells, meaning, style="bold" if name == "top1" else None)
    return table


def classification_class_table(metrics: ClassificationMetrics) -> Table:
    """A row for each class in the dataset's order."""
    table = Table(title="Per class", title_justify="left", caption_justify="left")
    table.caption = "predicted: how many pictures were taken for the class"
    table.add_column("class")
    for name in ("pictures", "predicted", "precision", "recall", "F1"):
        table.add_column(name, justify="right")
    for row in metrics.per_class:
        figures = (_number(value) for value in (row.precision, row.recall, row.f1))
        table.add_row(Text(row.name), str(row.count), str(row.predicted), *figures)
    return table


def classification_confusion_table(metrics: ClassificationMetrics) -> Table:
    """The confusion matrix, or of many classes the most frequent confusions."""
    title = "What was taken for what"
    if len(metrics.names) > _MOST_IN_MATRIX:
        return _confusion_list(metrics, title)
    table = Table(
        title=title,
        caption="rows: what the pictures are; columns, by number: what they were taken for",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    table.add_column("")
    for number in range(1, len(metrics.names) + 1):
        table.add_column(str(number), justify="right")
    for i, (name, row) in enumerate(zip(metrics.names, metrics.confusion.tolist(), strict=True)):
        cells = [Text(str(count) if count else "·", style="bold" if i == j else "") for j, count in enumerate(row)]
        table.add_row(Text(f"{i + 1} {name}"), *cells)
    return table


def _confusion_list(metrics: ClassificationMetrics, title: str) -> Table:
    wrong = int(metrics.confusion.sum() - np.trace(metrics.confusion))
    table = Table(title=title, caption=f"pictures taken for another class: {wrong}", title_justify="left")
    table.caption_justify = "left"
    table.add_column("in truth")
    table.add_column("taken for")
    table.add_column("number", justify="right")
    for true, found, count in metrics.most_confused(20):
        table.add_row(Text(true), Text(found), str(count))
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
