"""Tables of a data set: its splits and its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table

from detseg.data.statistics import Counts
from detseg.report.columns import Column, percent, whole
from detseg.report.tables.builders import below_each_other, name_text, new_table

MOST_CLASSES = 30  # listed in a terminal
PERCENTILES = (5, 50, 95)  # of the sides of boxes

Row = tuple[str, list[str]]


def split_heads(unit: str) -> list[str]:
    """What stands above the cells of `split_rows`."""
    if unit == "objects":
        return ["images", "without", "objects", "ignored", "side 5 %", "median", "95 %"]
    return ["images", "without", "ignored"] if unit == "pixels" else ["images", "classes"]


def split_rows(splits: Mapping[str, Counts], unit: str, sides: Mapping[str, NDArray[np.float64]]) -> list[Row]:
    """A row for each split: how much it holds.

    Args:
        unit: what is counted: "objects", "pixels" or "images".
        sides: of the boxes of each split in pixels, where there are boxes.
    """
    return [(split, _cells(counts, unit, sides.get(split))) for split, counts in splits.items()]


def _cells(counts: Counts, unit: str, sides: NDArray[np.float64] | None) -> list[str]:
    if unit == "images":
        return [str(counts.images), str(int((counts.per_class > 0).sum()))]
    if unit == "pixels":
        every = counts.total + counts.ignored
        return [str(counts.images), str(counts.without), f"{percent(100 * counts.ignored / max(1, every))} %"]
    measured = ["–"] * len(PERCENTILES)
    if sides is not None and len(sides):
        measured = [f"{value:.0f}" for value in np.percentile(sides, PERCENTILES)]
    return [str(counts.images), str(counts.without), str(counts.total), str(counts.ignored), *measured]


def class_columns(splits: Mapping[str, Counts], unit: str) -> list[Column]:
    """What is known of each class: its share of all, then its amount in each split and the images that have it."""
    total = np.sum([counts.per_class for counts in splits.values()], axis=0)
    columns = [Column("share", (total / max(1, int(total.sum()))).tolist(), _as_percent)]
    if unit == "pixels":
        parts = {s: (c.per_class / max(1, c.total)).tolist() for s, c in splits.items()}
        columns += [Column(f"of {split}", part, _as_percent) for split, part in parts.items() if len(splits) > 1]
    else:
        columns += [Column(split, counts.per_class.tolist(), whole) for split, counts in splits.items()]
    if unit != "images":
        images = np.sum([counts.images_with for counts in splits.values()], axis=0)
        columns.append(Column("images", images.tolist(), whole))
    return columns


def _as_percent(value: float) -> str:
    return f"{percent(100 * value)} %"


def tables(
    names: Sequence[str], splits: Mapping[str, Counts], unit: str, sides: Mapping[str, NDArray[np.float64]]
) -> Group:
    """What is printed of a data set; of many classes the largest and the smallest."""
    caption = "side: of a square with the area of the box, in pixels; without: images without objects"
    caption = caption if unit == "objects" else ""
    overview = new_table("Splits", ("", *split_heads(unit)), caption)
    for split, cells in split_rows(splits, unit, sides):
        overview.add_row(split, *cells)
    return below_each_other(overview, _class_table(names, class_columns(splits, unit), unit))


def _class_table(names: Sequence[str], columns: Sequence[Column], unit: str) -> Table:
    order = np.argsort(-np.asarray(columns[0].values), kind="stable").tolist()
    left_out = len(order) - MOST_CLASSES
    title = f"Classes, {unit}" if unit != "images" else "Classes"
    table = new_table(title, ("class", *(column.head for column in columns)))
    for place, k in enumerate(order):
        if left_out > 0 and place == MOST_CLASSES // 2:
            table.add_row(f"… {left_out} more")
        if left_out <= 0 or not MOST_CLASSES // 2 <= place < len(order) - MOST_CLASSES // 2:
            table.add_row(name_text(names[k]), *(column.write(column.values[k]) for column in columns))
    return table
