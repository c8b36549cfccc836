"""The pictures and the report of a segmenter's run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from accelerate import PartialState

from detseg.data.cache import full_images
from detseg.metrics.bootstrap.segmentation import bootstrap_segmentation
from detseg.predict import Segmenter, load
from detseg.report.pages.segmenter_page import write_segmenter_report
from detseg.report.pictures import SHOWN, rate_curve, some_of, write_picture
from detseg.report.plots.detection import plot_history
from detseg.report.plots.segmentation import plot_class_iou, plot_pixel_confusion
from detseg.train.sampler import Request, TrainingSamples
from detseg.train.tasks.segmenter import AUGMENTATION
from detseg.visualize import mask_sheet

if TYPE_CHECKING:
    from detseg.train.tasks.segmenter import SegmenterRun


def draw_training(run: SegmenterRun) -> dict[str, Path]:
    """Write pictures of what is trained on into the run folder; returns their captions and paths."""
    return {"training samples as the network sees them": _samples(run)}


def write_pictures(run: SegmenterRun) -> list[tuple[str, Path]]:
    """Write all other pictures and `report.html` into the run folder; returns (caption, path), the report first."""
    if run.metrics is None:
        raise ValueError(f"{run.folder}: the run has no metrics to report on")
    intervals = bootstrap_segmentation(run.metrics)
    pictures = {
        "picture, truth and prediction, the lowest IoU first": _worst(run),
        **run.drawn,
        "IoU of each class, and how sure it is": plot_class_iou(run.metrics, intervals, run.folder / "class_iou.png"),
        "which class was taken for which": plot_pixel_confusion(run.metrics, run.folder / "confusion.png"),
        "losses and IoU": plot_history(run.folder / "metrics.csv", run.folder / "history.png"),
        **rate_curve(run.folder),
    }
    report = write_segmenter_report(
        run.folder,
        title="Segmenter",
        summary={
            "Backbone": run.config.backbone,
            "Decoder": f"{run.config.decoder}, strides {' '.join(map(str, run.config.used_strides))}",
            "Training pictures": len(run.train),
            "Validation pictures": len(run.val),
            "Input size": f"{run.config.size} px",
            "Training time": f"{run.seconds / 60:.1f} min",
        },
        metrics=run.metrics,
        intervals=intervals,
        pictures=[(caption, path.relative_to(run.folder)) for caption, path in pictures.items()],
    )
    return [("report", report), *pictures.items()]


def _worst(run: SegmenterRun) -> Path:
    """The validation pictures with the lowest IoU, in full size and looked at again."""
    counts, data = run.metrics.images, run.val.annotations
    worst = counts.worst(SHOWN)
    place = {int(image_id): i for i, image_id in enumerate(data.image_ids)}
    chosen = [place[int(image_id)] for image_id in counts.image_ids[worst]]
    segmenter = load(run.folder).to(PartialState().device)
    assert isinstance(segmenter, Segmenter)
    images = list(full_images(data, chosen))
    seen = segmenter.stream(images)
    pictures = ((image, data.mask(i), s.mask) for image, i, s in zip(images, chosen, seen, strict=True))
    captions = [
        f"{Path(str(data.paths[i])).name}: mIoU {miou:.3f}" for i, miou in zip(chosen, counts.miou[worst], strict=True)
    ]
    remark = "picture, truth, prediction"
    sheet = mask_sheet(pictures, data.names, captions=captions, remark=remark, bare=True)
    return write_picture(sheet, run.folder / "worst.jpg")


def _samples(run: SegmenterRun) -> Path:
    """Augmented training pictures with their masks."""
    samples = TrainingSamples(run.train, run.config.seed, AUGMENTATION)
    order = enumerate(some_of(len(run.train), run.config.seed))
    plan = (Request(0, position, i, run.config.size, False) for position, i in order)
    shown = ((sample.image, np.asarray(sample.mask)) for sample, _ in map(samples.__getitem__, plan))
    sheet = mask_sheet(shown, run.train.annotations.names, columns=4, tile=320)
    return write_picture(sheet, run.folder / "samples.jpg")
