"""The form of a figure, and of what every evaluator does.

A task's `FIGURES` list stands beside its formulas. Tables, CSV files, TensorBoard, plots and report pages go through
that list, so a new figure is a function and one line:

    FIGURES.append(Figure("miou", "mIoU", "mean IoU over classes", lambda metrics: metrics.miou))
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable


class Figure(NamedTuple):
    """One number of a task's metrics."""

    name: str  # as in CSV, JSON and TensorBoard
    title: str  # as in tables and plots
    meaning: str  # a few words for whoever reads it for the first time
    compute: Callable[[Any], float]  # from the task's metrics object; NaN where there is nothing to measure by


@runtime_checkable
class Metric(Protocol):
    """Images in, batch by batch and in any process; metrics out. `evaluator.Evaluator` is the base of detseg's own."""

    def update(self, predictions: Any, targets: Any, image_ids: Any) -> None:
        """Add a batch of images: predictions and targets of each, and for each a whole number of its own."""

    def merge(self, other: Self) -> None:
        """Add the images of another evaluator, such as that of another process."""

    def compute(self) -> Any:
        """The task's metrics of all images so far."""


def attribute_figures(*rows: tuple[str, str, str]) -> list[Figure]:
    """Figures that are attributes of the metrics, from name, title and meaning."""
    return [Figure(*row, attrgetter(row[0])) for row in rows]


def figures_of(metrics: Any, figures: Sequence[Figure]) -> dict[str, float]:
    """The value of each figure by name."""
    return {figure.name: float(figure.compute(metrics)) for figure in figures}
