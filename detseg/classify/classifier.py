"""One class an image: backbone, global average pooling, a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones import Backbone
from detseg.backbones.normalise import unit_images


class Classifier(nn.Module):
    """A classifier on any backbone.

    Args:
        backbone: its deepest map is pooled; `detseg.backbones.deepest.create_deepest` makes one with that alone.
        num_classes: K, at least 2.
        dropout: share of the pooled features that are zeroed at random while training.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).

    Example:
        >>> model = Classifier(create_deepest("resnet18"), num_classes=3)
        >>> losses = model(images, labels)                # {"loss_class": ...}
        >>> probabilities = model(images).softmax(1)      # (N, K)
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: Backbone, num_classes: int, *, dropout: float = 0.2, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least two classes, not {num_classes}")
        for name, value in (("dropout", dropout), ("label_smoothing", label_smoothing)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must lie in 0..1, below 1, it is {value}")
        self.backbone = backbone
        self.num_classes = num_classes
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.classifier = nn.Linear(backbone.channels[-1], num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Losses when targets are given, logits when not; `.training` only decides on dropout.

        Args:
            images: (N, 3, H, W) RGB, uint8 or float in [0, 1], of any size.
            targets: (N,) labels, int64.

        Returns:
            ``{"loss_class": ...}``, the mean cross-entropy; or logits (N, K) float32.
        """
        features = F.dropout(self.features(images), self.dropout, self.training)
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.classifier(features.to(self.classifier.weight.dtype)).float()
        if targets is None:
            return logits
        return {"loss_class": F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)}

    def features(self, images: Tensor) -> Tensor:
        """What the linear layer sees: (N, C), the mean of the deepest map over all cells."""
        images = unit_images(images, self.mean.dtype)
        deepest: Tensor = self.backbone((images - self.mean) / self.std)[-1]
        return deepest.mean((2, 3))

    def plain(self) -> nn.Module:
        """This network as `dense_to_conv` can read it: float images (N, 3, H, W) in [0, 1] to logits (N, K)."""
        return _Plain(self)


class _Plain(nn.Module):
    """A classifier that decides nothing by what its input is."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.backbone, self.classifier = model.backbone, model.classifier
        self.register_buffer("mean", model.mean, persistent=False)
        self.register_buffer("std", model.std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, K)."""
        logits: Tensor = self.classifier(self.backbone((images - self.mean) / self.std)[-1].mean((2, 3)))
        return logits
