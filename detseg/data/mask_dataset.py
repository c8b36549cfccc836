"""Images with masks ready for training: decoded once, kept small, handed out as samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.data.dataset import ArrayCache, Track, fitted_shapes, images_of
from detseg.data.letterbox import resize_mask
from detseg.data.masks import SemanticMasks
from detseg.data.pack.packed import PackedMasks
from detseg.data.sample import Sample


class MaskCache(ArrayCache):
    """Label maps (H, W), each as large as its image in a `ImageCache` of the same `long_side`."""

    def __init__(self, masks: SemanticMasks, long_side: int, track: Track | None = None) -> None:
        """Read or draw all masks; raises `MaskError` (a ValueError) for one that cannot be used."""
        shapes = fitted_shapes(masks.sizes, long_side)

        def read(index: int) -> NDArray[np.uint8]:
            height, width = shapes[index]
            return resize_mask(masks.mask(index), (int(width), int(height)))

        super().__init__(shapes, read, track)


class SegmentationDataset:
    """Samples of a set of masks, by position.

    Args:
        masks: the images and their masks.
        long_side: of the cached images, in pixels; packed ones have the size they were packed with.
        track: shows progress, once while images are read and once while masks are.
    """

    def __init__(self, masks: SemanticMasks, long_side: int, track: Track | None = None) -> None:
        self.annotations = masks
        self.images = images_of(masks, long_side, track)
        self.masks = MaskCache(masks, long_side, track) if masks.pack is None else PackedMasks(*masks.pack)

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Sample:
        """The image and its mask, without boxes; they may be views into the caches."""
        return Sample(
            self.images[index],
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.int64),
            np.zeros(0, np.bool_),
            self.masks[index],
        )


def collate_masks(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Samples of one size to images (N, 3, H, W) uint8 and masks (N, H, W) uint8.

    Raises:
        ValueError: a sample has no mask.
    """
    masks = [sample.mask for sample in samples if sample.mask is not None]
    if len(masks) < len(samples):
        raise ValueError(f"{len(samples) - len(masks)} of {len(samples)} samples have no mask")
    # Stacked as NHWC and viewed as NCHW: the layout convolutions on CPUs like best, without a copy.
    images = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2)
    return images, torch.from_numpy(np.stack(masks))
