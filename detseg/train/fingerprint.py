"""Marks by which a resumed run notices that its data are no longer those it was started with."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Category
from detseg.data.base import ImageSet
from detseg.data.pack.idx import IdxImages
from detseg.data.pack.reader import PackedImages
from detseg.data.shard_members import content_size, place_of


def fingerprint(categories: Iterable[Category], arrays: Iterable[NDArray[Any]]) -> str:
    """Equal for equal annotations, wherever their images lie."""
    digest = hashlib.sha256(repr(tuple(categories)).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def image_marks(data: ImageSet, images: object) -> NDArray[Any]:
    """What differs if an image does: of packed ones their digests and size, of those in shards their digests, of files
    their lengths, which nearly do.

    Args:
        data: the images' annotations.
        images: as the data set keeps them.
    """
    if isinstance(images, PackedImages):
        return np.append(images.digests, np.uint64(images.long_side))
    if isinstance(images, IdxImages):
        return images.content()
    places = [place_of(path) for path in data.paths.tolist()]
    if all(places):
        return np.array([int(place.digest, 16) for place in places if place], np.uint64)
    return np.array([content_size(path) for path in data.paths.tolist()], np.int64)
