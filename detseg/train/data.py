"""The data of a run: annotations found and checked; images read once, or from a packed file as needed."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from detseg.console import print_line, track
from detseg.data.annotations import AnnotationError, Annotations, match_categories
from detseg.data.augment.strengths import OF_BOXES, Strength, strengths
from detseg.data.augment.transforms import TrainTransform
from detseg.data.checks.learnable import require_learnable
from detseg.data.checks.summary import objects_summary
from detseg.data.checks.validate import checked
from detseg.data.formats import find_sources, read_dataset
from detseg.data.pack.reader import PackedImages

logger = logging.getLogger(__name__)

Dataset = TypeVar("Dataset", bound=Any)
T = TypeVar("T")


def load_data(config: Any, console: Console) -> tuple[Annotations, Annotations]:
    """Training and validation annotations, checked, and repaired if asked for.

    Raises:
        ValueError: nothing readable is there, or it has errors; the message names file, item and remedy.
    """
    if config.data is not None:
        splits = read_dataset(config.data, config.images, config.val_share)
        train, val = splits["train"], splits["val"]
    else:
        train = read_split(config.train, "train", config.images)
        val = match_categories(train.categories, read_split(config.val, "val", config.images))
    check = partial(checked, repairing=config.repair, print_line=partial(print_line, console))
    train = check(train, None)
    val = check(val, train)
    require_learnable(train)
    return train, val


def read_split(path: Path, split: str, images: Path | None = None) -> Annotations:
    """Annotations of one path: its only set, or the split of that name where it holds several.

    Args:
        path: an annotation file or a dataset.
        split: "train", "val" or "test".
        images: the folder of the images (COCO and VOC), where they are not found by themselves.

    Raises:
        AnnotationError: nothing readable is there, or it holds several splits and none of that name.
    """
    return own_split(path, find_sources(path, images), split)()


def own_split(path: Path, splits: Mapping[str, T], name: str) -> T:
    """What is meant by a path that stands for one split: its only one, or that of this name where it holds several.

    Raises:
        AnnotationError: it holds several and none of that name.
    """
    if name not in splits and len(splits) > 1:
        raise AnnotationError(f"{path}: holds the splits {', '.join(splits)}, but no {name}; name what holds one only")
    return splits[name] if name in splits else next(iter(splits.values()))


def print_data(console: Console, train: Annotations, val: Annotations) -> None:
    """Print how much there is, and which label each category id gets."""
    print_line(console, f"training on {objects_summary(train)}, validating on {objects_summary(val)}")
    print_line(console, "labels: " + ", ".join(f"{k}={c.name} (id {c.id})" for k, c in enumerate(train.categories)))


def transform_of(config: Any, known: Mapping[str, Strength] = OF_BOXES, **usual: Any) -> partial[TrainTransform]:
    """Makes the augmentation of an input size; `usual` are the task's own strengths, where --augment sets no other."""
    return partial(TrainTransform, flip=config.flip, **usual | strengths(config.augment or (), known))


def open_images(kind: Callable[..., Dataset], data: Any, long_side: int, what: str, console: Console) -> Dataset:
    """The dataset of a kind with its images read and kept at `long_side` pixels; packed ones stay in their file.

    A warning tells when these are smaller.
    """
    from detseg.data.cache import ResizedImages  # here: it brings torch, and who reads annotations needs none

    shown = partial(track, what=f"reading {what}", console=console)
    dataset = kind(data, long_side, shown)
    kept = dataset.images
    if isinstance(kept, ResizedImages):
        print_line(console, f"{what}: read from their shards in every epoch, at {kept.long_side} px")
    else:
        print_line(console, f"{what}: kept at {kept.long_side} px, {kept.megabytes:.0f} MB in {kept.place}")
    if isinstance(kept, PackedImages) and kept.long_side < long_side:
        logger.warning(
            "%s: its images have a long side of %d px, the %s are wanted at %d px and get blurred by enlarging: pack "
            "them with --size %d, or train at a smaller --size",
            *(kept.place, kept.long_side, what, long_side, long_side),
        )
    return dataset
