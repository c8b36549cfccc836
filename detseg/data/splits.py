"""Splits a set without splits into training and validation, image by image, by rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from detseg.data.base import ImageSet
from detseg.data.checks.image_checks import equal_images
from detseg.data.checks.problems import AnnotationError
from detseg.data.labels import divide

Set = TypeVar("Set", bound=Any)


def divided(data: Set, val_share: float) -> dict[str, Set]:
    """The parts "train" and "val" of a set; equal images, by path or content, stay together.

    Which image goes where is decided by hashes of file names, see `divide`: the same on every machine.

    Args:
        data: `Annotations` or `SemanticMasks`.
        val_share: of the images; above 0, below 1.
    """
    same = _first_of_equals(data)
    kept, group = np.unique(same, return_inverse=True)
    keys = [Path(path).name for path in data.paths[kept].tolist()]
    part = divide(keys, np.zeros(len(kept), np.int64), (1 - val_share, val_share), seed=0)[group]
    return {"train": data.subset(part == 0), "val": data.subset(part == 1)}


def only_set(path: Path, sources: Mapping[str, Callable[[], Set]]) -> Set:
    """The only set at a path, a test split apart: what is to be split.

    Raises:
        AnnotationError: it has splits already; or the set cannot be read.
    """
    names = [name for name in sources if name != "test"]
    if len(names) != 1 or names == ["val"]:
        raise AnnotationError(f"{path}: is divided already, into {', '.join(sources)}; leave out --val-share")
    return sources[names[0]]()


def _first_of_equals(data: ImageSet) -> NDArray[np.int64]:
    """(N,) the position of the first image that each is equal to: its own, mostly."""
    first = np.arange(len(data.paths))
    for group in equal_images(data):
        first[group] = group[0]
    return first
