"""The page of a detector's run."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from detseg.data.annotations import Annotations
from detseg.data.dataset import scaled_sizes
from detseg.metrics.detection.analysis import Analysis, analyse
from detseg.metrics.detection.inputs import Detections
from detseg.metrics.detection.levels import OUTCOME_NOTE, OUTCOMES, TreeMetrics
from detseg.report.columns import Column, Confusions
from detseg.report.pages.boxes import BoxPage
from detseg.report.pages.html import Table
from detseg.report.pictures import SHOWN
from detseg.report.plots.anchors import anchors_figure
from detseg.report.plots.precision_recall import precision_recall_figure
from detseg.report.plots.style import save
from detseg.report.tables import detection
from detseg.visualize import worst_images
from detseg.visualize.compare import Objects


class DetectorPage(BoxPage):
    """Truth beside predictions, curves, errors and best thresholds of a detector."""

    title = "Detector"
    predicts = "draws the detections and writes them as COCO results"
    usage = """\
(found,) = model.predict(["image.jpg"])
print(found["boxes"], found["scores"], found["labels"])  # xyxy in the image's pixels, best first
"""
    worst_caption = "ground truth beside predictions, the worst images first"
    class_plot = "class_ap.png"
    tables: ClassVar[Any] = detection

    def facts(self) -> dict[str, Any]:
        """The tree of classes and the images of which only the class is known, where there are some."""
        facts: dict[str, Any] = {}
        metrics, labelled = self.run.metrics, getattr(self.run.train, "labelled", None)
        if isinstance(metrics, TreeMetrics):
            facts["Tree of classes"] = f"{len(metrics.per_class)} nodes on {len(metrics.levels)} levels"
        if labelled is not None:
            facts["Images with a class only"] = len(labelled)
        return facts

    @property
    def objects(self) -> Annotations:
        """See `BoxPage`; of a model with a tree as they count at its leaves."""
        metrics = self.run.metrics
        return metrics.truth if isinstance(metrics, TreeMetrics) else super().objects

    @cached_property
    def analysis(self) -> Analysis:
        """What the metrics do not say by themselves: confidence intervals, errors, thresholds, confusions."""
        data = self.objects
        ids = [category.id for category in data.categories]
        found = Detections.from_predictions(self.run.predictions, data.image_ids.tolist(), ids)
        return analyse(data, found, metrics=self.run.metrics)

    @property
    def measured(self) -> tuple[Any, ...]:
        """Metrics and confidence intervals."""
        return self.run.metrics, self.analysis.intervals

    def draw_training(self) -> dict[str, Path]:
        """Training samples and, of a model that has some, the anchors among the box sizes."""
        drawn = super().draw_training()
        if "anchors" in self.run.options:
            sizes = scaled_sizes(self.run.train.annotations, self.run.config.size)
            anchors = np.reshape(self.run.options["anchors"], (-1, 2))
            drawn["anchors among the box sizes"] = save(anchors_figure(sizes, anchors), self.folder / "anchors.png")
        return drawn

    def worst(self, truths: Sequence[Objects]) -> Sequence[int]:
        """Those with the lowest F1."""
        return worst_images(truths, self.run.predictions, SHOWN)

    def class_columns(self) -> list[Column]:
        """AP, best threshold and counts."""
        return detection.class_columns(self.run.metrics, self.analysis.intervals, self.analysis.thresholds)

    def confusions(self) -> Confusions:
        """Which class was detected as which."""
        return detection.confusions_of(self.analysis.confusion)

    def plots(self) -> dict[str, Path]:
        """Precision and recall."""
        curves = precision_recall_figure(self.run.metrics)
        return {"precision and recall": save(curves, self.folder / "precision_recall.png")}

    def more_tables(self) -> list[Table]:
        """What the errors cost: the costliest kinds first, the totals last."""
        rows = [(name, meaning, cells) for name, meaning, *cells in detection.error_rows(self.analysis.errors)]
        kinds = sorted(rows[:-2], key=lambda row: row[2][0], reverse=True)
        note = "Gain in AP50 if the errors of one kind, and no others, were corrected."
        tables = [Table("What the errors cost", [*kinds, *rows[-2:]], ("Error", "Gain", "Number"), note)]
        metrics = self.run.metrics
        if isinstance(metrics, TreeMetrics):
            outcomes = [(name, "", cells) for name, cells in detection.outcome_rows(metrics.outcomes)]
            heads = ("Labelled", *(meaning.capitalize() for meaning in OUTCOMES.values()), "Objects")
            note = f"Percent of the objects, {OUTCOME_NOTE}."
            tables.append(Table("What objects come out as", outcomes, heads, note))
        return tables
