"""Images with their annotations, ready for training: samples by position, and batches of them."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.base import Set, Track
from detseg.data.cache import images_of, masks_of
from detseg.data.checks.learnable import require_masks
from detseg.data.labels import LabelledImages
from detseg.data.mask_drawing import draw_objects
from detseg.data.masks import SemanticMasks
from detseg.data.sample import Sample
from detseg.data.shard_members import shard_numbers

log = logging.getLogger(__name__)

LabelledSample = tuple[NDArray[np.uint8], int]


class ImageDataset(Generic[Set]):
    """The images of an annotated set by position, read once and kept resized (`detseg.data.cache`).

    Args:
        annotations: the images and what is known of them.
        long_side: of the kept images, in pixels; packed ones have the size they were packed with.
        track: shows progress while images are read.
        short_side: at least, in pixels, of kept images; their long side is at most twice `long_side`.
    """

    def __init__(self, annotations: Set, long_side: int, track: Track | None = None, *, short_side: int = 0) -> None:
        self.annotations = annotations
        self.images = images_of(annotations, long_side, track, short_side=short_side)
        self.shards = shard_numbers(annotations.paths)  # (N,) of each image; None where they are in none

    def __len__(self) -> int:
        return len(self.annotations)


class DetectionDataset(ImageDataset[Annotations]):
    """Samples of images with boxes, and with instance masks (`draw_objects`) if `masks` asks for them.

    A mask without any pixel is unknown: how many objects have none is logged.

    Attributes:
        labelled: images to learn from besides, of which only the class is known; they are no samples of this set.

    Raises:
        AnnotationError: masks are asked for, and all objects have boxes only.
    """

    def __init__(
        self, annotations: Annotations, long_side: int, track: Track | None = None, *, masks: bool = False
    ) -> None:
        if masks:
            require_masks(annotations)
            if bare := int((~annotations.drawn & ~annotations.iscrowd).sum()):
                what = "%s: %d of %d objects have no mask; they teach their boxes and classes only"
                log.warning(what, annotations.source, bare, int((~annotations.iscrowd).sum()))
        super().__init__(annotations, long_side, track)
        self.masks = masks
        self.labelled: ClassificationDataset | None = None

    def __getitem__(self, index: int) -> Sample:
        """The image with its boxes in the kept image's pixels; the image may be a view into the cache."""
        image = self.images[index]
        objects = self.annotations.objects(index)
        width, height = self.annotations.sizes[index]
        scale = np.array([image.shape[1] / width, image.shape[0] / height] * 2)
        sample = Sample(
            image,
            (self.annotations.boxes[objects] * scale).astype(np.float32),
            self.annotations.labels[objects].astype(np.int64),
            self.annotations.iscrowd[objects],
        )
        if self.masks:
            sample.masks, sample.windows = draw_objects(self.annotations, index, sample.size)
        return sample


class SegmentationDataset(ImageDataset[SemanticMasks]):
    """Samples of images with semantic masks, without boxes."""

    def __init__(self, annotations: SemanticMasks, long_side: int, track: Track | None = None) -> None:
        super().__init__(annotations, long_side, track)
        self.masks = masks_of(annotations, long_side, track)

    def __getitem__(self, index: int) -> Sample:
        """The image and its mask; they may be views into the caches."""
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
        return Sample(self.images[index], *nothing, self.masks[index])


class ClassificationDataset(ImageDataset[LabelledImages]):
    """(image, label) by position.

    To cut crops of `size` from them, images need to be larger: a `long_side` of 1.5 times `size` leaves images of 4 : 3
    a short side of 256 for crops of 224.
    """

    @property
    def labelled(self) -> LabelledImages:
        """The images and their classes."""
        return self.annotations

    def __getitem__(self, index: int) -> LabelledSample:
        """The image (H, W, 3) uint8, a view into the cache, and its label."""
        return self.images[index], int(self.annotations.labels[index])


def scaled_sizes(data: Annotations, long_side: int) -> NDArray[np.float64]:
    """(M, 2) widths and heights of all objects but crowds, with every image's long side at `long_side`."""
    scale = long_side / data.sizes.max(1)[data.image_index]
    sizes = (data.boxes[:, 2:] - data.boxes[:, :2]) * scale[:, None]
    return sizes[~data.iscrowd]


def learnable_sizes(data: Annotations, size: int) -> NDArray[np.float64]:
    """(M, 2) widths and heights of the objects, crowds apart, that are a pixel wide and high at `--size`.

    Raises AnnotationError where there are objects, and none is.
    """
    sizes = scaled_sizes(data, size)
    large = sizes[sizes.min(1) >= 1]
    if len(large) or not len(sizes):
        return large
    own = float((data.boxes[:, 2:] - data.boxes[:, :2])[~data.iscrowd].min(1).max())
    remedy = "correct the boxes" if own < 1 else "train with a larger --size, or with --tiles"
    raise AnnotationError(
        f"{data.source}: none of its {len(sizes)} objects is a pixel wide and high at --size {size}, so there is "
        f"nothing to learn; the thickest is {own:.3g} px in its image, {sizes.min(1).max():.3g} px there: {remedy}"
    )


def collate(samples: Sequence[Sample]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Samples of one size to images (N, 3, H, W) uint8 and target dicts, with what else of a target samples have."""
    targets = []
    for sample in samples:
        more = [name for name in ("masks", "image_labels") if getattr(sample, name) is not None]
        targets.append(
            {name: torch.from_numpy(getattr(sample, name)) for name in ("boxes", "labels", "iscrowd", *more)}
        )
    return _stacked([sample.image for sample in samples]), targets


def collate_boxes(samples: Sequence[Sample]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """As `collate`, without instance masks: they were needed to augment, not to learn."""
    return collate([replace(sample, masks=None) for sample in samples])


def collate_masks(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Samples of one size, all with masks, to images (N, 3, H, W) uint8 and semantic masks (N, H, W) uint8."""
    masks = [sample.mask for sample in samples if sample.mask is not None]
    if len(masks) < len(samples):
        raise ValueError(f"{len(samples) - len(masks)} of {len(samples)} samples have no mask")
    return _stacked([sample.image for sample in samples]), torch.from_numpy(np.stack(masks))


def collate_labels(samples: Sequence[LabelledSample]) -> tuple[Tensor, Tensor]:
    """Samples of one size to images (N, 3, H, W) uint8 and labels (N,) int64."""
    return _stacked([image for image, _ in samples]), torch.tensor([label for _, label in samples], dtype=torch.int64)


def _stacked(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    # Stacked as NHWC and viewed as NCHW: the layout convolutions on CPUs like best, without a copy.
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
