"""Mosaic (four images in one) and mixup (two images laid over each other).

Mosaic follows YOLOv4 (Bochkovskiy et al. 2020), mixup for detection Zhang et al. 2019 ("Bag of Freebies").
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.augment.geometry import Geometry
from detseg.data.sample import IGNORE, PADDING, Sample

MOSAIC_GEOMETRY = Geometry(scale=(0.4, 1.0), rotate=0.0)
"""At 0.5 an image fits its quadrant; above, each quadrant shows a part of it."""


def mosaic(
    samples: Sequence[Sample], size: int, rng: np.random.Generator, geometry: Geometry = MOSAIC_GEOMETRY
) -> Sample:
    """Four samples, all with masks or all without, around a random centre of a `size` x `size` image.

    Each is warped once, straight into its quadrant, so nothing is resampled twice: do not send the result
    through `Geometry` again (`TrainTransform.mosaic` adds only light, colour, blur and noise). Zoom 1 of
    `geometry` makes an image's long side `size`. Objects come in the order of the samples.
    """
    if len(samples) != 4:
        raise ValueError(f"a mosaic takes 4 samples, got {len(samples)}")
    masked = sum(sample.mask is not None for sample in samples)
    if masked not in (0, 4):
        raise ValueError(f"a mosaic takes samples that all have a mask or all have none; {masked} of these 4 have one")
    centre_x, centre_y = (int(v) for v in rng.integers(size // 4, size - size // 4 + 1, 2))
    image = np.full((size, size, samples[0].image.shape[2]), PADDING, np.uint8)
    mask = np.full((size, size), IGNORE, np.uint8) if masked else None
    tiles, corners = [], []
    for i, sample in enumerate(samples):
        left, right = ((0, centre_x), (centre_x, size))[i % 2]
        top, bottom = ((0, centre_y), (centre_y, size))[i // 2]
        if right == left or bottom == top:  # only for sizes of 1-3 pixels
            continue
        tile = geometry(sample, (right - left, bottom - top), rng, unit=size)
        image[top:bottom, left:right] = tile.image
        if mask is not None:
            assert tile.mask is not None
            mask[top:bottom, left:right] = tile.mask
        tile.boxes += np.array([left, top, left, top], np.float32)
        tiles.append(tile)
        corners.append((left, top))
    return joined(image, tiles, corners, mask)


def mixup(a: Sample, b: Sample, rng: np.random.Generator) -> Sample:
    """The weighted mean of two images of one size, without semantic masks, with the objects of both (a's first).

    The weight is drawn from Beta(8, 8), so that both stay recognisable: each object is asked for in full.
    """
    if a.mask is not None or b.mask is not None:
        raise ValueError("mixup is for boxes: a pixel of a mask cannot have the classes of two images; use mosaic")
    if a.image.shape != b.image.shape:
        raise ValueError(
            f"mixup needs two images of one size, got {a.size} and {b.size} (width, height); transform both first"
        )
    weight = float(rng.beta(8.0, 8.0))
    image = np.asarray(cv2.addWeighted(a.image, weight, b.image, 1 - weight, 0.0), np.uint8).reshape(a.image.shape)
    return joined(image, [a, b])


def joined(
    image: NDArray[np.uint8],
    samples: Sequence[Sample],
    corners: Sequence[tuple[int, int]] | None = None,
    mask: NDArray[np.uint8] | None = None,
) -> Sample:
    """An image with the objects of all samples, in their order.

    Args:
        image: (H, W, C).
        samples: their boxes are in pixels of the image, their instance masks of their own.
        corners: x, y of each sample in the image; by default they all are as large as it.
        mask: (H, W), semantic.
    """
    bare = sum(sample.masks is None for sample in samples)
    if bare not in (0, len(samples)):
        raise ValueError(f"{bare} of {len(samples)} samples have no instance masks")
    objects = {name: np.concatenate([getattr(s, name) for s in samples]) for name in ("boxes", "labels", "iscrowd")}
    masks = None if bare else np.zeros((len(objects["labels"]), *image.shape[:2]), np.uint8)
    first = 0
    for sample, (x, y) in zip(samples, corners or [(0, 0)] * len(samples), strict=True):
        if masks is not None and sample.masks is not None:
            count, height, width = sample.masks.shape
            masks[first : first + count, y : y + height, x : x + width] = sample.masks
            first += count
    return Sample(image, **objects, mask=mask, masks=masks)
