"""The pictures and the report of a detector's run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detseg.data.cache import full_images
from detseg.data.dataset import scaled_sizes
from detseg.metrics.detection.analysis import Analysis, analyse
from detseg.metrics.detection.inputs import Detections
from detseg.report.pages.detector_page import write_report
from detseg.report.pictures import SHOWN, rate_curve, some_of, write_picture
from detseg.report.plots.detection import (
    plot_anchors,
    plot_class_ap,
    plot_confusion,
    plot_history,
    plot_precision_recall,
)
from detseg.train.sampler import Request, TrainingSamples
from detseg.visualize import compare_sheet, contact_sheet, draw_boxes, worst_pictures

if TYPE_CHECKING:
    from detseg.train.tasks.detector import DetectorRun


def draw_training(run: DetectorRun) -> dict[str, Path]:
    """Write pictures of what is trained on into the run folder; returns their captions and paths."""
    sizes = scaled_sizes(run.train.annotations, run.config.size)
    return {
        "training samples as the network sees them": _samples(run),
        "anchors among the box sizes": plot_anchors(sizes, run.anchors, run.folder / "anchors.png"),
    }


def write_pictures(run: DetectorRun, analysis: Analysis | None = None) -> list[tuple[str, Path]]:
    """Write all other pictures and `report.html` into the run folder; returns (caption, path), the report first.

    Args:
        run: with metrics and predictions.
        analysis: of the run, where there is one already; see `analysis_of`.
    """
    if run.metrics is None or run.predictions is None:
        raise ValueError(f"{run.folder}: the run has no metrics to report on")
    analysis = analysis_of(run) if analysis is None else analysis
    pictures = {
        "ground truth beside predictions, the worst pictures first": _worst(run),
        **run.drawn,
        "precision and recall": plot_precision_recall(run.metrics, run.folder / "precision_recall.png"),
        "AP of each class, and how sure it is": plot_class_ap(
            run.metrics, analysis.intervals, run.folder / "class_ap.png"
        ),
        "which class was taken for which": plot_confusion(analysis.confusion, run.folder / "confusion.png"),
        "losses and mAP": plot_history(run.folder / "metrics.csv", run.folder / "history.png"),
        **rate_curve(run.folder),
    }
    report = write_report(
        run.folder,
        title="Detector",
        summary={
            "Backbone": run.config.backbone,
            "Training pictures": len(run.train),
            "Validation pictures": len(run.val),
            "Input size": f"{run.config.size} px",
            "Training time": f"{run.seconds / 60:.1f} min",
        },
        metrics=run.metrics,
        pictures=[(caption, path.relative_to(run.folder)) for caption, path in pictures.items()],
        analysis=analysis,
    )
    return [("report", report), *pictures.items()]


def analysis_of(run: DetectorRun) -> Analysis:
    """What the metrics do not tell by themselves: how sure they are, and what is wrong."""
    assert run.predictions is not None
    data = run.val.annotations
    ids = [category.id for category in data.categories]
    found = Detections.from_predictions(run.predictions, data.image_ids.tolist(), ids)
    return analyse(data, found, metrics=run.metrics)


def _worst(run: DetectorRun) -> Path:
    """The validation pictures with the worst predictions, in full size."""
    assert run.predictions is not None
    data = run.val.annotations
    truths = [
        {"boxes": data.boxes[s], "labels": data.labels[s], "iscrowd": data.iscrowd[s]}
        for s in (data.objects(i) for i in range(len(data)))
    ]
    chosen = worst_pictures(truths, run.predictions, SHOWN)
    sheet = compare_sheet(
        list(full_images(data, chosen)),
        [truths[i] for i in chosen],
        [run.predictions[i] for i in chosen],
        data.names,
        captions=[Path(str(data.paths[i])).name for i in chosen],
    )
    return write_picture(sheet, run.folder / "worst.jpg")


def _samples(run: DetectorRun) -> Path:
    """Augmented training pictures with their boxes."""
    samples = TrainingSamples(run.train, run.config.seed)
    order = some_of(len(run.train), run.config.seed)
    size, count = run.config.size, len(order)
    mosaics, mixed = run.config.mosaic * count, run.config.mixup * count
    shown = []
    for position, i in enumerate(order):
        # Mosaics come first and mixed pictures last, so that small shares of both are seen apart.
        sample, _ = samples[Request(0, position, i, size, position < mosaics, count - position <= mixed)]
        shown.append(
            draw_boxes(sample.image, sample.boxes, sample.labels, run.train.annotations.names, iscrowd=sample.iscrowd)
        )
    return write_picture(contact_sheet(shown, 4), run.folder / "samples.jpg")
