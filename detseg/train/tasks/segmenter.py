"""Train a segmenter: from images with masks to a run folder with the best model in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from detseg.data.augment.transforms import TrainTransform
from detseg.data.checks.validate import checked
from detseg.data.formats import find_mask_sources, read_mask_dataset
from detseg.data.mask_dataset import SegmentationDataset, collate_masks
from detseg.data.masks import SemanticMasks, match_mask_categories
from detseg.metrics import SegmentationEvaluator, SegmentationMetrics
from detseg.models import load_model
from detseg.predict import Segmentation, segment
from detseg.segment import FCN, IGNORE_INDEX
from detseg.train.config import TrainSegmenter
from detseg.train.data import open_images, own_split
from detseg.train.runner import Session, session, tell
from detseg.train.sampler import TrainingSamples
from detseg.train.task import Run

# Turned further than for boxes, which fit turned objects badly; masks fit them as well as ever.
AUGMENTATION = partial(TrainTransform, rotate=15.0, scale=(0.7, 1.6))
# Cached images are this much larger than the training size, so that zooming in finds detail.
CACHE_ZOOM = 1.25


@dataclass
class SegmenterRun(Run[TrainSegmenter]):
    """A segmenter's run; `metrics` are `SegmentationMetrics` of the best model, predictions are not kept."""

    FIGURES: ClassVar[Mapping[str, str]] = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}

    def contents(self, dataset: SegmentationDataset) -> Sequence[NDArray[Any]]:
        """The masks, and whose they are."""
        data = dataset.annotations
        return data.image_ids, data.sizes, dataset.masks.content()

    def draw(self) -> dict[str, Path]:
        """Training samples."""
        from detseg.report.pages.segmenter import draw_training

        return draw_training(self)

    def judge(self, model: nn.Module, indices: Sequence[int]) -> SegmentationEvaluator:
        """What is counted in some of the validation images."""
        return judge_masks(model, self.val, indices, self.config.size)

    def combine(self, shares: Sequence[SegmentationEvaluator]) -> tuple[SegmentationMetrics, None]:
        """Metrics of all images."""
        together = shares[0]
        for share in shares[1:]:
            together.merge(share)
        return together.compute(), None

    def figures(self, metrics: SegmentationMetrics) -> dict[str, float]:
        """Mean IoU and pixel accuracy; 0 where there are no pixels to judge by."""
        return {
            "miou": float(np.nan_to_num(metrics.miou)),
            "pixel_accuracy": float(np.nan_to_num(metrics.pixel_accuracy)),
        }


def train_segmenter(config: TrainSegmenter, console: Console | None = None) -> SegmenterRun:
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


def _train(sitting: Session[TrainSegmenter]) -> SegmenterRun:
    config, console = sitting.config, sitting.console
    train_data, val_data = load_mask_data(config, console)
    _print_data(console, train_data, val_data)
    architecture = _architecture(config, len(train_data.categories))
    # Before the images, which take long to read: what does not go together is told at once.
    model, freeze = sitting.build(architecture, len(train_data))
    if config.start_from is not None and sitting.state is None:
        _start_from(model, config.start_from, train_data)
    larger = round(config.size * CACHE_ZOOM)
    train = open_images(SegmentationDataset, train_data, larger, "training images", console)
    val = open_images(SegmentationDataset, val_data, config.size, "validation images", console)
    if config.balance:
        architecture["class_weights"] = _balance(model, train)
    folder = sitting.open_folder()
    choice = sitting.choose_precision(architecture, freeze)
    run = SegmenterRun(folder, config, train, val, sitting.accelerator.is_main_process)
    sitting.fit(
        run,
        model,
        architecture,
        freeze=freeze,
        choice=choice,
        samples=TrainingSamples(train, config.seed, AUGMENTATION),
        collate=collate_masks,
    )
    return run


def load_mask_data(config: TrainSegmenter, console: Console) -> tuple[SemanticMasks, SemanticMasks]:
    """Training and validation masks, checked, mended if asked for.

    Raises:
        ValueError: nothing readable is there, or it has errors; the message names file, item and remedy.
    """
    options: dict[str, Any] = {"masks": config.masks, "ignore_value": config.ignore_value, "images": config.images}
    if config.data is not None:
        splits = read_mask_dataset(config.data, **options, val_share=config.val_share)
        train, val = splits["train"], splits["val"]
    else:
        assert config.train is not None and config.val is not None
        train, val = (
            own_split(path, find_mask_sources(path, **options), split)()
            for path, split in ((config.train, "train"), (config.val, "val"))
        )
        val = match_mask_categories(train.categories, val)
    train = checked(train, None, mend=config.repair, tell=partial(tell, console))
    return train, checked(val, train, mend=config.repair, tell=partial(tell, console))


def _print_data(console: Console, train: SemanticMasks, val: SemanticMasks) -> None:
    tell(console, f"training on {len(train)} images with masks, validating on {len(val)}")
    tell(console, "labels: " + ", ".join(f"{k}={c.name} (value {c.id})" for k, c in enumerate(train.categories)))


def _architecture(config: TrainSegmenter, classes: int) -> dict[str, Any]:
    """What `build_model` needs; the weights of classes are known once the masks are."""
    return {
        "kind": "fcn",
        "backbone": config.backbone,
        "strides": list(config.used_strides),
        "atrous": config.atrous,
        # Pretrained statistics are kept: batches are too small, and images too few, for better ones.
        "folded": config.weights != "none",
        "num_classes": classes,
        "decoder": config.decoder,
        "learn_upsampling": config.learn_upsampling,
        "loss": config.loss,
        "class_weights": None,
    }


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


def judge_masks(
    model: nn.Module, data: SegmentationDataset, indices: Sequence[int], size: int, **options: Any
) -> SegmentationEvaluator:
    """What is counted when a model looks at some images of a dataset, at the images' own size.

    Args:
        model: the model.
        data: images and masks.
        indices: which of them.
        size: of the square that images are fitted into.
        options: of `detseg.predict.segment`.
    """
    masks = data.annotations
    evaluator = SegmentationEvaluator(masks.names, ignore_index=IGNORE_INDEX)
    for index, seen in zip(indices, see_dataset(model, data, indices, size, **options), strict=True):
        evaluator.update([seen.mask], [masks.mask(index)], [int(masks.image_ids[index])])
    return evaluator


def see_dataset(
    model: nn.Module, data: SegmentationDataset, indices: Sequence[int], size: int, **options: Any
) -> Iterable[Segmentation]:
    """Masks of some images of a dataset, at the images' own size; arguments as for `judge_masks`."""
    sizes = data.annotations.sizes
    images = ((data.images[i], (int(sizes[i, 0]), int(sizes[i, 1]))) for i in indices)
    return segment(model, images, size, **options)
