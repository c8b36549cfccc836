"""What the page of a segmenter's run says."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.metrics.segmentation import SegmentationMetrics
from detseg.report.html import Card, ClassTable, Page, Row, Table, count_cells, figure_cells, number, write_page

_FIGURES = {
    "miou": ("mIoU", "mean IoU of the classes"),
    "pixel_accuracy": ("pixel accuracy", "share of the pixels that are right"),
    "mean_accuracy": ("mean accuracy", "the same of each class, then the mean"),
    "frequency_weighted_iou": ("frequency-weighted IoU", "large classes count more"),
    "dice": ("Dice", "mean of the classes"),
    "boundary_iou": ("boundary IoU", "IoU along the borders alone"),
}
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
) -> Path:
    """Write `report.html` into the run folder; returns its path.

    Args:
        run_folder, title, summary, pictures: see `write_page` and `Page`.
        metrics: of the best checkpoint on the validation pictures.

    Raises:
        ValueError: if a picture's path is absolute or leads out of the run folder.
    """
    figures = metrics.figures()
    page = Page(
        title=title,
        summary=summary,
        pictures=pictures,
        cards=[Card(_FIGURES[name][0], number(figures[name])) for name in _CARDS if name in figures],
        figures=Table("Figures", [Row(*_FIGURES[name], [number(value)]) for name, value in figures.items()]),
        classes=_classes(metrics),
        predicts="draws what it sees and writes the masks as index PNG",
        snippet=_SNIPPET,
    )
    return write_page(run_folder, page)


def _classes(metrics: SegmentationMetrics) -> ClassTable:
    rows = [
        (
            row.name,
            figure_cells((row.iou, row.dice, row.accuracy, row.precision, row.boundary_iou))
            + count_cells((row.pixels, row.pictures)),
        )
        for row in metrics.per_class
    ]
    heads = ("Class", "IoU", "Dice", "Accuracy", "Precision", "Boundary IoU", "Pixels", "Pictures")
    return ClassTable(heads, rows)
