"""Metrics as tables for the terminal (rich renderables); nothing here prints."""

import math

from rich.console import Group
from rich.table import Table
from rich.text import Text

from detseg.metrics.detection import DetectionMetrics

# A row of the table of figures: what it says, and which of the figures by column.
_COLUMNS = ("AP", "AP50", "AP75", "AR 1", "AR 10", "AR 100")
_ROWS = (
    ("all", ("AP", "AP50", "AP75", "AR1", "AR10", "AR100")),
    ("small (to 32²)", ("AP_small", "", "", "", "", "AR_small")),
    ("medium (to 96²)", ("AP_medium", "", "", "", "", "AR_medium")),
    ("large", ("AP_large", "", "", "", "", "AR_large")),
)


def metrics_table(metrics: DetectionMetrics) -> Group:
    """The 12 COCO figures and, below, a row for each class: `rich.print(metrics_table(metrics))`."""
    return Group(figures_table(metrics), "", class_table(metrics))


def figures_table(metrics: DetectionMetrics) -> Table:
    """The 12 figures, a row for each range of object sizes; "–" where there are no such objects."""
    kind = "boxes" if metrics.iou_type == "bbox" else "masks"
    table = Table(
        title=f"Average precision and recall of {kind}",
        caption=(
            f"pictures: {metrics.pictures}, objects: {metrics.objects}, detections: {metrics.detections}\n"
            "AP, AR: mean over IoU 0.50 to 0.95; AP50, AP75: at that IoU\n"
            "AR n: with at most n detections a picture and class"
        ),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("objects")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    figures = metrics.figures()
    for row, names in _ROWS:
        cells = [_number(figures[name]) if name else "" for name in names]
        table.add_row(row, *cells, style="bold" if row == "all" else None)
    return table


def class_table(metrics: DetectionMetrics) -> Table:
    """A row for each class in the dataset's order."""
    table = Table(title="Per class", title_justify="left")
    table.add_column("class")
    for name in ("objects", "pictures", "AP", "AP50", "AR 100"):
        table.add_column(name, justify="right")
    for row in metrics.per_class:
        figures = (_number(value) for value in (row.ap, row.ap50, row.ar))
        table.add_row(Text(row.name), str(row.objects), str(row.pictures), *figures)
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
