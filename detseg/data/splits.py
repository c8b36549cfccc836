"""Splits of a set: by rule as training asks for it, or by shares of every class with groups of images undivided."""

import hashlib
import unicodedata
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.base import ImageSet, Set
from detseg.data.checks.image_checks import equal_images, in_threads
from detseg.data.checks.problems import AnnotationError
from detseg.data.groups import groups_of, image_keys
from detseg.data.labels import LabelledImages, divide
from detseg.data.masks import SemanticMasks
from detseg.data.sample import IGNORE
from detseg.data.stratify import Ints, stratify


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


def split_set(
    data: Set, shares: Mapping[str, float], *, by: str = "", seed: int = 0, track: Any = None
) -> dict[str, Set]:
    """Splits of a set by name, with the same share of the images of every class in each, as far as groups allow.

    Chance, where counts leave a choice, is a hash of `seed` and the images' paths within the set: the same on every
    machine, in whatever order the files are listed.

    Args:
        shares: of all images, by name of the split; above 0 and together 1.
        by, track: what belongs together and stays undivided, see `detseg.data.groups.groups_of`.

    Raises:
        ValueError: the shares are none, or there are too few images, or groups, to give every split one.
    """
    parts, groups = _parts(data, list(shares.values()), by, seed, track)
    empty = [name for place, name in enumerate(shares) if not (parts == place).any()]
    if empty:
        raise ValueError(f"{_too_few(data, by, groups)} {len(shares)} splits; nothing is left for {', '.join(empty)}")
    return {name: data.subset(parts == place) for place, name in enumerate(shares)}


def folds_of(data: Set, count: int, *, by: str = "", seed: int = 0, track: Any = None) -> list[dict[str, Set]]:
    """The set `count` times as "train" and "val": each image is in "val" once. Arguments and errors: `split_set`."""
    if count < 2:
        raise ValueError(f"there must be 2 folds at least, not {count}")
    parts, groups = _parts(data, [1 / count] * count, by, seed, track)
    if len(np.unique(parts)) < count:
        raise ValueError(f"{_too_few(data, by, groups)} {count} folds")
    return [{"train": data.subset(parts != fold), "val": data.subset(parts == fold)} for fold in range(count)]


def _too_few(data: ImageSet, by: str, groups: int) -> str:
    grouped = f" in {groups} groups by {by}" if by else ""
    return f"{data.source}: its {len(data)} images{grouped} are too few for"


def _parts(data: ImageSet, shares: list[float], by: str, seed: int, track: Any) -> tuple[Ints, int]:
    """(N,) the part of each image, by its position in `shares`, and the number of groups."""
    groups = groups_of(data, by, track=track)
    keys = [unicodedata.normalize("NFC", key) for key in image_keys(data)]
    digests = np.array(
        [hashlib.blake2b(f"{seed}/{key}".encode(errors="surrogatepass"), digest_size=16).hexdigest() for key in keys]
    )
    # Groups are numbered by the lowest hash of their images, in which the order of the images has no say.
    order = np.argsort(digests, kind="stable")
    found, first = np.unique(groups[order], return_index=True)
    number = np.empty(len(data), np.int64)
    number[found[np.argsort(first)]] = np.arange(len(found))
    return stratify(number[groups], *classes_in(data), shares)[number[groups]], len(found)


def class_counts(data: ImageSet) -> Ints:
    """(K,) images in which each class is."""
    images, labels = classes_in(data)
    width = max(1, len(data.categories))
    return np.bincount(np.unique(images * width + labels) % width, minlength=len(data.categories)).astype(np.int64)


def classes_in(data: ImageSet) -> tuple[Ints, Ints]:
    """Image and class of every object, label or class of pixels: (P,) positions and (P,) labels, pairs may repeat.

    Objects that are ignored are no sign of their class.
    """
    if isinstance(data, Annotations):
        rows = np.flatnonzero(~data.iscrowd & (data.labels >= 0))
        return data.image_index[rows].astype(np.int64), data.labels[rows].astype(np.int64)
    if isinstance(data, LabelledImages):
        return np.arange(len(data)), data.labels
    assert isinstance(data, SemanticMasks)
    if data.objects is not None:
        return classes_in(data.objects)
    found = list(in_threads(partial(_labels_in, data), range(len(data))))
    images = np.repeat(np.arange(len(data)), [len(labels) for labels in found])
    return images, np.concatenate([np.zeros(0, np.int64), *found])


def _labels_in(data: SemanticMasks, index: int) -> NDArray[np.int64]:
    labels = np.unique(data.mask(index)).astype(np.int64)
    return labels[labels != IGNORE]
