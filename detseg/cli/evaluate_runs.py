"""What the model of a run finds in annotated images, for `detseg evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detseg.cluster.manifest import holds_results
from detseg.console import print_line, track
from detseg.data.annotations import Annotations, Category, match_categories
from detseg.data.base import with_channels
from detseg.data.class_tree import ClassTree
from detseg.data.limits import AtTheCap, most_detections
from detseg.metrics.detection.inputs import Detections, Truth, read_truth
from detseg.metrics.detection.levels import TreeDetections
from detseg.metrics.detection.matching import limits_for, limits_of

if TYPE_CHECKING:
    from rich.console import Console

    from detseg.cli.evaluate import Evaluate


def is_run(path: Path) -> bool:
    """Whether a path is the folder of a run; else it is of detections."""
    return path.is_dir() and not holds_results(path)


def results_of(path: Path, truth: Path | Annotations, console: Console) -> Detections:
    """What is in the shards of a folder of the images of the ground truth; prints of which there is nothing."""
    from detseg.cluster.evaluation import detections_in, image_names
    from detseg.cluster.manifest import read_manifest
    from detseg.data.tar_shards import address_of

    folder, names = address_of(path), image_names(truth)
    if isinstance(truth, Annotations):
        match_categories([Category(*category) for category in read_manifest(folder).categories], truth)
    matched = detections_in(folder, names)
    if matched.missing:
        unreadable = f", {len(matched.unreadable)} of them cannot be read" if matched.unreadable else ""
        what = f"{len(matched.missing)} of {len(names)} images of the ground truth have no results{unreadable}"
        print_line(console, f"{what}; nothing counts as found in them, the first is {matched.missing[0]}")
    if matched.others:
        others = f"{len(matched.others)} images that the ground truth does not list are left out"
        print_line(console, f"{others}, the first is {matched.others[0]}")
    return matched.detections


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


def predict(runs: Sequence[Path], truth: Annotations, config: Evaluate, console: Console) -> Detections:
    """What the model of a run, or several fused, find in the images, as `config` says."""
    from accelerate import PartialState

    from detseg.data.dataset import DetectionDataset
    from detseg.predict import FusedDetector, load
    from detseg.predict.augmented import views_of
    from detseg.train.data import open_images
    from detseg.train.tasks.detector import predict_dataset

    detector: Any = load(*runs).to(PartialState().device)
    description = detector.description
    ids = matched_ids(description, truth)
    truth = with_channels(truth, detector.channels)
    if config.max_detections is not None:
        detector.max_detections = config.max_detections
    if len(runs) == 1 and (description.get("objects") or {}).get("tile"):
        return Detections.from_predictions(_in_tiles(detector, truth, config, console), truth.image_ids.tolist(), ids)
    size = detector.size if config.size is None else config.size
    largest = max(view.size for view in views_of(size)) if config.tta else size
    images = open_images(DetectionDataset, truth, largest, "images", console)
    # Detectors that are fused may have sizes of their own.
    model, size = (detector, config.size) if isinstance(detector, FusedDetector) else (detector.model, size)
    cap = AtTheCap(detector.max_detections)
    predictions = list(cap.watch(predict_dataset(model, images, range(len(images)), size, tta=config.tta)))
    if description["architecture"].get("tree") is not None:
        tree = ClassTree(tuple(description["architecture"]["tree"]))
        limits = limits_asked(config, read_truth(truth, "bbox"))
        return TreeDetections.of(predictions, truth, tree, max_detections=limits)
    return Detections.from_predictions(predictions, truth.image_ids.tolist(), ids)


def _in_tiles(detector: Any, truth: Annotations, config: Evaluate, console: Console) -> list[Any]:
    """What a detector that was trained on tiles finds in the images, in such tiles."""
    from detseg.tiled import Tiled
    from detseg.train.tiles import open_tiles, predict_in_tiles

    tiling, size = Tiled(detector).tiling, detector.size if config.size is None else config.size
    images = open_tiles(truth, size, tiling, "images", console)
    find = partial(detector.find, size=size, tta=config.tta)
    return list(predict_in_tiles(find, images, range(len(images)), tiling))


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
    paths = (config.detections, config.compare, *config.fuse)
    runs = [path for path in paths if path is not None and is_run(path)]
    return limits_for(truth, max((_cap_of(run, truth) for run in runs), default=0))


def _cap_of(run: Path, truth: Truth) -> int:
    """The most detections of an image; where each tile has a cap of its own, as if the images were trained on."""
    from detseg.models import read_description

    description = read_description(run)
    cap = int(description["architecture"].get("max_detections") or 0)
    tiled = (description.get("objects") or {}).get("tile")
    return max(cap, most_detections(np.bincount(truth.object_images[~truth.iscrowd]))) if tiled else cap
