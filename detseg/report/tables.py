"""Metrics as tables for the terminal (rich renderables); nothing here prints."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from detseg.metrics.detection.average_precision import DetectionMetrics

if TYPE_CHECKING:
    from detseg.metrics.bootstrap.draws import Comparison, Difference, Intervals
    from detseg.metrics.detection.analysis import Analysis
    from detseg.metrics.detection.confusion import BestThreshold, BestThresholds, Confusion
    from detseg.metrics.detection.error_analysis import ErrorAnalysis
    from detseg.metrics.detection.voc_ap import VocMetrics

# The last words of the figures' names by row of their table.
_SIZES = {"small (to 32²)": "small", "medium (to 96²)": "medium", "large": "large"}
_MEANINGS = {
    "classification": "in place, but of another class",
    "localisation": "right class, IoU {low:g} to {high:g}",
    "both": "another class, IoU {low:g} to {high:g}",
    "duplicate": "object already found",
    "background": "nothing there",
    "missed": "objects with nothing near",
    "false_positives": "all false detections",
    "false_negatives": "all objects not found",
}
_MOST_IN_MATRIX = 12  # classes; of more, the most frequent confusions are listed


def metrics_table(metrics: DetectionMetrics, intervals: "Intervals | None" = None) -> Group:
    """The 12 COCO figures and, below, a row for each class: `rich.print(metrics_table(metrics))`.

    With intervals of 95 %, unless others are given. (`figures_table` and `class_table` can do without.)
    """
    if intervals is None:
        from detseg.metrics.bootstrap.detection import bootstrap_detection

        intervals = bootstrap_detection(metrics.matches)
    return Group(figures_table(metrics, intervals), "", class_table(metrics, intervals))


def analysis_tables(analysis: "Analysis") -> Group:
    """All that `analyse` found."""
    metrics, intervals = analysis.metrics, analysis.intervals
    names = [row.name for row in metrics.per_class]
    tables = [
        figures_table(metrics, intervals),
        class_table(metrics, intervals),
        errors_table(analysis.errors),
        thresholds_table(analysis.thresholds, names),
        confusion_table(analysis.confusion),
    ]
    return Group(*(part for table in tables for part in (table, "")))


def figures_table(metrics: DetectionMetrics, intervals: "Intervals | None" = None) -> Table:
    """The 12 figures, a row for each range of object sizes; "–" where there are no such objects."""
    kind = "boxes" if metrics.iou_type == "bbox" else "masks"
    shown = _if_known(intervals)
    table = Table(
        title=f"Average precision and recall of {kind}",
        caption=(
            f"pictures: {metrics.images}, objects: {metrics.objects}, detections: {metrics.detections}\n"
            "AP, AR: mean over IoU 0.50 to 0.95; AP50, AP75: at that IoU\n"
            "AR n: with at most n detections a picture and class"
            + ("\nfrom, to: how far the pictures, drawn anew by chance, move it" if shown else "")
        ),
        title_justify="left",
        caption_justify="left",
    )
    figures = metrics.figures()
    names = [name for name in figures if "_" not in name]
    table.add_column("objects")
    for name in names:
        table.add_column(_heading(name), justify="right")
    table.add_row("all", *(_number(figures[name]) for name in names), style="bold")
    if shown is not None:
        limits = shown.figures.values()
        table.add_row(f"  {_percent(shown.level)} from", *(_number(limit.low) for limit in limits))
        table.add_row("       to", *(_number(limit.high) for limit in limits))
    for row, size in _SIZES.items():
        cells = dict.fromkeys(names, "")
        cells[names[0]], cells[names[-1]] = _number(figures[f"AP_{size}"]), _number(figures[f"AR_{size}"])
        table.add_row(row, *cells.values())
    return table


def class_table(metrics: DetectionMetrics, intervals: "Intervals | None" = None) -> Table:
    """A row for each class in the dataset's order."""
    shown = _if_known(intervals)
    table = Table(title="Per class", title_justify="left", caption_justify="left")
    if shown is not None:
        table.caption = f"from, to: {_percent(shown.level)} interval of AP"
    recall = _heading(f"AR{metrics.matches.max_detections[-1]}")
    table.add_column("class")
    for name in ("objects", "pictures", "AP", *(("from", "to") if shown else ()), "AP50", recall):
        table.add_column(name, justify="right")
    for k, row in enumerate(metrics.per_class):
        figures = [row.ap, row.ap50, row.ar]
        if shown is not None:
            figures[1:1] = [shown.per_class[k].ap.low, shown.per_class[k].ap.high]
        table.add_row(Text(row.name), str(row.objects), str(row.images), *map(_number, figures))
    return table


def errors_table(errors: "ErrorAnalysis") -> Table:
    """What each kind of error costs."""
    table = Table(
        title=f"What the errors cost (AP at IoU {errors.foreground:.2f}: {_number(errors.ap)})",
        caption="gain: of this AP, if the errors of one kind alone were put right",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("error")
    table.add_column("gain", justify="right")
    table.add_column("number", justify="right")
    table.add_column("")
    totals = {"false_positives": errors.false_positives, "false_negatives": errors.false_negatives}
    for name, cost in (errors.errors | totals).items():
        if name == "false_positives":
            table.add_section()
        meaning = error_meaning(name, errors)
        table.add_row(name.replace("_", " "), _number(cost.gain), str(cost.count), meaning)
    return table


def error_meaning(name: str, errors: "ErrorAnalysis") -> str:
    """What an error of this kind is, in a few words."""
    return _MEANINGS[name].format(low=errors.background, high=errors.foreground)


def thresholds_table(thresholds: "BestThresholds", names: "list[str]") -> Table:
    """From which score on to believe detections."""
    table = Table(
        title="Best score threshold",
        caption=f"the score with the best F1, at IoU {thresholds.iou_threshold:.2f}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("class")
    for name in ("score from", "precision", "recall", "F1"):
        table.add_column(name, justify="right")

    def add(name: Text, best: "BestThreshold", style: str | None = None) -> None:
        # Rounded up, the threshold would leave out the very detection that it was taken from.
        score = best.score if math.isnan(best.score) else math.floor(best.score * 1000) / 1000
        table.add_row(name, *map(_number, (score, best.precision, best.recall, best.f1)), style=style)

    add(Text("all together"), thresholds.overall, "bold")
    for name, best in zip(names, thresholds.per_class, strict=True):
        add(Text(name), best)
    return table


def confusion_table(confusion: "Confusion") -> Table:
    """The confusion matrix, or of many classes the most frequent confusions."""
    title = f"What was detected as what (score from {confusion.score_threshold:.2f}, IoU from "
    title += f"{confusion.iou_threshold:.2f})"
    if len(confusion.names) > _MOST_IN_MATRIX:
        return _confusion_list(confusion, title)
    table = Table(
        title=title,
        caption="rows: what the objects are; columns, by number: what they were detected as",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    table.add_column("")
    for number in range(1, len(confusion.names) + 1):
        table.add_column(str(number), justify="right")
    table.add_column("missed", justify="right")
    names = [f"{number} {name}" for number, name in enumerate(confusion.names, start=1)]
    for i, (name, row) in enumerate(zip([*names, "nothing"], confusion.counts.tolist(), strict=True)):
        cells = [Text(str(count) if count else "·", style="bold" if i == j else "") for j, count in enumerate(row)]
        table.add_row(Text(name), *cells[: len(names)], cells[-1] if i < len(names) else "")
    return table


def _confusion_list(confusion: "Confusion", title: str) -> Table:
    missed, invented = confusion.counts[:-1, -1].sum(), confusion.counts[-1, :-1].sum()
    table = Table(
        title=title,
        caption=f"objects missed: {missed}; detections where nothing is: {invented}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("in truth")
    table.add_column("detected as")
    table.add_column("number", justify="right")
    for true, found, count in confusion.most_frequent(20):
        table.add_row(Text(true), Text(found), str(count))
    return table


def comparison_table(
    comparison: "Comparison",
    names: Sequence[str],
    *,
    of: str = "AP",
    what: str = "detections",
    titles: Mapping[str, str] | None = None,
) -> Table:
    """How two sets of predictions differ; the classes of which nothing can be told are left out.

    Args:
        comparison: of them.
        names: of the classes.
        of: the figure that is compared class by class.
        what: the predictions, in a word.
        titles: of figures, where their names are no titles.
    """
    table = Table(
        title=f"Compared with the other {what}",
        caption=(
            f"from, to: {_percent(comparison.level)} interval of the difference, the same pictures drawn for both\n"
            "better: in how many of these draws the other is the better one"
        ),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    for name in ("this", "other", "difference", "from", "to", "better"):
        table.add_column(name, justify="right")

    def add(name: RenderableType, row: "Difference") -> None:
        signed = ("–" if math.isnan(v) else f"{v:+.3f}" for v in (row.difference, row.low, row.high))
        better = "–" if math.isnan(row.b_better) else f"{100 * row.b_better:.1f} %"
        table.add_row(name, _number(row.a), _number(row.b), *signed, better)

    for name, row in comparison.figures.items():
        add(name if titles is None else titles[name], row)
    table.add_section()
    for name, row in zip(names, comparison.per_class, strict=True):
        if not math.isnan(row.difference):
            add(Text(f"{of} of {name}"), row)
    return table


def voc_table(metrics: "VocMetrics", year: str) -> Table:
    """Average precision by the rules of a Pascal VOC challenge, the classes with objects."""
    table = Table(
        title=f"Pascal VOC {year}",
        caption=f"AP at an IoU of {metrics.iou_threshold:g}; difficult objects do not count",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("class")
    for column in ("AP", "objects", "difficult"):
        table.add_column(column, justify="right")
    rows = [row for row in metrics.per_class if row.objects]
    for row in rows:
        table.add_row(Text(row.name), _number(row.ap), str(row.objects), str(row.difficult))
    table.add_section()
    totals = (sum(getattr(row, name) for row in rows) for name in ("objects", "difficult"))
    table.add_row("mean", _number(metrics.map), *map(str, totals))
    return table


def _if_known(intervals: "Intervals | None") -> "Intervals | None":
    return intervals if intervals is not None and intervals.known else None


def _heading(name: str) -> str:
    """AR100 as "AR 100"; AP50 stays."""
    return name.replace("AR", "AR ")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _percent(level: float) -> str:
    return f"{100 * level:.3g} %"
