"""What the page of a segmenter's run says."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.metrics.bootstrap.segmentation import SegmentationIntervals
from detseg.metrics.segmentation.mean_iou import SegmentationMetrics
from detseg.report.pages.html import (
    Card,
    ClassTable,
    Page,
    Row,
    Table,
    count_cells,
    figure_cells,
    interval_note,
    number,
    range_text,
    write_page,
)
from detseg.report.segmentation_tables import MEANINGS

_CARDS = ("miou", "pixel_accuracy", "boundary_iou")

_SNIPPET = """\
import detseg

model = detseg.load({run})
(seen,) = model.predict(["picture.jpg"])
print(seen.mask, seen.confidence)  # of every pixel the label, called model.names[label], and its probability
"""


def write_segmenter_report(
    run_folder: str | Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    metrics: SegmentationMetrics,
    pictures: Sequence[tuple[str, str | Path]],
    intervals: SegmentationIntervals | None = None,
) -> Path:
    """Write `report.html` into the run folder; returns its path.

    Args:
        run_folder, title, summary, pictures: see `write_page` and `Page`.
        metrics: of the best checkpoint on the validation pictures.
        intervals: of these metrics.

    Raises:
        ValueError: if a picture's path is absolute or leads out of the run folder.
    """
    shown = intervals if intervals is not None and intervals.known else None
    page = Page(
        title=title,
        summary=summary,
        pictures=pictures,
        cards=_cards(metrics, shown),
        figures=_figures(metrics, shown),
        classes=_classes(metrics, shown),
        predicts="draws what it sees and writes the masks as index PNG",
        snippet=_SNIPPET,
    )
    return write_page(run_folder, page)


def _cards(metrics: SegmentationMetrics, intervals: SegmentationIntervals | None) -> list[Card]:
    figures = metrics.figures()
    ranges = {} if intervals is None else {name: range_text(limits) for name, limits in intervals.figures.items()}
    return [Card(MEANINGS[n][0], number(figures[n]), ranges.get(n, "")) for n in _CARDS if n in figures]


def _figures(metrics: SegmentationMetrics, intervals: SegmentationIntervals | None) -> Table:
    rows = []
    for name, value in metrics.figures().items():
        limits = [] if intervals is None else [range_text(intervals.figures[name])]
        rows.append(Row(*MEANINGS[name], [number(value), *limits]))
    note = "" if intervals is None else interval_note(intervals.level, intervals.resamples)
    return Table("Figures", rows, note=note)


def _classes(metrics: SegmentationMetrics, intervals: SegmentationIntervals | None) -> ClassTable:
    rows = []
    for k, row in enumerate(metrics.per_class):
        limits = [] if intervals is None else [intervals.per_class[k].low, intervals.per_class[k].high]
        figures = figure_cells([row.iou, *limits, row.dice, row.accuracy, row.precision, row.boundary_iou])
        rows.append((row.name, figures + count_cells((row.pixels, row.images))))
    limits_heads = [] if intervals is None else ["From", "To"]
    heads = ["Class", "IoU", *limits_heads, "Dice", "Recall", "Precision", "Boundary IoU", "Pixels", "Pictures"]
    return ClassTable(heads, rows)
