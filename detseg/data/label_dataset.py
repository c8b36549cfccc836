"""Labelled images ready for training: samples of an image and its class, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.data.dataset import Track, images_of
from detseg.data.labels import LabelledImages

LabelledSample = tuple[NDArray[np.uint8], int]


class ClassificationDataset:
    """(image, label) by position.

    Image files are read once and kept resized; a packed set stays on disk at the size it was packed with.

    Args:
        labelled: the images and their classes.
        long_side: of the cached images, in pixels. To cut crops of `size` from them it needs to be larger: 1.5
            times `size` leaves images of 4 : 3 a short side of 256 for crops of 224.
        track: shows progress while images are read.
        short_side: of those that are longer, in pixels; their long side is at most twice `long_side`.
    """

    def __init__(
        self, labelled: LabelledImages, long_side: int, track: Track | None = None, *, short_side: int = 0
    ) -> None:
        self.labelled = labelled
        self.images = images_of(labelled, long_side, track, short_side=short_side)

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, index: int) -> LabelledSample:
        """The image (H, W, 3) uint8, a view into the cache, and its label."""
        return self.images[index], int(self.labelled.labels[index])


def collate_labels(samples: Sequence[LabelledSample]) -> tuple[Tensor, Tensor]:
    """Samples of one size to images (N, 3, H, W) uint8 and labels (N,) int64."""
    # Stacked as NHWC and viewed as NCHW: the layout convolutions on CPUs like best, without a copy.
    images = torch.from_numpy(np.stack([image for image, _ in samples])).permute(0, 3, 1, 2)
    return images, torch.tensor([label for _, label in samples], dtype=torch.int64)
