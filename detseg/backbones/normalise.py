"""What every model does to images first: floats in [0, 1], normalised as its backbone wants them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detseg.backbones.class_rows import ClassRows

ONE_VALUE = "batch norm cannot learn from one value of a channel"


class ImageModel(nn.Module):
    """Base of the models that take images; subclasses call `normalise` first. `detseg.models.Model` is the contract.

    Attributes:
        mean, std: (C, 1, 1) buffers, which are not saved: the backbone declares them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, source: Any) -> None:
        """Take over `source.mean` and `source.std`, C numbers each: those of a backbone, a network or another model."""
        super().__init__()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.as_tensor(getattr(source, name)).view(-1, 1, 1), persistent=False)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """What the model gives; ValueError where it trains on one image, of which a map is a single cell."""
        try:
            return super().__call__(*inputs, **options)
        except ValueError as error:  # torch's names neither the image nor a remedy
            if "Expected more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"{ONE_VALUE}, where a map is one cell of one image; give several images at a time, or larger ones, or "
                "call eval() to predict"
            ) from error

    @classmethod
    def options_for(cls, data: Any, config: Any) -> dict[str, Any]:
        """Arguments of the class that follow from training data and settings; none, if a model has none."""
        return {}

    def class_layers(self) -> dict[str, ClassRows]:
        """The layers, by name, whose rows are of classes; these are matched by the classes' names from run to run."""
        return {}

    def exportable(self) -> nn.Module:
        """This model as a module of plain tensors in and out."""
        return self

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalise with other numbers than those the backbone declares, C each; ValueError for other counts."""
        count = len(self.mean)
        if len(mean) != count or len(std) != count or not all(map(math.isfinite, [*mean, *std])) or min(std) <= 0:
            raise ValueError(f"mean and std must be {count} numbers each, std above 0, not {list(mean)}, {list(std)}")
        for name, values in (("mean", mean), ("std", std)):
            getattr(self, name).copy_(torch.tensor(values).view(-1, 1, 1))

    def normalise(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 or float in [0, 1], as ``(x - mean) / std``; ValueError for other images."""
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(
                f"images must be (N, {len(self.mean)}, H, W), the channels that the backbone was made for; got "
                f"{tuple(images.shape)}"
            )
        return (unit_images(images, self.mean.dtype) - self.mean) / self.std


def unit_images(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images, uint8 or float in [0, 1], as floats in [0, 1] of `dtype`; ValueError for other integers."""
    if images.dtype == torch.uint8:
        return images.to(dtype) / 255
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 or float in [0, 1], got {images.dtype}")
    return images.to(dtype)
