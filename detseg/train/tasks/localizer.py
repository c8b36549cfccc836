"""The localizer's task: the class and the box of the one object in each image."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from rich.console import Console

from detseg.console import print_line
from detseg.data.annotations import Annotations
from detseg.data.dataset import DetectionDataset
from detseg.metrics.localization import FIGURES, OF_PRESENCE, LocalizationEvaluator
from detseg.train.config import TrainAnnotated
from detseg.train.data import load_data, print_data, transform_of
from detseg.train.sampler import TrainingSamples
from detseg.train.tasks.detector import BoxTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LocalizerOptions(TrainAnnotated):
    """Train a localizer: the class and box of the one object in each image.

    Data: as for `detseg train detector`. Of several objects in an image the largest counts.

    Train for 30 minutes; use only images with exactly one object:

        detseg train localizer --data flowers/ --minutes 30
        detseg train localizer --data flowers/ --objects single

    Also predict whether there is an object, to slide over images later:

        detseg windows --data flowers/ --output windows
        detseg train localizer --data windows --objectness --size 128 --zoom 1 1
    """

    task: ClassVar[str] = "localizer"

    model: str = "localizer"
    """Localizer, by name; each adds options of its own: detseg train localizer --model NAME --help."""
    size: int = 224
    """Input size: side of the square that images are fitted into, in pixels; a multiple of 32."""
    batch_size: int = 16
    """Images per batch, per process."""
    objects: Literal["largest", "single"] = "largest"
    """Use the largest object of each image, or only images with a single object (or none, with --objectness)."""
    multi_scale: bool = False
    """Multi-scale training: also train at smaller input sizes."""
    zoom: tuple[float, float] = (0.6, 1.4)
    """Smallest and largest random zoom; use 1 1 for windows cut by `detseg windows`."""

    def check(self) -> Self:
        """Raise ValueError where options contradict each other or make no sense; returns itself."""
        super().check()
        low, high = self.zoom
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"--zoom is the smallest and the largest factor, both positive, not {low} {high}")
        return self


class LocalizerTask(BoxTask):
    """Localizers: COCO boxes in, mean IoU and accuracy out."""

    name: ClassVar[str] = "localizer"
    Options = LocalizerOptions
    FIGURES = FIGURES

    _with_objectness = False

    @property
    def headline(self) -> Sequence[str]:
        """With objectness that can be measured, the mean of mean IoU and objectness decides."""
        located = ("mean_iou", "accuracy")
        return ("quality", *located, "objectness") if self._with_objectness else located

    def load(self) -> tuple[Annotations, Annotations]:
        """Training and validation annotations of the images with the object that counts."""
        train, val = (chosen_images(data, self.config, self.console) for data in load_data(self.config, self.console))
        print_data(self.console, train, val)
        self._with_objectness = self.config.objectness and can_measure_objectness(train, val)
        if not self._with_objectness:
            self.FIGURES = [figure for figure in FIGURES if figure.name not in OF_PRESENCE]
        return train, val

    def samples(self, dataset: DetectionDataset, config: Any) -> TrainingSamples:
        """Augmented images."""
        return TrainingSamples(dataset, config.seed, transform_of(config, scale=config.zoom))

    def evaluator(self, dataset: DetectionDataset) -> LocalizationEvaluator:
        """Metrics of one object an image."""
        return LocalizationEvaluator(dataset.annotations.names)

    def target(self, dataset: DetectionDataset, index: int) -> dict[str, np.ndarray]:
        """The image's objects."""
        return objects_of(dataset.annotations, index)


def chosen_images(data: Annotations, config: Any, console: Console) -> Annotations:
    """The images that have the object that the options ask for; with objectness also those that have none.

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
        print_line(console, f"{data.source}: {int((~keep).sum())} images without {rule} are left out")
    return data if keep.all() else data.subset(keep)


def can_measure_objectness(train: Annotations, val: Annotations) -> bool:
    """Whether validation images tell it; warns where there are no images without an object to learn or measure by."""
    if not without_objects(train).any():
        logger.warning(
            "%s: there is an object in every image, so --objectness learns nothing but to say yes; add images "
            "without objects, or cut windows with and without them by detseg windows",
            train.source,
        )
    if not without_objects(val).any():
        logger.warning(
            "%s: there is an object in every image, so objectness cannot be measured, and the best model is the one "
            "with the highest mean IoU; add images without objects",
            val.source,
        )
        return False
    return True


def without_objects(data: Annotations) -> np.ndarray:
    """(N,) bool, whether there is nothing in each image, no crowd either: where one is, objects may be."""
    return np.bincount(data.image_index, minlength=len(data)) == 0


def objects_of(data: Annotations, index: int) -> dict[str, np.ndarray]:
    """The objects of an image as the evaluator takes them: boxes, labels, iscrowd."""
    mine = data.objects(index)
    return {"boxes": data.boxes[mine], "labels": data.labels[mine], "iscrowd": data.iscrowd[mine]}
