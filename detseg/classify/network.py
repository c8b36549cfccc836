"""Whole networks, made elsewhere, that take images as detseg's own models do."""

from __future__ import annotations

from torch import Tensor, nn

from detseg.backbones.normalise import ImageModel


class NetworkClassifier(ImageModel):
    """A classifier of `detseg.backbones.create_network` with its normalisation in front.

    Args:
        network: normalised (N, 3, H, W) to logits (N, K), with attributes `mean` and `std`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of RGB images (N, 3, H, W), uint8 or float in [0, 1]."""
        logits: Tensor = self.network(self.normalise(images))
        return logits
