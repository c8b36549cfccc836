"""What trained models of all tasks have in common when they look at images."""

from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detseg.backbones.folding import fold_norms
from detseg.backbones.fused import fuse_activations
from detseg.backbones.normalise import ImageModel

ENOUGH = 512  # pixels
Sized = tuple[NDArray[np.uint8], tuple[int, int]]
"""RGB (H, W, 3), perhaps of a shrunk copy, and the (width, height) that results are wanted in."""


class Predictor:
    """A trained model and what it was trained for.

    `predict` of each task takes images, one or several: paths, uint8 arrays (H, W, C), RGB if C is 3, PIL images, or
    tensors (C, H, W), uint8 or float in [0, 1]; in a list or in whatever gives them one by one. It returns a list, and
    raises ValueError, naming the image, where a file is no image, or an array is something else.

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
    def task(self) -> str:
        """What the model was registered for: "detect", "segment", "classify" or "localize"."""
        return str(getattr(self.model, "task", "detect"))  # several fused are detectors

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
        side = min(size, ENOUGH)  # what follows what is the same in larger images
        example = torch.zeros(1, channels, side, side)
        fold_norms(model, example)
        fuse_activations(model, example)
    return model


def in_full_size(images: Iterable[NDArray[np.uint8]]) -> Iterator[Sized]:
    """Images whose results are wanted in the size that they have."""
    return ((image, (image.shape[1], image.shape[0])) for image in images)


def model_input(model: nn.Module, images: NDArray[np.uint8]) -> Tensor:
    """Images (N, H, W, 3) as (N, 3, H, W) on the model's device, in the layout of its kernels."""
    device = next(model.parameters()).device
    return torch.from_numpy(images).permute(0, 3, 1, 2).to(device, memory_format=memory_format(model))


def memory_format(model: nn.Module) -> torch.memory_format:
    """The layout of a model's kernels, in which its input is best given."""
    kernels = (p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[-1] > 1)
    kernel = next(kernels, next(model.parameters()))
    return torch.channels_last if kernel.ndim == 4 and not kernel.is_contiguous() else torch.contiguous_format
