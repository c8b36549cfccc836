"""Train a detector: from annotation files to a run folder with the best model in it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.console import Console
from torch import nn

from detseg.data.annotations import Annotations
from detseg.data.dataset import DetectionDataset, collate, scaled_sizes
from detseg.detect.anchors import fit_anchors, fit_of
from detseg.metrics import DetectionMetrics, Detections, evaluate_detections
from detseg.predict import detect
from detseg.train.config import TrainDetector
from detseg.train.data import load_data, open_images, print_data
from detseg.train.runner import Session, session, tell
from detseg.train.sampler import TrainingSamples
from detseg.train.task import Run

log = logging.getLogger(__name__)

# Objects with a shorter side, pixels at the training size, leave too little on the finest grid to be told by.
LEAST_SIDE = 4
# Cached images are this much larger than the training size, so that zooming in finds detail.
CACHE_ZOOM = 1.25


@dataclass
class DetectorRun(Run[TrainDetector]):
    """A detector's run.

    Attributes:
        anchors: (A, 2) widths and heights, pixels at the training size.
        metrics: `DetectionMetrics` of the best model on the validation images.
        predictions: of the best model, one dict a validation image, boxes in the images' own pixels.
    """

    FIGURES: ClassVar[Mapping[str, str]] = {"map": "mAP@[.5:.95]", "map50": "mAP@.50"}

    anchors: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    def draw(self) -> dict[str, Path]:
        """Training samples and anchors."""
        from detseg.report.pages.detector import draw_training

        return draw_training(self)

    def judge(self, model: nn.Module, indices: Sequence[int]) -> Any:
        """Detections in some of the validation images."""
        return list(indices), predict_dataset(model, self.val, indices, self.config.size)

    def combine(self, shares: Sequence[Any]) -> tuple[DetectionMetrics, list[dict[str, np.ndarray]]]:
        """Metrics of all detections, and the detections in the order of the images."""
        found = {index: image for indices, share in shares for index, image in zip(indices, share, strict=True)}
        ordered = [found[i] for i in range(len(self.val))]
        return score(self.val, ordered), ordered

    def figures(self, metrics: DetectionMetrics) -> dict[str, float]:
        """mAP, and mAP at IoU 0.50; 0 where there are no objects to judge by."""
        return {"map": float(np.nan_to_num(metrics.map)), "map50": float(np.nan_to_num(metrics.map50))}


def train_detector(config: TrainDetector, console: Console | None = None) -> DetectorRun:
    """Train as `config` says.

    Args:
        config: the settings.
        console: where progress is shown; none is shown without.

    Raises:
        ValueError: wrong settings or data; the message names file, item and remedy.
        TrainingError: a loss is not finite, or the backbone's weights cannot be had.
    """
    with session(config, console) as sitting:
        return _train(sitting)


def _train(sitting: Session[TrainDetector]) -> DetectorRun:
    config, console = sitting.config, sitting.console
    train_data, val_data = load_data(config, console)
    if val_data.iscrowd.all():
        raise ValueError(
            f"{val_data.source}: there are no objects to judge a model by in {len(val_data)} images; validate on "
            "images with objects"
        )
    print_data(console, train_data, val_data)
    architecture = _architecture(config, train_data, console)
    model, freeze = sitting.build(architecture, len(train_data))
    train = open_images(DetectionDataset, train_data, round(config.size * CACHE_ZOOM), "training images", console)
    val = open_images(DetectionDataset, val_data, config.size, "validation images", console)
    folder = sitting.open_folder()
    choice = sitting.choose_precision(architecture, freeze)
    anchors = model.anchors.reshape(-1, 2).numpy().copy()
    run = DetectorRun(folder, config, train, val, sitting.accelerator.is_main_process, anchors=anchors)
    sitting.fit(
        run,
        model,
        architecture,
        freeze=freeze,
        choice=choice,
        samples=TrainingSamples(train, config.seed),
        collate=collate,
        mosaic=config.mosaic,
        mixup=config.mixup,
    )
    return run


def _architecture(config: TrainDetector, data: Annotations, console: Console) -> dict[str, Any]:
    """What `build_model` needs, with anchors fitted to the data."""
    sizes = scaled_sizes(data, config.size)
    anchors = fit_anchors(sizes, len(config.strides), config.anchors, seed=config.seed)
    fit = fit_of(sizes, anchors.reshape(-1, 2))
    tell(console, f"anchors: mean best IoU {fit.mean_iou:.3f}, {fit.best_recall:.1%} of objects above 0.5")
    warn_of_specks(sizes, config.size)
    return {
        "kind": "yolo",
        "backbone": config.backbone,
        "strides": list(config.strides),
        # Pretrained statistics are kept: batches are too small, and images too few, for better ones.
        "folded": config.weights != "none",
        "num_classes": len(data.categories),
        "anchors": anchors.round(2).tolist(),
        "reach": config.reach,
    }


def warn_of_specks(sizes: np.ndarray, size: int) -> None:
    """Tell how many of the objects, (M, 2) widths and heights at `--size`, are too small there to be learnt."""
    sides = sizes.min(1)
    specks = sides[sides < LEAST_SIDE]
    if not len(specks):
        return
    wanted = size * LEAST_SIDE / max(float(np.quantile(specks, 0.1)), 1e-3)
    log.warning(
        "%d of %d objects (%.1f %%) are less than %d px wide or high at --size %d, too little to be learnt or found; "
        "--size %d would give nine in ten of them that much",
        *(len(specks), len(sides), 100 * len(specks) / len(sides), LEAST_SIDE, size, 32 * math.ceil(wanted / 32)),
    )


def predict_dataset(
    model: nn.Module, data: DetectionDataset, indices: Iterable[int], size: int
) -> list[dict[str, np.ndarray]]:
    """Detections of some images of a dataset, boxes in the images' own pixels."""
    images = ((data.images[i], (int(data.annotations.sizes[i, 0]), int(data.annotations.sizes[i, 1]))) for i in indices)
    return [{k: v.numpy() for k, v in found.items()} for found in detect(model, images, size)]


def score(data: DetectionDataset, predictions: list[dict[str, np.ndarray]]) -> DetectionMetrics:
    """COCO metrics of one prediction for each image of a dataset."""
    annotations = data.annotations
    ids = [category.id for category in annotations.categories]
    return evaluate_detections(
        annotations, Detections.from_predictions(predictions, annotations.image_ids.tolist(), ids)
    )
