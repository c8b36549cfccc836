"""The segmenter's task: the class of every pixel."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detseg.console import print_line
from detseg.data.augment.strengths import OF_MASKS
from detseg.data.base import match_categories
from detseg.data.checks.learnable import require_learnable
from detseg.data.checks.summary import objects_summary
from detseg.data.checks.validate import checked
from detseg.data.dataset import SegmentationDataset, collate_masks
from detseg.data.formats import find_mask_sources, read_mask_dataset
from detseg.data.mask_reading import STORED
from detseg.data.masks import SemanticMasks
from detseg.metrics import SegmentationEvaluator
from detseg.metrics.segmentation import FIGURES
from detseg.models import load_model
from detseg.options import require_positive
from detseg.predict.segmenter import segment
from detseg.segment import FCN, IGNORE_INDEX
from detseg.segment.decoder import DECODERS
from detseg.train.config import TrainAnnotated
from detseg.train.data import open_images, own_split, transform_of
from detseg.train.sampler import TrainingSamples
from detseg.train.task import Task

# Turned further than for boxes, which fit turned objects badly; masks fit them as well as ever.
USUAL = {"rotate": 15.0, "scale": (0.7, 1.6)}
# Cached images are this much larger than the training size, so that zooming in finds detail.
CACHE_ZOOM = 1.25
MASKS = " with masks"


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions(TrainAnnotated):
    """Train a semantic segmenter (a class for every pixel) on your own images with masks.

    Data: --data with a training and a validation split (images/ and masks/, VOC, COCO JSON with polygons, or an HDF5
    file of `detseg pack`), or --train and --val. The run folder receives the model, metrics, plots and an HTML report.

    Train for 30 minutes; small objects or rare classes; FCN-32s first, then FCN-8s from it:

        detseg train segmenter --data flowers/ --minutes 30
        detseg train segmenter --data flowers/ --decoder pyramid --loss ce+dice
        detseg train segmenter --data flowers/ --strides 32 --output runs/fcn32s
        detseg train segmenter --data flowers/ --start-from runs/fcn32s
    """

    task: ClassVar[str] = "segmenter"

    model: str = "fcn"
    """Segmenter, by name; each adds options of its own: detseg train segmenter --model NAME --help."""
    size: int = 256
    """Input size: side of the square that images are fitted into, in pixels; a multiple of 32."""
    masks: str | None = None
    """Folder of the masks, by name beside the images or by path; by default masks/, SegmentationClass/ or the like."""
    ignore_value: int | None = None
    """Mask value to ignore in loss and metrics; by default 255, or as the class list says."""
    threshold: int | None = None
    """Masks of two classes with soft edges, or JPEG: brightness (of 255) from which on a pixel is foreground."""
    balance: bool = False
    """Weight classes by inverse frequency (median frequency balancing)."""
    start_from: Path | None = None
    """Run of a coarser FCN (--strides 32 or 16 32) to start from; new skip connections start at zero."""
    repair: bool = False
    """Leave out images and masks that cannot be used, and list them; otherwise errors stop."""

    def check(self) -> Self:
        """Raise ValueError where options contradict each other or make no sense; returns itself."""
        super().check()
        require_positive(self, "threshold")
        decoder = DECODERS.get(getattr(self, "decoder", ""))
        if self.start_from is not None and decoder is not None and not decoder.extends:
            able = ", ".join(name for name, other in DECODERS.items() if other.extends)
            raise ValueError(f"--start-from is for --decoder {able}, whose coarser forms are parts of the finer ones")
        return self


class SegmenterTask(Task):
    """Segmenters: masks in, mIoU out."""

    name: ClassVar[str] = "segmenter"
    Options = SegmenterOptions
    FIGURES = FIGURES
    collate = staticmethod(collate_masks)

    def load(self) -> tuple[SemanticMasks, SemanticMasks]:
        """Training and validation masks."""
        train, val = load_mask_data(self.config, self.console)
        require_learnable(train)
        require_learnable(val, "evaluate a model on")
        print_line(self.console, f"training on {_summary(train)}, validating on {_summary(val).removesuffix(MASKS)}")
        labels = ", ".join(f"{k}={c.name} (value {c.id})" for k, c in enumerate(train.categories))
        print_line(self.console, f"labels: {labels}")
        if train.reading != STORED:
            print_line(self.console, f"masks are read so: {train.reading}")
        return train, val

    def open(self, data: SemanticMasks, split: str) -> SegmentationDataset:
        """The images and masks, those of training a little larger than the network sees them."""
        zoom = CACHE_ZOOM if split == "training" else 1
        return open_images(SegmentationDataset, data, round(self.config.size * zoom), f"{split} images", self.console)

    def contents(self, dataset: SegmentationDataset) -> Sequence[NDArray[Any]]:
        """The masks, and whose they are."""
        data = dataset.annotations
        return data.image_ids, data.sizes, dataset.masks.content()

    def samples(self, dataset: SegmentationDataset, config: Any) -> TrainingSamples:
        """Augmented images and masks."""
        return TrainingSamples(dataset, config.seed, transform_of(config, OF_MASKS, **USUAL))

    def started(self, model: Any, data: SemanticMasks) -> None:
        """Take over the weights of a coarser network."""
        if self.config.start_from is not None:
            _start_from(model, self.config.start_from, data)

    def resolved(self, process: Any, model: Any, architecture: dict[str, Any], train: SegmentationDataset) -> Any:
        """Weights of the classes, by their pixels in the training masks."""
        if self.config.balance:
            architecture["class_weights"] = _balance(model, train)
        return self.config

    def evaluator(self, dataset: SegmentationDataset) -> SegmentationEvaluator:
        """Metrics of label maps of the dataset's classes."""
        return SegmentationEvaluator(dataset.annotations.names, ignore_index=IGNORE_INDEX)

    def predict(self, model: nn.Module, dataset: SegmentationDataset, indices: Iterable[int]) -> Iterable[Any]:
        """Label maps of the images' own size."""
        sizes = dataset.annotations.sizes
        images = ((dataset.images[i], (int(sizes[i, 0]), int(sizes[i, 1]))) for i in indices)
        return (found.mask for found in segment(model, images, self.config.size))

    def target(self, dataset: SegmentationDataset, index: int) -> NDArray[np.uint8]:
        """The true label map."""
        return dataset.annotations.mask(index)

    def kept(self, prediction: Any) -> None:
        """Nothing: label maps are large."""


def _summary(masks: SemanticMasks) -> str:
    """How many images there are, and of masks that are drawn from objects how many of these, and which are not."""
    return f"{len(masks)} images{MASKS}" if masks.objects is None else objects_summary(masks.objects)


def load_mask_data(config: Any, console: Any) -> tuple[SemanticMasks, SemanticMasks]:
    """Training and validation masks, checked, and repaired if asked for.

    Raises:
        ValueError: nothing readable is there, or it has errors; the message names file, item and remedy.
    """
    options: dict[str, Any] = {name: getattr(config, name) for name in ("masks", "ignore_value", "images", "threshold")}
    if config.data is not None:
        splits = read_mask_dataset(config.data, **options, val_share=config.val_share)
        train, val = splits["train"], splits["val"]
    else:
        train, val = (
            own_split(path, find_mask_sources(path, **options), split)()
            for path, split in ((config.train, "train"), (config.val, "val"))
        )
        val = match_categories(train.categories, val)
    check = partial(checked, repairing=config.repair, print_line=partial(print_line, console))
    return check(train, None), check(val, train)


def _balance(model: FCN, train: SegmentationDataset) -> list[float]:
    """Give the model the weights of classes that its training set has; returns them."""
    try:
        weights = balanced_weights((train.masks[i] for i in range(len(train))), model.num_classes)
    except ValueError as error:
        raise ValueError(f"--balance: {train.annotations.source}: {error}") from error
    model.class_weights = torch.tensor(weights)
    return weights


def balanced_weights(masks: Iterable[np.ndarray], classes: int) -> list[float]:
    """Median frequency balancing (Eigen & Fergus 2015, arXiv:1411.4734, section 6.2).

    A class weighs the median of all classes' frequencies over its own, where the frequency of a class is its share of
    the pixels of the images that it is in. A class without pixels weighs 0.

    Args:
        masks: (H, W) labels, `IGNORE_INDEX` left out.
        classes: K.

    Raises:
        ValueError: every pixel is left out.
    """
    pixels, where = np.zeros(classes), np.zeros(classes)
    for mask in masks:
        counts = np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1)[:classes]
        pixels += counts
        where += (counts > 0) * counts.sum()
    there = pixels > 0
    if not there.any():
        raise ValueError("every pixel of the masks is ignored, so there is nothing to learn; check the ignored value")
    frequency = pixels[there] / where[there]
    weights = np.zeros(classes)
    weights[there] = np.median(frequency) / frequency
    # A short form for settings; never 0 for a class that is there.
    return [float(f"{weight:.4g}") for weight in weights]


def _start_from(model: FCN, folder: Path, train: SemanticMasks) -> None:
    other, description = load_model(folder)
    if not isinstance(other, FCN):
        raise ValueError(f"--start-from {folder}: that run did not train a segmenter")
    learnt = [category["name"] for category in description["categories"]]
    if learnt != list(train.names):
        raise ValueError(
            f"--start-from {folder}: that run has learnt the classes {', '.join(learnt)}, and {train.source} has "
            f"{', '.join(train.names)}; start from a run of the same classes in the same order"
        )
    try:
        model.start_from(other)
    except ValueError as error:
        raise ValueError(f"--start-from {folder}: {error}") from error
