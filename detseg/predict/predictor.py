"""What trained models of all tasks have in common when they look at images."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detseg.backbones.folding import fold_norms
from detseg.backbones.fused import fuse_activations
from detseg.backbones.normalise import ImageModel
from detseg.data.images import read_image

Image = str | Path | NDArray[np.uint8]
Sized = tuple[NDArray[np.uint8], tuple[int, int]]
"""RGB (H, W, 3), perhaps of a shrunk copy, and the (width, height) that results are wanted in."""
S = TypeVar("S")
T = TypeVar("T")


class Predictor:
    """A trained model and what it was trained for.

    `predict` of each task takes a list of images: paths, or uint8 arrays (H, W, C), RGB if C is 3. It raises
    ValueError, naming the image, where a file is no image, an array is something else, or one image was given instead
    of a list.

    Attributes:
        categories: (id, name) of each label, with the ids of the dataset it was trained on.
        size: side of the square that images are fitted into.
        channels: of images: 3 for RGB, 1 for grey, more for bands.
        description: everything `model.json` says.
    """

    def __init__(self, model: nn.Module, description: dict[str, Any]) -> None:
        self.description = description
        self.categories = [(int(c["id"]), str(c["name"])) for c in description["categories"]]
        self.size = int(description["size"])
        self.channels = int(description.get("architecture", {}).get("in_channels", 3))
        self.model = quick_to_predict(model, self.channels, self.size)

    @property
    def names(self) -> list[str]:
        """Class names by label."""
        return [name for _, name in self.categories]

    def to(self, device: torch.device | str) -> Self:
        """Move the network; returns itself. Raises ValueError if there is no such device here."""
        try:
            self.model.to(device)
        except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
            raise ValueError(f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from error
        return self


def quick_to_predict(model: nn.Module, channels: int, size: int) -> nn.Module:
    """The model, changed in place: in evaluation, with its norms and activations as parts of its convolutions."""
    model.eval().to(memory_format=torch.channels_last)
    if isinstance(model, ImageModel):
        example = torch.zeros(1, channels, size, size)
        fold_norms(model, example)
        fuse_activations(model, example)
    return model


def open_all(images: Sequence[Image], channels: int = 3, batch_size: int = 1) -> Iterator[NDArray[np.uint8]]:
    """The pixels of images, uint8 (H, W, channels), one after another; raises ValueError as `Predictor` says.

    Of more than a batch the next one is read while the network looks at the one before.
    """
    if isinstance(images, (str, Path)):
        raise ValueError(f"give a list of images: predict([{str(images)!r}])")
    if isinstance(images, Sequence) and len(images) <= batch_size:
        return (_open(channels, image) for image in images)
    return ahead(partial(_open, channels), images, batch_size)


def ahead(function: Callable[[S], T], items: Iterable[S], count: int) -> Iterator[T]:
    """A function of each item, in order; of the next `count` items it is computed in threads meanwhile."""
    remaining = iter(items)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: deque[Future[T]] = deque(pool.submit(function, item) for item in islice(remaining, count))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:  # also where nobody wants the rest
            pool.shutdown(cancel_futures=True)


def _open(channels: int, image: Image) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray):
        return read_image(image, channels)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels:
        raise ValueError(
            f"an image must be a path or a uint8 array of shape (H, W, {channels}), got {image.dtype} {image.shape}"
        )
    return image


def in_full_size(images: Iterable[NDArray[np.uint8]]) -> Iterator[Sized]:
    """Images whose results are wanted in the size that they have."""
    return ((image, (image.shape[1], image.shape[0])) for image in images)


def in_batches(items: Iterable[T], batch_size: int) -> Iterator[list[T]]:
    """Lists of `batch_size` items, read when they are asked for; the last may be shorter."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    items = iter(items)
    while batch := list(islice(items, batch_size)):
        yield batch


def model_input(model: nn.Module, images: NDArray[np.uint8]) -> Tensor:
    """Images (N, H, W, 3) as (N, 3, H, W) on the model's device, in the layout of its kernels."""
    device = next(model.parameters()).device
    return torch.from_numpy(images).permute(0, 3, 1, 2).to(device, memory_format=memory_format(model))


def memory_format(model: nn.Module) -> torch.memory_format:
    """The layout of a model's kernels, in which its input is best given."""
    kernels = (p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[-1] > 1)
    kernel = next(kernels, next(model.parameters()))
    return torch.channels_last if kernel.ndim == 4 and not kernel.is_contiguous() else torch.contiguous_format
