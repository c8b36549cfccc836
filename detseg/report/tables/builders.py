"""The tables that all tasks have: figures, classes, confusions, comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from detseg.console import one_line
from detseg.metrics.figure import Figure
from detseg.report.columns import Column, Confusions, interval_note, number, percent, whole

if TYPE_CHECKING:
    from detseg.metrics.bootstrap.draws import Comparison, Difference, Interval

MOST_IN_MATRIX = 12  # classes; of more, the most frequent confusions are listed
MOST_IN_LIST = 20


def name_text(name: str) -> Text:
    """The name of a class or file as it is: no markup, and no order to the terminal."""
    return Text(one_line(name))


def new_table(title: str, heads: Sequence[str], caption: str = "") -> Table:
    """A table without rows; numbers stand below all heads but the first and empty ones."""
    table = Table(title=title, caption=caption or None, title_justify="left", caption_justify="left")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place and head else "left")
    return table


def below_each_other(*tables: RenderableType) -> Group:
    """Tables with empty lines between them."""
    return Group(*(part for table in tables for part in (table, "")))


def figures_table(
    metrics: Any, title: str, caption: str, *, limits: Mapping[str, Interval], level: float = math.nan
) -> Table:
    """A row for each figure that the metrics have, the first one bold; `limits` (at `level`) need not be of all."""
    known = {name: interval for name, interval in limits.items() if not math.isnan(interval.low)}
    if known:
        caption += f"\nfrom, to: {interval_note(level)}"
    table = new_table(title, ("", "value", *(("from", "to") if known else ()), ""), caption)
    for figure in metrics.shown():
        cells = [number(figure.compute(metrics))]
        if known:
            interval = known.get(figure.name)
            cells += ["–", "–"] if interval is None else [number(interval.low), number(interval.high)]
        table.add_row(figure.title, *cells, figure.meaning, style=None if table.row_count else "bold")
    return table


def class_table(names: Sequence[str], columns: Sequence[Column], caption: str = "") -> Table:
    """A row for each class in the dataset's order, counts first."""
    shown = sorted((c for c in columns if c.narrow), key=lambda column: column.write is number)
    table = new_table("Per class", ("class", *(column.head for column in shown)), caption)
    for k, name in enumerate(names):
        table.add_row(name_text(name), *(column.write(column.values[k]) for column in shown))
    return table


def confusion_table(confusions: Confusions) -> Table:
    """The confusion matrix, or of many classes the most frequent confusions."""
    if len(confusions.names) > MOST_IN_MATRIX:
        return _confusion_list(confusions)
    shown = "percent of the row" if confusions.percent else confusions.unit
    caption = f"{shown}; rows: truth, columns, by number: {confusions.verb}"
    remark = f"\n{confusions.remark}" if confusions.remark else ""
    classes = len(confusions.names)
    heads = [str(number + 1) if number < classes else name for number, name in enumerate(confusions.columns)]
    table = new_table("Confusion matrix", ["", *heads], caption + remark)
    table.box, table.collapse_padding = box.SIMPLE_HEAD, True
    values = 100 * confusions.share if confusions.percent else confusions.counts
    for i, (name, row) in enumerate(zip(confusions.rows, values.tolist(), strict=True)):
        texts = map(percent, row) if confusions.percent else (whole(count) if count else "·" for count in row)
        cells = [Text(text, style="bold" if i == j else "") for j, text in enumerate(texts)]
        if i == classes:  # what is found where nothing is cannot be missed too
            cells[-1] = Text("")
        table.add_row(name_text(f"{i + 1} {name}" if i < classes else name), *cells)
    return table


def _confusion_list(confusions: Confusions) -> Table:
    counts, names, unit = confusions.counts, confusions.names, confusions.unit
    classes = len(names)
    wrong = counts[:classes, :classes] * (1 - np.eye(classes, dtype=np.int64))
    caption = f"{unit} {confusions.verb} another class: {wrong.sum():,}"
    caption += f" ({percent(100 * wrong.sum() / max(1, counts.sum()))} %)" if confusions.percent else ""
    if len(counts) > classes:
        caption += f"; missed: {counts[:-1, -1].sum():,}; found where nothing is: {counts[-1, :-1].sum():,}"
    caption += f"\n{confusions.remark}" if confusions.remark else ""
    table = new_table("Most frequent confusions", ("in truth", confusions.verb, unit, "of the class"), caption)
    table.columns[1].justify = "left"
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_IN_LIST]
    for i, j in zip(*(axis.tolist() for axis in np.unravel_index(order, wrong.shape)), strict=True):
        if wrong[i, j]:
            share = f"{percent(100 * confusions.share[i, j])} %"
            table.add_row(name_text(names[i]), name_text(names[j]), f"{wrong[i, j]:,}", share)
    return table


def comparison_table(
    comparison: Comparison, names: Sequence[str], figures: Sequence[Figure], *, of: str, what: str
) -> Table:
    """How two sets of predictions differ; the classes of which nothing can be told are left out.

    Args:
        figures: those of the task.
        of: the figure that is compared class by class.
        what: the predictions, in a word.
    """
    table = new_table(
        f"Compared with the other {what}",
        ("", "this", "other", "difference", "from", "to", "better"),
        f"from, to: {interval_note(comparison.level)}, of the difference\n"
        "better: in how many of the resamples the other is the better one",
    )

    def add(name: RenderableType, row: Difference) -> None:
        signed = ("–" if math.isnan(v) else f"{v:+.3f}" for v in (row.difference, row.low, row.high))
        better = "–" if math.isnan(row.b_better) else f"{100 * row.b_better:.1f} %"
        table.add_row(name, number(row.a), number(row.b), *signed, better)

    titles = {figure.name: figure.title for figure in figures}
    for name, row in comparison.figures.items():
        add(titles[name], row)
    table.add_section()
    for name, row in zip(names, comparison.per_class, strict=True):
        if not math.isnan(row.difference):
            add(name_text(f"{of} of {name}"), row)
    return table
