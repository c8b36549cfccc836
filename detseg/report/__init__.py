"""What a run leaves to look at: plots, tables and a page that shows them all."""

from detseg.report.html import write_report
from detseg.report.plots import plot_anchors, plot_history, plot_precision_recall
from detseg.report.tables import class_table, figures_table, metrics_table

__all__ = [
    "class_table",
    "figures_table",
    "metrics_table",
    "plot_anchors",
    "plot_history",
    "plot_precision_recall",
    "write_report",
]
