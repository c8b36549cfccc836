"""What a run leaves to look at, in any task: samples, worst images, plots, and the page that shows them all."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from detseg.report.columns import Column, Confusions, interval_note, number
from detseg.report.pages.html import ClassTable, Page, Table, write_page
from detseg.report.pictures import some_of, write_picture
from detseg.report.plots.classes import confusion_figure, ranked_figure
from detseg.report.plots.history import plot_history, plot_rates
from detseg.report.plots.style import save
from detseg.train.sampler import Request

if TYPE_CHECKING:
    from rich.console import RenderableType

    from detseg.metrics.bootstrap.draws import Interval
    from detseg.metrics.figure import Figure
    from detseg.visualize.text import Image

CARDS = 6  # figures in large letters: the first ones of the task
RATES = "learning_rate.png"

_SNIPPET = """\
import detseg

model = detseg.load({run})
"""


class RunPage(ABC):
    """The drawings, the page and the table of a `detseg.train.task.Run`; a task's own class says what is its own."""

    title: ClassVar[str]
    predicts: ClassVar[str]  # what `detseg predict` does with such a model, in a sentence
    usage: ClassVar[str]  # of `model` in Python
    worst_caption: ClassVar[str]
    class_plot: ClassVar[str]  # file with the first class figure of each class
    tables: ClassVar[Any]  # the task's module of `detseg.report.tables`

    def __init__(self, run: Any) -> None:
        self.run = run
        self.folder: Path = run.folder

    # ------------------------------------------------------------------ what a task says

    @abstractmethod
    def draw_samples(self, samples: list[Any]) -> Image:
        """A sheet of training samples."""

    @abstractmethod
    def draw_worst(self) -> Image:
        """A sheet of the validation images with the worst predictions."""

    @property
    def measured(self) -> tuple[Any, ...]:
        """Metrics and, unless they hold their own, confidence intervals."""
        return (self.run.metrics,)

    @property
    def limits(self) -> tuple[float, Mapping[str, Interval]]:
        """Level of the confidence intervals, and those of the figures that have one."""
        metrics, *more = self.measured
        if not more:
            return metrics.level, metrics.intervals
        (intervals,) = more
        return (intervals.level, intervals.figures) if intervals is not None and intervals.known else (0.0, {})

    def facts(self) -> dict[str, Any]:
        """What else is to be known of the run."""
        return {}

    def class_columns(self) -> list[Column]:
        """What is known of each class."""
        columns: list[Column] = self.tables.class_columns(*self.measured)
        return columns

    def confusions(self) -> Confusions | None:
        """The confusion matrix, where the task has one."""
        confusions: Confusions = self.tables.confusions_of(self.run.metrics)
        return confusions

    def plots(self) -> dict[str, Path]:
        """Write the task's own plots; captions and paths."""
        return {}

    def more_tables(self) -> list[Table]:
        """The task's own tables on the page."""
        return []

    def card_figures(self) -> Sequence[Figure]:
        """Figures of which the first stand in large letters."""
        figures: Sequence[Figure] = self.run.metrics.shown()
        return figures

    def figures_table(self) -> Table:
        """All figures, and their ranges where they are known."""
        level, limits = self.limits
        rows = [(f.title, f.meaning, self.told(f)[: 2 if limits else 1]) for f in self.run.metrics.shown()]
        return Table("Figures", rows, note=f"Ranges: {interval_note(level)}." if limits else "")

    # ------------------------------------------------------------------ what all tasks share

    def table(self) -> RenderableType:
        """What is printed when training ends."""
        table: RenderableType = self.tables.tables(*self.measured)
        return table

    def draw_training(self) -> dict[str, Path]:
        """Write drawings of what is trained on into the run folder; returns their captions and paths."""
        if self.run.rates is not None:
            plot_rates(self.run.rates, self.folder / RATES)
        sheet = self.draw_samples(self._samples())
        return {"training samples as the network sees them": write_picture(sheet, self.folder / "samples.jpg")}

    def write(self) -> list[tuple[str, Path]]:
        """Write all other drawings and `report.html` into the run folder; returns (caption, path), the report first."""
        run = self.run
        if run.metrics is None:
            raise ValueError(f"{self.folder}: the run has no metrics to report on")
        drawings = self._drawings()
        page = Page(
            title=self.title,
            summary={
                "Backbone": run.config.backbone,
                **self.facts(),
                "Training images": len(run.train),
                "Validation images": len(run.val),
                "Input size": f"{run.config.size} px",
                "Training time": f"{run.seconds / 60:.1f} min",
            },
            pictures=[(caption, path.relative_to(self.folder)) for caption, path in drawings.items()],
            cards=[(figure.title, *self.told(figure)) for figure in self.card_figures()[:CARDS]],
            figures=self.figures_table(),
            classes=ClassTable(self._names, self.class_columns()),
            tables=self.more_tables(),
            predicts=self.predicts,
            snippet=_SNIPPET + self.usage,
        )
        return [("report", write_page(self.folder, page)), *drawings.items()]

    def told(self, figure: Figure) -> tuple[str, str]:
        """Value and range of a figure, "" where that is not known."""
        _, limits = self.limits
        told = _range(limits[figure.name]) if figure.name in limits else ""
        return number(figure.compute(self.run.metrics)), told

    @property
    def _names(self) -> list[str]:
        return [row.name for row in self.run.metrics.per_class]

    def _drawings(self) -> dict[str, Path]:
        """Write all drawings but those of training; captions and paths of all."""
        run, folder, columns, confusions = self.run, self.folder, self.class_columns(), self.confusions()
        ranked = ranked_figure(self._names, columns, self.limits[0])
        drawings = {
            self.worst_caption: write_picture(self.draw_worst(), folder / "worst.jpg"),
            **run.drawn,
            **self.plots(),
            f"{columns[0].head} of each class": save(ranked, folder / self.class_plot),
        }
        if confusions is not None:
            path = save(confusion_figure(confusions), folder / "confusion.png")
            drawings[f"confusion matrix of {confusions.unit}"] = path
        history = plot_history(folder / "metrics.csv", folder / "history.png", run.figures)
        drawings["losses, validation and learning rate"] = history
        if (folder / RATES).is_file():
            drawings["learning-rate finder"] = folder / RATES
        return drawings

    def _samples(self) -> list[Any]:
        """Some training images as the network sees them."""
        run = self.run
        samples = run.task.samples(run.train, run.config)
        order = some_of(len(run.train), run.config.seed)
        # Only detectors have these. Mosaics come first, then what is pasted on, and mixed images last, so that small
        # shares of all are seen.
        count, shares = len(order), [getattr(run.config, name, 0.0) for name in ("mosaic", "mixup", "copy_paste")]
        mosaics, mixed, pasted = (math.ceil(count * share) for share in shares)
        places = range(count)
        return [
            samples[
                Request(
                    *(0, place, i, run.config.size, place < mosaics),
                    mixup=count - place <= mixed,
                    copy_paste=(place - mosaics) % count < pasted,
                )
            ][0]
            for place, i in zip(places, order, strict=True)
        ]


def _range(interval: Interval) -> str:
    return "–" if math.isnan(interval.low) else f"{interval.low:.3f} to {interval.high:.3f}"
