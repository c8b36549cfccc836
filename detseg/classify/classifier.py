"""One class an image: backbone, global average pooling, fully connected layers if asked for, a linear layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones import Backbone
from detseg.backbones.class_rows import ClassRows
from detseg.backbones.normalise import ImageModel
from detseg.options import require_share
from detseg.registry import register_model


@register_model("classifier", task="classify")
class Classifier(ImageModel):
    """A classifier on any backbone.

    Args:
        backbone: its deepest map is pooled; `detseg.backbones.create_deepest` makes one with that alone.
        num_classes: K, at least 2.
        dropout: share of the pooled features that are zeroed at random while training.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).
        head: widths of fully connected layers with ReLU and dropout between the pooled features and the last layer.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options of the classifier."""

        dropout: float = 0.2
        """Dropout before the last layer."""
        label_smoothing: float = 0.1
        """Label smoothing."""
        head: tuple[int, ...] = ()
        """Widths of fully connected layers before the last one, such as 1000 500 150; by default none."""

        def check_model(self) -> None:
            """Raise ValueError where options make no sense."""
            require_share(self, "dropout", "label_smoothing", below=True)
            if any(width < 1 for width in self.head):
                raise ValueError(f"--head lists the widths of layers, at least 1 each, not {self.head}")

    @classmethod
    def options_for(cls, data: Any, config: Any) -> dict[str, Any]:
        """The options as set."""
        options = {"dropout": config.dropout, "label_smoothing": config.label_smoothing}
        return options | ({"head": list(config.head)} if config.head else {})

    @staticmethod
    def example_targets(count: int, size: int, device: torch.device | str) -> Tensor:
        """Class 0 for each of `count` images."""
        return torch.zeros(count, dtype=torch.int64, device=device)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        dropout: float = 0.2,
        label_smoothing: float = 0.0,
        head: Sequence[int] = (),
    ) -> None:
        super().__init__(backbone)
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least two classes, not {num_classes}")
        for name, value in (("dropout", dropout), ("label_smoothing", label_smoothing)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must lie in 0..1, below 1, it is {value}")
        self.backbone = backbone
        self.num_classes = num_classes
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        widths = [backbone.channels[-1], *head]
        layers = (
            layer
            for before, width in pairwise(widths)
            for layer in (nn.Linear(before, width), nn.ReLU(), nn.Dropout(dropout))
        )
        self.hidden = nn.Sequential(*layers)  # PyTorch's own initialisation: these are no class scores
        self.classifier = nn.Linear(widths[-1], num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Mean cross-entropy ``{"loss_class": ...}`` when targets are given, logits (N, K) float32 when not.

        Args:
            images: (N, 3, H, W) RGB, uint8 or float in [0, 1], of any size.
            targets: (N,) labels, int64.
        """
        features = F.dropout(self.features(images), self.dropout, self.training)
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.classifier(self.hidden(features.to(self.classifier.weight.dtype))).float()
        if targets is None:
            return logits
        return {"loss_class": F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)}

    def class_layers(self) -> dict[str, ClassRows]:
        """See `detseg.backbones.normalise.ImageModel`."""
        return {"classifier": ClassRows()}

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: (N, C), the mean of the deepest map over all cells."""
        deepest: Tensor = self.backbone(self.normalise(images))[-1]
        return deepest.mean((2, 3))

    def plain(self, images: Tensor) -> Tensor:
        """`forward` for `dense_to_conv`, which decides nothing by what its input is: float images to logits (N, K)."""
        pooled = self.backbone((images - self.mean) / self.std)[-1].mean((2, 3))
        logits: Tensor = self.classifier(self.hidden(pooled))
        return logits


class NetworkClassifier(ImageModel):
    """A classifier of `detseg.backbones.create_network`, with attributes `mean` and `std`, and its normalisation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of RGB images (N, 3, H, W), uint8 or float in [0, 1]."""
        logits: Tensor = self.network(self.normalise(images))
        return logits
