"""Tables of detections: COCO's figures, classes, errors, score thresholds, confusions, Pascal VOC."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from detseg.metrics.detection.average_precision import DetectionMetrics, figure_names
from detseg.metrics.detection.levels import OUTCOME_NOTE, OUTCOMES, Outcomes, TreeMetrics
from detseg.report.columns import Column, Confusions, interval_note, limit_columns, number, percent, whole
from detseg.report.tables.builders import below_each_other, class_table, confusion_table, name_text, new_table

if TYPE_CHECKING:
    from detseg.metrics.bootstrap.draws import Intervals
    from detseg.metrics.detection.analysis import Analysis
    from detseg.metrics.detection.confusion import BestThreshold, BestThresholds, Confusion
    from detseg.metrics.detection.error_analysis import ErrorAnalysis
    from detseg.metrics.detection.reliability import Reliability
    from detseg.metrics.detection.voc_ap import VocMetrics

# The last words of the figures' names by row of their table.
_SIZES = {"small (to 32²)": "small", "medium (to 96²)": "medium", "large": "large"}
_ERRORS = {
    "classification": "in place, but of another class",
    "localisation": "right class, IoU {low:g} to {high:g}",
    "both": "another class, IoU {low:g} to {high:g}",
    "duplicate": "object already found",
    "background": "nothing there",
    "missed": "objects with nothing near",
    "false_positives": "all false detections",
    "false_negatives": "all objects not found",
}


_KINDS = {"bbox": "boxes", "segm": "masks", "boundary": "masks and their boundaries"}


def tables(
    metrics: DetectionMetrics, intervals: Intervals | None = None, mask_intervals: Intervals | None = None
) -> Group:
    """The figures and, below, a row for each class: `rich.print(tables(metrics, bootstrap(metrics.matches)))`.

    Where masks were compared too they stand beside the boxes; `mask_intervals` are those of `metrics.masks`.
    """
    columns = class_columns(metrics, intervals, mask_intervals=mask_intervals)
    first = intervals if metrics.masks is None else mask_intervals
    caption = f"from, to: {interval_note(first.level)}, of {columns[0].head}" if first and first.known else ""
    classes = class_table([row.name for row in metrics.per_class], columns, caption)
    if metrics.masks is not None:
        return Group(instance_table(metrics, intervals, mask_intervals), "", classes)
    parts: list[RenderableType] = [coco_table(metrics, intervals), "", classes]
    if isinstance(metrics, TreeMetrics):
        parts += ["", outcomes_table(metrics.outcomes)]
    return Group(*parts)


def analysis_tables(analysis: Analysis) -> Group:
    """All that `analyse` found."""
    return below_each_other(
        tables(analysis.metrics, analysis.intervals),
        errors_table(analysis.errors),
        thresholds_table(analysis.thresholds, [row.name for row in analysis.metrics.per_class]),
        confusion_table(confusions_of(analysis.confusion)),
        reliability_table(analysis.reliability),
    )


def reliability_table(found: Reliability) -> Table:
    """How many detections have scores of each bin, their mean score and the share of them that is right."""
    caption = f"right: the object's class and IoU 0.5; expected calibration error {number(found.error)}"
    table = new_table("Reliability of scores", ("detections", "mean score", "right"), caption)
    for i, count in enumerate(found.counts.tolist()):
        shares = (number(values[i]) for values in (found.scores, found.right))
        table.add_row(f"{found.edges[i]:.1f} to {found.edges[i + 1]:.1f}", str(count), *shares)
    return table


def coco_table(metrics: DetectionMetrics, intervals: Intervals | None = None) -> Table:
    """COCO's figures, a row for each range of object sizes, "–" where there are no such objects; then added ones."""
    coco = figure_names(metrics.matches.max_detections)
    names = [name for name in coco if "_" not in name]
    caption = (
        f"images: {metrics.images}, objects: {metrics.objects}, detections: {metrics.detections}\n"
        "AP, AR: mean over IoU 0.50 to 0.95; AP50, AP75: at that IoU\n"
        "AR n: with at most n detections per image and class"
    )
    shown = intervals if intervals is not None and intervals.known else None
    if shown is not None:
        caption += f"\nfrom, to: {interval_note(shown.level)}"
    heads = ("objects", *(name.replace("AR", "AR ") for name in names))
    table = new_table(f"Average precision and recall of {_KINDS[metrics.iou_type]}", heads, caption)
    table.add_row("all", *(number(metrics.coco(name)) for name in names), style="bold")
    if shown is not None:
        limits = shown.figures.values()
        table.add_row(f"  {100 * shown.level:.3g} % from", *(number(limit.low) for limit in limits))
        table.add_row("       to", *(number(limit.high) for limit in limits))
    for row, size in _SIZES.items():
        between = [""] * (len(names) - 2)
        table.add_row(row, number(metrics.coco(f"AP_{size}")), *between, number(metrics.coco(f"AR_{size}")))
    for figure in metrics.shown()[len(coco) :]:
        table.add_row(figure.title, number(figure.compute(metrics)))
        table.caption = f"{table.caption}\n{figure.title}: {figure.meaning}"
    return table


def instance_table(
    metrics: DetectionMetrics, intervals: Intervals | None = None, mask_intervals: Intervals | None = None
) -> Table:
    """A row for each figure, boxes and masks beside each other, with their confidence intervals."""
    assert metrics.masks is not None
    known = next((side for side in (intervals, mask_intervals) if side is not None and side.known), None)
    heads = ("", "boxes", "masks") if known is None else ("", "boxes", "from", "to", "masks", "from", "to")
    caption = (
        f"images: {metrics.images}, objects: {metrics.objects}, detections: {metrics.detections}\n"
        "mAP, AR: mean over IoU 0.50 to 0.95; AR n: with at most n detections per image and class\n"
        "small: to 32² pixels, medium: to 96², large: above"
    )
    if metrics.masks.objects != metrics.objects:
        caption += f"\nobjects with a mask: {metrics.masks.objects}"
    if known is not None:
        caption += f"\nfrom, to: {interval_note(known.level)}"
    table = new_table("Average precision and recall of boxes and masks", heads, caption)
    for title, _, sides in instance_rows(metrics, intervals, mask_intervals):
        shown = (cell for value, *ends in sides for cell in ([value] if known is None else [value, *ends]))
        table.add_row(title, *shown, style=None if table.row_count else "bold")
    return table


def instance_rows(
    metrics: DetectionMetrics, intervals: Intervals | None = None, mask_intervals: Intervals | None = None
) -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    """Title and meaning of each figure, and value, lower and upper limit of boxes and of masks ("" without limits)."""
    assert metrics.masks is not None
    rows = []
    for figure in metrics.masks.shown():
        sides = []
        for side, limits in ((metrics, intervals), (metrics.masks, mask_intervals)):
            own = limits.figures.get(figure.name) if limits is not None and limits.known else None
            ends = ("", "") if own is None else (number(own.low), number(own.high))
            sides.append((number(figure.compute(side)), *ends))
        rows.append((figure.title, figure.meaning, sides))
    return rows


def class_columns(
    metrics: DetectionMetrics,
    intervals: Intervals | None = None,
    thresholds: BestThresholds | None = None,
    mask_intervals: Intervals | None = None,
) -> list[Column]:
    """What is known of each class: of its masks, where they were compared, then of its boxes."""
    boxes = metrics.per_class
    rows, limits, kind = boxes, intervals, ""
    if metrics.masks is not None:
        rows, limits, kind = metrics.masks.per_class, mask_intervals, "mask "
    ends = [row.ap for row in limits.per_class] if limits is not None and limits.known else []
    best = () if thresholds is None else thresholds.per_class
    beside = [Column("box AP", [r.ap for r in boxes]), Column("box AP50", [r.ap50 for r in boxes], narrow=False)]
    recall = f"{kind}AR {metrics.matches.max_detections[-1]}"
    return [
        Column(f"{kind}AP", [row.ap for row in rows]),
        *limit_columns(ends),
        Column(f"{kind}AP50", [row.ap50 for row in rows]),
        *(beside if kind else []),
        Column(recall, [row.ar for row in rows], narrow=not kind),
        *([Column("best score", [b.score for b in best]), Column("F1", [b.f1 for b in best])] if best else []),
        Column("objects", [row.objects for row in boxes], whole),
        Column("images", [row.images for row in boxes], whole),
    ]


def confusions_of(confusion: Confusion) -> Confusions:
    """The confusion matrix of objects."""
    remark = f"score from {confusion.score_threshold:.2f}, IoU from {confusion.iou_threshold:.2f}"
    return Confusions(confusion.counts, confusion.names, "objects", "detected as", remark)


def outcome_rows(outcomes: Outcomes) -> list[tuple[str, list[str]]]:
    """Name, percentages and number of objects of all together and of each node that objects are labelled with."""
    names, counts = outcomes
    labelled = [(name, row) for name, row in zip(names, counts, strict=True) if row.any()]
    return [
        (name, [*(percent(100 * count / max(1, row.sum())) for count in row), str(row.sum())])
        for name, row in (("all", counts.sum(0)), *labelled)
    ]


def outcomes_table(outcomes: Outcomes) -> Table:
    """What objects come out as in a tree of classes."""
    heads = ("labelled", *OUTCOMES, "objects")
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in OUTCOMES.items())
    table = new_table("What objects come out as, in percent", heads, f"{OUTCOME_NOTE}\n{meanings}")
    for name, cells in outcome_rows(outcomes):
        table.add_row(Text(name), *cells, style=None if table.row_count else "bold")
    return table


def error_rows(errors: ErrorAnalysis) -> list[tuple[str, str, str, str]]:
    """Name, meaning, gain and number of each kind of error; the totals are the last two."""
    totals = {"false_positives": errors.false_positives, "false_negatives": errors.false_negatives}
    return [
        (
            name.replace("_", " "),
            _ERRORS[name].format(low=errors.background, high=errors.foreground),
            number(cost.gain),
            str(cost.count),
        )
        for name, cost in (errors.errors | totals).items()
    ]


def errors_table(errors: ErrorAnalysis) -> Table:
    """What each kind of error costs."""
    table = new_table(
        f"What the errors cost (AP at IoU {errors.foreground:.2f}: {number(errors.ap)})",
        ("error", "gain", "number", ""),
        "gain: of this AP, if the errors of one kind alone were corrected",
    )
    rows = error_rows(errors)
    for place, (name, meaning, gain, count) in enumerate(rows):
        table.add_row(name, gain, count, meaning, end_section=place == len(rows) - 3)
    return table


def thresholds_table(thresholds: BestThresholds, names: list[str]) -> Table:
    """From which score on to believe detections."""
    table = new_table(
        "Best score threshold",
        ("class", "score from", "precision", "recall", "F1"),
        f"the score with the best F1, at IoU {thresholds.iou_threshold:.2f}",
    )

    def add(name: Text, best: BestThreshold, style: str | None = None) -> None:
        # Rounded up, the threshold would leave out the very detection that it was taken from.
        score = best.score if math.isnan(best.score) else math.floor(best.score * 1000) / 1000
        table.add_row(name, *map(number, (score, best.precision, best.recall, best.f1)), style=style)

    add(Text("all together"), thresholds.overall, "bold")
    for name, best in zip(names, thresholds.per_class, strict=True):
        add(name_text(name), best)
    return table


def voc_table(metrics: VocMetrics, year: str) -> Table:
    """Average precision by the rules of a Pascal VOC challenge, the classes with objects."""
    caption = f"AP at an IoU of {metrics.iou_threshold:g}; difficult objects do not count"
    table = new_table(f"Pascal VOC {year}", ("class", "AP", "objects", "difficult"), caption)
    rows = [row for row in metrics.per_class if row.objects]
    for row in rows:
        table.add_row(name_text(row.name), number(row.ap), str(row.objects), str(row.difficult))
    table.add_section()
    totals = (sum(row.objects for row in rows), sum(row.difficult for row in rows))
    table.add_row("mean", number(metrics.map), *map(str, totals))
    return table
