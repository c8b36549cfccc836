"""What the model of a run finds in annotated images, for `detseg evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detseg.console import track
from detseg.data.annotations import Annotations, Category, match_categories
from detseg.data.base import with_channels
from detseg.data.class_tree import ClassTree
from detseg.detect.limits import AtTheCap
from detseg.metrics.detection.inputs import Detections, Truth, read_truth
from detseg.metrics.detection.levels import TreeDetections
from detseg.metrics.detection.matching import limits_for, limits_of

if TYPE_CHECKING:
    from rich.console import Console

    from detseg.cli.evaluate import Evaluate


def slide_over(folder: Path, truth: Annotations, config: Evaluate, console: Console) -> Detections:
    """What the localizer of a run finds in the images when it slides over them, as `detseg predict --slide` does."""
    from accelerate import PartialState

    from detseg.data.cache import full_images
    from detseg.predict import SlidingDetector, load

    localizer = load(folder).to(PartialState().device)
    try:
        detector = SlidingDetector(localizer, long_side=config.long_side)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    ids = matched_ids(localizer.description, truth)
    images = full_images(with_channels(truth, localizer.channels), range(len(truth)))
    shown = track(images, len(truth), what="sliding", console=console)
    if config.max_detections is not None:
        detector.max_detections = config.max_detections
    cap = AtTheCap(detector.max_detections)
    predictions = list(cap.watch(next(detector.stream([image], score_threshold=0)) for image in shown))
    return Detections.from_predictions(predictions, truth.image_ids.tolist(), ids)


def predict(folder: Path, truth: Annotations, config: Evaluate, console: Console) -> Detections:
    """What the model of a run finds in the images, at the size and with the augmentation that `config` says."""
    import torch
    from accelerate import PartialState

    from detseg.data.dataset import DetectionDataset
    from detseg.models import load_model
    from detseg.predict.augmented import views_of
    from detseg.predict.detector import limit_detections
    from detseg.train.data import open_images
    from detseg.train.tasks.detector import predict_dataset

    model, description = load_model(folder)
    ids = matched_ids(description, truth)
    size = int(description["size"]) if config.size is None else config.size
    truth = with_channels(truth, description["architecture"].get("in_channels", 3))
    largest = max(view.size for view in views_of(size)) if config.tta else size
    images = open_images(DetectionDataset, truth, largest, "images", console)
    model.to(device=PartialState().device, memory_format=torch.channels_last)
    if config.max_detections is not None:
        limit_detections(model, config.max_detections)
    cap = AtTheCap(getattr(model, "max_detections", None))
    predictions = list(cap.watch(predict_dataset(model, images, range(len(images)), size, tta=config.tta)))
    if "tree" in description["architecture"]:
        tree = ClassTree(tuple(description["architecture"]["tree"]))
        return TreeDetections.of(
            predictions, truth, tree, max_detections=limits_asked(config, read_truth(truth, "bbox"))
        )
    return Detections.from_predictions(predictions, truth.image_ids.tolist(), ids)


def matched_ids(description: Mapping[str, Any], truth: Annotations) -> list[int]:
    """Category ids of a model, by label.

    Raises:
        ValueError: the images have other categories; the message tells the difference.
    """
    categories = categories_of(description)
    match_categories(categories, truth)
    return [category.id for category in categories]


def categories_of(description: Mapping[str, Any]) -> list[Category]:
    """The categories of a model."""
    return [Category(int(c["id"]), str(c["name"])) for c in description["categories"]]


def limits_asked(config: Evaluate, truth: Truth) -> tuple[int, ...]:
    """How many of the best detections of an image and class count, see `evaluate_detections`."""
    if config.max_detections is not None:
        return limits_of(config.max_detections)
    runs = [path for path in (config.detections, config.compare) if path is not None and path.is_dir()]
    return limits_for(truth, max((_cap_of(run) for run in runs), default=0))


def _cap_of(run: Path) -> int:
    from detseg.models import read_description

    return int(read_description(run)["architecture"].get("max_detections", 0))
