"""What the page of a detector's run says."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from detseg.report.tables import error_meaning

if TYPE_CHECKING:
    from detseg.metrics.bootstrap.draws import Intervals
    from detseg.metrics.detection.analysis import Analysis
    from detseg.metrics.detection.average_precision import DetectionMetrics

# Title and meaning of each figure of `DetectionMetrics.figures()`.
_FIGURES = {
    "AP": ("AP", "IoU .50 to .95"),
    "AP50": ("AP50", "IoU .50"),
    "AP75": ("AP75", "IoU .75"),
    "AP_small": ("AP small", "objects to 32² pixels"),
    "AP_medium": ("AP medium", "to 96² pixels"),
    "AP_large": ("AP large", "above"),
    "AR1": ("AR 1", "recall with 1 detection a picture and class"),
    "AR10": ("AR 10", "with 10"),
    "AR100": ("AR 100", "with 100"),
    "AR_small": ("AR small", "with 100, objects to 32² pixels"),
    "AR_medium": ("AR medium", "to 96² pixels"),
    "AR_large": ("AR large", "above"),
}

_SNIPPET = """\
import detseg

model = detseg.load({run})
(found,) = model.predict(["picture.jpg"])
print(found["boxes"], found["scores"], found["labels"])  # xyxy in the picture's pixels, best first
"""


def write_report(
    run_folder: str | Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    metrics: "DetectionMetrics | None",
    pictures: Sequence[tuple[str, str | Path]],
    analysis: "Analysis | None" = None,
) -> Path:
    """Write `report.html` into the run folder; returns its path.

    Args:
        run_folder, title, summary, pictures: see `write_page` and `Page`.
        metrics: of the best checkpoint on the validation pictures; None leaves the figures out.
        analysis: of the same checkpoint; adds intervals, what the errors cost and the best score thresholds.

    Raises:
        ValueError: if a picture's path is absolute or leads out of the run folder.
    """
    intervals = None if analysis is None else analysis.intervals
    if intervals is not None and not intervals.known:
        intervals = None
    page = Page(
        title=title,
        summary=summary,
        pictures=pictures,
        cards=[] if metrics is None else _cards(metrics, intervals),
        figures=None if metrics is None else _figures(metrics, intervals),
        classes=None if metrics is None else _classes(metrics, intervals, analysis),
        tables=[] if analysis is None else [_errors(analysis)],
        predicts="draws the detections and writes them as COCO results",
        snippet=_SNIPPET,
    )
    return write_page(run_folder, page)


def _cards(metrics: "DetectionMetrics", intervals: "Intervals | None") -> list[Card]:
    figures = (
        ("AP", "mAP@[.5:.95]", metrics.map),
        ("AP50", "mAP@.50", metrics.map50),
        ("AP75", "mAP@.75", metrics.map75),
    )
    ranges = {} if intervals is None else {name: range_text(limits) for name, limits in intervals.figures.items()}
    return [Card(name, number(value), ranges.get(key, "")) for key, name, value in figures]


def _figures(metrics: "DetectionMetrics", intervals: "Intervals | None") -> Table:
    """Each figure and, if there are intervals, its own."""
    rows = []
    for name, value in metrics.figures().items():
        title, meaning = _FIGURES.get(name, (name, ""))
        cells = [number(value)]
        if intervals is not None:
            cells.append(range_text(intervals.figures[name]) if name in intervals.figures else "")
        rows.append(Row(title, meaning, cells))
    note = "" if intervals is None else interval_note(intervals.level, intervals.resamples)
    return Table("COCO figures", rows, note=note)


def _classes(metrics: "DetectionMetrics", intervals: "Intervals | None", analysis: "Analysis | None") -> ClassTable:
    limits = [] if intervals is None else ["From", "To"]
    best = [] if analysis is None else ["Best score", "F1"]
    rows = []
    for k, row in enumerate(metrics.per_class):
        figures = [row.ap]
        if intervals is not None:
            figures += [intervals.per_class[k].ap.low, intervals.per_class[k].ap.high]
        figures += [row.ap50, row.ar]
        if analysis is not None:
            threshold = analysis.thresholds.per_class[k]
            figures += [threshold.score, threshold.f1]
        rows.append((row.name, figure_cells(figures) + count_cells((row.objects, row.images))))
    return ClassTable(["Class", "AP", *limits, "AP50", "AR 100", *best, "Objects", "Pictures"], rows)


def _errors(analysis: "Analysis") -> Table:
    """The costliest kinds first, the totals last."""
    errors = analysis.errors
    kinds = sorted(errors.errors.items(), key=lambda item: -item[1].gain)
    totals = [("false_positives", errors.false_positives), ("false_negatives", errors.false_negatives)]
    rows = [
        Row(name.replace("_", " "), error_meaning(name, errors), (number(cost.gain), str(cost.count)))
        for name, cost in [*kinds, *totals]
    ]
    note = "Gain in AP50 if the errors of one kind, and no others, were put right."
    return Table("What the errors cost", rows, ("Error", "Gain", "Number"), note)
