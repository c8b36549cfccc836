"""Whole networks, made elsewhere, that take images as detseg's own models do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detseg.backbones.normalise import unit_images


class NetworkClassifier(nn.Module):
    """A classifier of `detseg.backbones.create_network` with its normalisation in front.

    Args:
        network: normalised (N, 3, H, W) to logits (N, K), with attributes `mean` and `std`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(network.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(network.std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of RGB images (N, 3, H, W), uint8 or float in [0, 1]."""
        images = unit_images(images, self.mean.dtype)
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits
