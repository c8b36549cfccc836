"""The page of a detector's run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from accelerate import PartialState

from detseg.data.annotations import Annotations
from detseg.data.cache import full_images
from detseg.data.dataset import scaled_sizes
from detseg.data.measurable import measurable_masks
from detseg.metrics.bootstrap.detection import bootstrap_detection
from detseg.metrics.detection.analysis import Analysis, analyse
from detseg.metrics.detection.average_precision import of_masks
from detseg.metrics.detection.inputs import Detections
from detseg.metrics.detection.levels import OUTCOME_NOTE, OUTCOMES, TreeMetrics
from detseg.metrics.detection.reliability import outcomes, reliability
from detseg.predict import Predictor, load
from detseg.report.columns import Column, Confusions, interval_note
from detseg.report.pages.boxes import BoxPage, file_name
from detseg.report.pages.html import Table
from detseg.report.pages.mistakes import mistake_sheet, surest_mistakes
from detseg.report.pictures import SHOWN, write_picture
from detseg.report.plots.anchors import anchors_figure
from detseg.report.plots.precision_recall import precision_recall_figure
from detseg.report.plots.reliability import reliability_figure
from detseg.report.plots.style import save
from detseg.report.tables import detection
from detseg.visualize import worst_images
from detseg.visualize.compare import Objects

if TYPE_CHECKING:
    from detseg.data.annotations import Annotations
    from detseg.metrics.bootstrap.draws import Interval
    from detseg.metrics.figure import Figure


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

    @cached_property
    def objects(self) -> Annotations:
        """See `BoxPage`; as they were measured by: of a tree at its leaves, with masks where these were measured."""
        metrics = self.run.metrics
        if isinstance(metrics, TreeMetrics):
            return metrics.truth
        return super().objects if metrics.masks is None else measurable_masks(super().objects)

    @cached_property
    def analysis(self) -> Analysis:
        """What the metrics do not say by themselves: confidence intervals, errors, thresholds, confusions.

        Of the masks, where the model finds some.
        """
        ids = [category.id for category in self.objects.categories]
        found = Detections.from_predictions(self.run.predictions, self.objects.image_ids.tolist(), ids)
        metrics = self.run.metrics
        if metrics.masks is None:
            return analyse(self.objects, found, metrics=metrics)
        return analyse(self.objects, found, "segm", metrics=metrics.masks)

    @cached_property
    def measured(self) -> tuple[Any, ...]:
        """Metrics and confidence intervals: of boxes and, where they were measured, of masks."""
        metrics = self.run.metrics
        if metrics.masks is None:
            return metrics, self.analysis.intervals
        return metrics, bootstrap_detection(metrics.matches), self.analysis.intervals

    @property
    def limits(self) -> tuple[float, Mapping[str, Interval]]:
        """Level of the confidence intervals, and those of the figures that have one."""
        if self.run.metrics.masks is None:
            return super().limits
        boxes, masks = (side.figures if side.known else {} for side in self.measured[1:])
        return self.measured[1].level, {**boxes, **{f"mask_{name}": interval for name, interval in masks.items()}}

    def card_figures(self) -> Sequence[Figure]:
        """The figures; of masks and boxes in turn, where there are both."""
        metrics = self.run.metrics
        if metrics.masks is None:
            return super().card_figures()
        return [
            figure
            for own in metrics.masks.shown()
            for figure in (of_masks(own), own._replace(title=f"box {own.title}"))
        ]

    def figures_table(self) -> Table:
        """All figures with their ranges, those of boxes and masks beside each other."""
        if self.run.metrics.masks is None:
            return super().figures_table()
        level, limits = self.limits
        heads = ("", "Boxes", "Range", "Masks", "Range") if limits else ("", "Boxes", "Masks")
        rows = []
        for figure in self.run.metrics.masks.shown():
            cells = [self.told(side)[: 2 if limits else 1] for side in (figure, of_masks(figure))]
            rows.append((figure.title, figure.meaning, [*cells[0], *cells[1]]))
        return Table("Figures", rows, heads, note=f"Ranges: {interval_note(level)}." if limits else "")

    def draw_training(self) -> dict[str, Path]:
        """Training samples and, of a model that has some, the anchors among the box sizes."""
        drawn = super().draw_training()
        if "anchors" in self.run.options:
            sizes = scaled_sizes(self.run.train.annotations, self.run.config.size)
            anchors = np.reshape(self.run.options["anchors"], (-1, 2))
            drawn["anchors among the box sizes"] = save(anchors_figure(sizes, anchors), self.folder / "anchors.png")
        return drawn

    def truth(self, index: int) -> Objects:
        """The objects of a validation image, with their masks where masks were measured."""
        if self.run.metrics.masks is None:
            return super().truth(index)
        mine, (width, height) = self.objects.objects(index), self.objects.sizes[index].tolist()
        assert self.objects.segments is not None
        rows = range(*mine.indices(len(self.objects.ids)))
        masks = [self.objects.segments.rle(row, height, width) for row in rows]
        return {**super().truth(index), "iscrowd": self.objects.iscrowd[mine], "masks": masks}

    def worst(self, truths: Sequence[Objects]) -> Sequence[int]:
        """Those with the lowest F1, by masks where there are some."""
        return worst_images(truths, self.run.predictions, SHOWN)

    @cached_property
    def predictor(self) -> Predictor:
        """The best model."""
        return load(self.folder).to(PartialState().device)

    def mistakes(self) -> dict[str, Path]:
        """Heat over some of the worst images: what their surest wrong detections rest on.

        Not with a tree, where a detection at an inner node is not wrong because the object has a class below it.
        """
        if isinstance(self.run.metrics, TreeMetrics):
            return {}
        data, (worst, truths) = self.run.val.annotations, self.shown_worst
        places = surest_mistakes(truths, [self.run.predictions[i] for i in worst])
        if not places:
            return {}
        chosen = [worst[place] for place in places]
        files = [file_name(data, i) for i in chosen]
        images = full_images(data, chosen)
        sheet = mistake_sheet(self.predictor, images, [truths[place] for place in places], files)
        caption = "what the surest mistakes in the worst images rest on: heat where the network looked"
        return {} if sheet is None else {caption: write_picture(sheet, self.folder / "mistakes.jpg")}

    def class_columns(self) -> list[Column]:
        """AP, best threshold and counts."""
        metrics, intervals, *mask_intervals = self.measured
        return detection.class_columns(metrics, intervals, self.analysis.thresholds, *mask_intervals)

    def confusions(self) -> Confusions:
        """Which class was detected as which."""
        return detection.confusions_of(self.analysis.confusion)

    def plots(self) -> dict[str, Path]:
        """What wrong detections rest on; precision and recall: of boxes and, where they were measured, of masks;
        reliability of the boxes' scores."""
        mistakes = self.mistakes()
        path, masks = self.folder / "precision_recall.png", self.run.metrics.masks
        boxes = save(precision_recall_figure(self.run.metrics), path)
        found = reliability(*outcomes(self.run.metrics.matches))
        scores = {"reliability of scores": save(reliability_figure(found), path.with_name("reliability.png"))}
        if masks is None:
            return mistakes | {"precision and recall": boxes} | scores
        drawn = save(precision_recall_figure(masks), path.with_name("mask_precision_recall.png"))
        return mistakes | {"precision and recall of masks": drawn, "precision and recall of boxes": boxes} | scores

    def more_tables(self) -> list[Table]:
        """What the errors cost: the costliest kinds first, the totals last."""
        rows = [(name, meaning, cells) for name, meaning, *cells in detection.error_rows(self.analysis.errors)]
        kinds = sorted(rows[:-2], key=lambda row: row[2][0], reverse=True)
        figure = "AP50" if self.run.metrics.masks is None else "mask AP50"
        note = f"Gain in {figure} if the errors of one kind, and no others, were corrected."
        tables = [Table("What the errors cost", [*kinds, *rows[-2:]], ("Error", "Gain", "Number"), note)]
        metrics = self.run.metrics
        if isinstance(metrics, TreeMetrics):
            outcomes = [(name, "", cells) for name, cells in detection.outcome_rows(metrics.outcomes)]
            heads = ("Labelled", *(meaning.capitalize() for meaning in OUTCOMES.values()), "Objects")
            note = f"Percent of the objects, {OUTCOME_NOTE}."
            tables.append(Table("What objects come out as", outcomes, heads, note))
        return tables
