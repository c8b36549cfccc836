"""Train a localizer: from boxes, one object an image, to a run folder with the best model in it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.console import Console
from torch import nn

from detseg.data.annotations import Annotations
from detseg.data.augment.transforms import TrainTransform
from detseg.data.dataset import DetectionDataset, collate
from detseg.metrics.localization import LocalizationMetrics, evaluate_localization
from detseg.train.config import TrainLocalizer
from detseg.train.data import load_data, open_images, print_data
from detseg.train.runner import Session, session, tell
from detseg.train.sampler import TrainingSamples
from detseg.train.task import Run
from detseg.train.tasks.detector import CACHE_ZOOM, predict_dataset

log = logging.getLogger(__name__)


@dataclass
class LocalizerRun(Run[TrainLocalizer]):
    """A localizer's run.

    Attributes:
        objects: (N,) row of the validation annotations' object that counts in each image; -1 without one.
        metrics: `LocalizationMetrics` of the best model: boxes and classes of the validation images with an object,
            objectness of these and those without.
        predictions: of the best model, one dict a validation image, boxes in the images' own pixels.
    """

    FIGURES: ClassVar[Mapping[str, str]] = {"mean_iou": "mean IoU", "accuracy": "accuracy"}

    objects: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def draw(self) -> dict[str, Path]:
        """Training samples."""
        from detseg.report.pages.localizer import draw_training

        return draw_training(self)

    def judge(self, model: nn.Module, indices: Sequence[int]) -> Any:
        """Classes and boxes in some of the validation images."""
        return list(indices), predict_dataset(model, self.val, indices, self.config.size)

    def combine(self, shares: Sequence[Any]) -> tuple[LocalizationMetrics, list[dict[str, np.ndarray]]]:
        """Metrics of all images, and what was found in their order."""
        found = {index: image for indices, share in shares for index, image in zip(indices, share, strict=True)}
        ordered = [found[i] for i in range(len(self.val))]
        return judge_localizations(self.val.annotations, self.objects, ordered), ordered

    def figures(self, metrics: LocalizationMetrics) -> dict[str, float]:
        """Those of `FIGURES`."""
        return {name: float(getattr(metrics, name)) for name in self.FIGURES}


class ObjectnessRun(LocalizerRun):
    """The run of a localizer with objectness: the best model has the highest mean of mean IoU and objectness."""

    FIGURES: ClassVar[Mapping[str, str]] = {
        "quality": "quality",
        **LocalizerRun.FIGURES,
        "objectness": "objectness",
    }


def train_localizer(config: TrainLocalizer, console: Console | None = None) -> LocalizerRun:
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


def _train(sitting: Session[TrainLocalizer]) -> LocalizerRun:
    config, console = sitting.config, sitting.console
    train_data, val_data = (chosen_images(data, config, console) for data in load_data(config, console))
    print_data(console, train_data, val_data)
    kind = _kind_of_run(config, train_data, val_data)
    architecture = _architecture(config, len(train_data.categories))
    model, freeze = sitting.build(architecture, len(train_data))
    train = open_images(DetectionDataset, train_data, round(config.size * CACHE_ZOOM), "training images", console)
    val = open_images(DetectionDataset, val_data, config.size, "validation images", console)
    folder = sitting.open_folder()
    choice = sitting.choose_precision(architecture, freeze)
    run = kind(folder, config, train, val, sitting.accelerator.is_main_process, objects=largest_of_images(val_data))
    sitting.fit(
        run,
        model,
        architecture,
        freeze=freeze,
        choice=choice,
        samples=training_samples(train, config),
        collate=collate,
    )
    return run


def training_samples(dataset: DetectionDataset, config: TrainLocalizer) -> TrainingSamples:
    """Images as they are trained on."""
    return TrainingSamples(dataset, config.seed, partial(TrainTransform, scale=config.zoom))


def _architecture(config: TrainLocalizer, classes: int) -> dict[str, Any]:
    """What `build_model` needs."""
    return {
        "kind": "localizer",
        "backbone": config.backbone,
        "folded": config.weights != "none",
        "num_classes": classes,
        "objectness": config.objectness,
        "loss": config.loss,
        "square_root": config.square_root,
        "loss_weights": list(config.loss_weights),
        "size": config.size,
    }


def chosen_images(data: Annotations, config: TrainLocalizer, console: Console) -> Annotations:
    """The images that have the object that the settings ask for; with objectness also those that have none.

    Raises:
        ValueError: no image has such an object.
    """
    counts = np.bincount(data.image_index[~data.iscrowd], minlength=len(data))
    rule = "exactly one object" if config.objects == "single" else "an object"
    fits = counts == 1 if config.objects == "single" else counts > 0
    if not fits.any():
        raise ValueError(f"{data.source}: there is no image with {rule}")
    keep = fits | ((counts == 0) & config.objectness)
    if not keep.all():
        rule += " or none" if config.objectness else ""
        tell(console, f"{data.source}: {int((~keep).sum())} images without {rule} are left out")
    return data if keep.all() else data.subset(keep)


def _kind_of_run(config: TrainLocalizer, train: Annotations, val: Annotations) -> type[LocalizerRun]:
    """How the model is to be judged; warns where there are no images without an object to learn or judge by."""
    if not config.objectness:
        return LocalizerRun
    if not without_objects(train).any():
        log.warning(
            "%s: there is an object in every image, so --objectness learns nothing but to say yes; add images "
            "without objects, or cut windows with and without them by detseg windows",
            train.source,
        )
    if not without_objects(val).any():
        log.warning(
            "%s: there is an object in every image, so objectness cannot be judged, and the best model is the one "
            "with the highest mean IoU; add images without objects",
            val.source,
        )
        return LocalizerRun
    return ObjectnessRun


def without_objects(data: Annotations) -> np.ndarray:
    """(N,) bool, whether there is nothing in each image, no crowd either: where one is, objects may be."""
    return np.bincount(data.image_index, minlength=len(data)) == 0


def largest_of_images(data: Annotations) -> np.ndarray:
    """(N,) row of the largest object that is no crowd in each image, the first of equals; -1 without one."""
    sides = np.clip(data.boxes[:, 2:] - data.boxes[:, :2], 0, None)
    area = np.where(data.iscrowd, -1.0, sides.prod(1))
    rows = np.full(len(data), -1, np.int64)
    # Written from small to large, the last in each image stays.
    order = np.lexsort((-np.arange(len(area)), area))
    order = order[~data.iscrowd[order]]
    rows[data.image_index[order]] = order
    return rows


def judge_localizations(
    data: Annotations,
    objects: np.ndarray,
    predictions: Sequence[Mapping[str, np.ndarray]],
    *,
    resamples: int = 1000,
) -> LocalizationMetrics:
    """Metrics of one prediction for each image; those without an object (-1) only tell of objectness.

    `resamples` are for the intervals; 0 leaves them out.
    """
    there = np.flatnonzero(objects >= 0).tolist()
    boxes = np.array([predictions[i]["boxes"][0] for i in there], np.float64).reshape(-1, 4)
    labels = np.array([predictions[i]["labels"][0] for i in there], np.int64)
    rows = objects[there]
    scores = np.array([found["scores"][0] for found in predictions], np.float64)
    return evaluate_localization(
        boxes,
        labels,
        data.boxes[rows],
        data.labels[rows],
        data.names,
        scores=scores[there],
        scores_without=scores[without_objects(data)],
        resamples=resamples,
    )
