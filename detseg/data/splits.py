"""Splits a set without splits into training and validation, image by image, by rule."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from detseg.data.base import Set
from detseg.data.checks.image_checks import equal_images
from detseg.data.checks.problems import AnnotationError
from detseg.data.labels import divide


def divided(data: Set, val_share: float) -> dict[str, Set]:
    """The parts "train" and "val" (a share above 0, below 1) of a set; equal images, by path or content, stay together.

    Which image goes where is decided by hashes of file names, see `divide`: the same on every machine.
    """
    same = np.arange(len(data))  # of each image the first that it is equal to: itself, mostly
    for equal in equal_images(data):
        same[equal] = equal[0]
    kept, group = np.unique(same, return_inverse=True)
    keys = [Path(path).name for path in data.paths[kept].tolist()]
    part = divide(keys, np.zeros(len(kept), np.int64), (1 - val_share, val_share), seed=0)[group]
    return {"train": data.subset(part == 0), "val": data.subset(part == 1)}


def only_set(path: Path, sources: Mapping[str, Callable[[], Set]]) -> Set:
    """The only set at a path, a test split apart; raises AnnotationError if it has splits already."""
    names = [name for name in sources if name != "test"]
    if len(names) != 1 or names == ["val"]:
        raise AnnotationError(f"{path}: is divided already, into {', '.join(sources)}; leave out --val-share")
    return sources[names[0]]()
