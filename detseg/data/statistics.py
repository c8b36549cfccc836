"""What a data set holds, counted: images, objects, pixels, classes, sizes of boxes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.base import ImageSet, Track
from detseg.data.checks.image_checks import in_threads
from detseg.data.index_png import MaskError, is_background
from detseg.data.labels import LabelledImages
from detseg.data.masks import SemanticMasks
from detseg.data.sample import IGNORE

CHUNK = 64  # masks read at a time


class Counts(NamedTuple):
    """What N images of K classes hold; amounts are objects, pixels or, of labelled images, images."""

    images: int
    without: int  # images with nothing of a class: no object that is not ignored, or background only
    per_class: NDArray[np.int64]  # (K,) amounts
    images_with: NDArray[np.int64]  # (K,) images in which a class is
    ignored: int  # amount: crowd or difficult objects, pixels without a class
    per_image: NDArray[np.int64]  # (N,) amounts that are not ignored
    unreadable: int = 0  # masks that cannot be read, counted nowhere else

    @property
    def total(self) -> int:
        """The amount of all classes together."""
        return int(self.per_class.sum())


def count(data: ImageSet, *, track: Track | None = None) -> Counts:
    """Count what a set holds; all mask files are read for it, which `track` shows the progress of."""
    classes = len(data.categories)
    if isinstance(data, SemanticMasks):
        return _count_pixels(data, track)
    if isinstance(data, Annotations):
        counted = ~data.iscrowd & (data.labels >= 0)
        images, labels = data.image_index[counted].astype(np.int64), data.labels[counted].astype(np.int64)
    else:
        assert isinstance(data, LabelledImages)
        counted = (data.labels >= 0) & (data.labels < classes)
        images, labels = np.flatnonzero(counted), data.labels[counted]
    per_image = np.bincount(images, minlength=len(data))
    different = np.unique(images * max(1, classes) + labels) % max(1, classes)
    return Counts(
        images=len(data),
        without=int((per_image == 0).sum()),
        per_class=np.bincount(labels, minlength=classes),
        images_with=np.bincount(different, minlength=classes),
        ignored=int((~counted).sum()),
        per_image=per_image,
    )


def _count_pixels(masks: SemanticMasks, track: Track | None) -> Counts:
    def read(row: int) -> NDArray[np.int64] | None:
        try:
            return np.bincount(masks.mask(row).ravel(), minlength=IGNORE + 1)
        except MaskError:
            return None

    classes = len(masks.categories)
    objects = slice(1 if is_background(masks.names[0]) else 0, classes)
    pixels, images_with = np.zeros(IGNORE + 1, np.int64), np.zeros(classes, np.int64)
    per_image, unreadable = np.zeros(len(masks), np.int64), 0
    starts = range(0, len(masks), CHUNK)
    for start in track(starts, len(starts)) if track else starts:
        for row, found in enumerate(in_threads(read, range(start, min(start + CHUNK, len(masks)))), start):
            if found is None:
                unreadable += 1
                continue
            pixels += found
            images_with += found[:classes] > 0
            per_image[row] = found[objects].sum()
    return Counts(
        images=len(masks),
        without=int((per_image == 0).sum()) - unreadable,
        per_class=pixels[:classes],
        images_with=images_with,
        ignored=int(pixels[IGNORE]),
        per_image=per_image,
        unreadable=unreadable,
    )


def learnt_boxes(data: Annotations) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Boxes (M, 4) that are not ignored and have an area, their labels (M,) and the sizes (M, 2) of their images."""
    sides = data.boxes[:, 2:] - data.boxes[:, :2]
    with np.errstate(invalid="ignore"):
        sound = np.isfinite(data.boxes).all(axis=1) & (sides > 0).all(axis=1)
    rows = np.flatnonzero(sound & ~data.iscrowd & (data.labels >= 0))
    return data.boxes[rows], data.labels[rows].astype(np.int64), data.sizes[data.image_index[rows]].astype(np.float64)


def box_sides(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M,) square roots of the areas of boxes (M, 4): the sides of squares of these areas."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    return np.sqrt(width * height)
