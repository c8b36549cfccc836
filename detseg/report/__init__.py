"""What a run leaves to look at: plots, tables and a page that shows them all."""

from detseg.report.pages.detector_page import write_report
from detseg.report.plots.detection import (
    plot_anchors,
    plot_class_ap,
    plot_confusion,
    plot_history,
    plot_precision_recall,
)
from detseg.report.tables import (
    analysis_tables,
    class_table,
    comparison_table,
    confusion_table,
    errors_table,
    figures_table,
    metrics_table,
    thresholds_table,
)

__all__ = [
    "analysis_tables",
    "class_table",
    "comparison_table",
    "confusion_table",
    "errors_table",
    "figures_table",
    "metrics_table",
    "plot_anchors",
    "plot_class_ap",
    "plot_confusion",
    "plot_history",
    "plot_precision_recall",
    "thresholds_table",
    "write_report",
]
