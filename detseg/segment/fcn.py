"""Fully convolutional networks for semantic segmentation (Long, Shelhamer & Darrell 2015, arXiv:1411.4038).

    images -> backbone (strides 8, 16, 32) -> class scores at the finest stride -> upsampling -> logits at any size

`FCN8s` and its sisters are the paper's networks. The same class with ``decoder="pyramid"`` is what works better today.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detseg.backbones import Backbone
from detseg.backbones.normalise import ImageModel
from detseg.segment.decoder import PyramidDecoder, ScoreDecoder
from detseg.segment.losses import IGNORE_INDEX, parse_loss, segmentation_losses
from detseg.segment.upsampling import BilinearUpsample

DECODERS = ("fcn", "pyramid")


class FCN(ImageModel):
    """Semantic segmentation on any backbone.

    Args:
        backbone: what `detseg.backbones.create_backbone` returns; a skip connection for each of its strides but the
            last. ``decoder="fcn"`` means (8, 16, 32), ``decoder="pyramid"`` (4, 8, 16, 32).
        num_classes: K, background included; 2..255.
        decoder: "fcn" is the paper's; "pyramid" fuses the maps themselves, see `detseg.segment.decoder`.
        learn_upsampling: whether the transposed convolutions learn their kernels or stay bilinear ("fcn" only).
        width: channels of the fused maps ("pyramid" only).
        output_scale: logits have this many times the pixels of the input, a side.
        loss: "ce", "dice", "focal", several joined by "+", or their weights by name.
        class_weights: weight of each class in the loss; None for equal ones.

    Example:
        >>> model = FCN8s(create_backbone("resnet18", strides=(8, 16, 32)), num_classes=3)
        >>> losses = model(images, masks)        # {"loss_ce": ...}
        >>> classes = model(images).argmax(1)    # (N, H, W)
    """

    class_weights: Tensor | None

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        decoder: str = "fcn",
        learn_upsampling: bool = False,
        width: int = 96,
        output_scale: int = 1,
        loss: str | Mapping[str, float] = "ce",
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(backbone)
        _check(num_classes, decoder, output_scale, class_weights)
        if decoder == "pyramid" and learn_upsampling:
            raise ValueError(
                'learn_upsampling is for decoder="fcn": the pyramid has no transposed convolutions to learn'
            )
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.backbone = backbone
        self.num_classes = num_classes
        self.output_scale = output_scale
        self.loss = parse_loss(loss)
        self.decoder: ScoreDecoder | PyramidDecoder
        if decoder == "fcn":
            self.decoder = ScoreDecoder(
                backbone.channels, backbone.strides, num_classes, learn_upsampling=learn_upsampling
            )
        else:
            self.decoder = PyramidDecoder(backbone.channels, backbone.strides, num_classes, width=width)
        factor = self.decoder.stride * output_scale
        self.upsample = BilinearUpsample(num_classes, factor, learnable=learn_upsampling and decoder == "fcn")
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Losses when targets are given, logits when not; `.training` plays no part in the choice.

        Args:
            images: (N, 3, H, W) RGB, uint8 or float in [0, 1], of any size.
            targets: (N, s·H, s·W) class of each pixel or `IGNORE_INDEX`, integers; s is `output_scale`.

        Returns:
            A dict of scalar losses whose sum is the loss; or logits (N, K, s·H, s·W) float32.

        Raises:
            ValueError: images or targets of another shape.
        """
        logits = self._logits(images)
        if targets is None:
            return logits
        return segmentation_losses(logits, targets, self.loss, self.class_weights)

    def start_from(self, other: FCN) -> None:
        """Take over the weights of a network with fewer skips, in place.

        The staged training of the paper: `FCN32s` is trained first, `FCN16s` starts from it and `FCN8s` from that one,
        each with a new skip whose scores are zero. At first it says what the other says: the scores at the other's
        finest stride are equal, and so are the logits but for interpolating in two steps, which rounds off the edges
        of interpolating in one (by an eighth of the bend, at most, in either direction).

        Raises:
            ValueError: the other network is of another kind, or has what this one has no place for.
        """
        if not (isinstance(self.decoder, ScoreDecoder) and isinstance(other.decoder, ScoreDecoder)):
            raise ValueError('start_from is for networks with decoder="fcn"')
        if self.num_classes != other.num_classes or not set(other.backbone.strides) <= set(self.backbone.strides):
            raise ValueError(
                f"a network of {self.num_classes} classes at strides {self.backbone.strides} cannot start from one of "
                f"{other.num_classes} classes at strides {other.backbone.strides}"
            )
        mine, theirs = self.state_dict(), other.state_dict()
        new = {name for name in mine if name.startswith(("decoder.", "upsample."))}
        # A kernel that was learnt for one factor, which its shape tells, says nothing of another one.
        kernels = ("upsample.", "decoder.finer.")
        taken = {
            name: tensor
            for name, tensor in theirs.items()
            if not name.startswith(kernels) or (name in mine and mine[name].shape == tensor.shape)
        }
        unknown = [n for n, tensor in taken.items() if n not in mine or mine[n].shape != tensor.shape]
        missing = [n for n in mine if n not in taken and n not in new]
        if unknown or missing:
            raise ValueError(
                f"the backbones {self.backbone.name!r} and {other.backbone.name!r} differ "
                f"({len(unknown)} tensors have no place, {len(missing)} are missing: {(unknown + missing)[0]}); norms "
                "folded into convolutions, as with pretrained weights, differ from unfolded ones too"
            )
        self.load_state_dict(mine | taken)

    def _logits(self, images: Tensor) -> Tensor:
        """(N, K, s·H, s·W) float32."""
        scores = self.decoder(self.backbone(self.normalise(images)))
        height, width = (side * self.output_scale for side in images.shape[-2:])
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.upsample(scores.float())
        return logits[..., :height, :width]


def FCN32s(backbone: Backbone, num_classes: int, **options: Any) -> FCN:
    """`FCN` on stride 32 alone; the backbone has ``strides=(32,)``."""
    return _named("FCN32s", (32,), backbone, num_classes, options)


def FCN16s(backbone: Backbone, num_classes: int, **options: Any) -> FCN:
    """`FCN` with one skip; the backbone has ``strides=(16, 32)``."""
    return _named("FCN16s", (16, 32), backbone, num_classes, options)


def FCN8s(backbone: Backbone, num_classes: int, **options: Any) -> FCN:
    """`FCN` with two skips; the backbone has ``strides=(8, 16, 32)``."""
    return _named("FCN8s", (8, 16, 32), backbone, num_classes, options)


def _named(name: str, strides: tuple[int, ...], backbone: Backbone, num_classes: int, options: dict[str, Any]) -> FCN:
    if tuple(backbone.strides) != strides:
        raise ValueError(
            f"{name} is for strides {strides}, the backbone has {tuple(backbone.strides)}; "
            f"create_backbone({backbone.name!r}, strides={strides}) fits, or FCN for any strides"
        )
    return FCN(backbone, num_classes, decoder="fcn", **options)


def _check(num_classes: int, decoder: str, output_scale: int, class_weights: Sequence[float] | None) -> None:
    if not 2 <= num_classes <= IGNORE_INDEX:
        raise ValueError(f"num_classes must be 2..{IGNORE_INDEX}, background is one of them; got {num_classes}")
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}; choose from {', '.join(DECODERS)}")
    if not isinstance(output_scale, int) or output_scale < 1:
        raise ValueError(f"output_scale must be a whole number of at least 1, got {output_scale!r}")
    if class_weights is not None:
        wrong = [w for w in class_weights if not 0 <= w < float("inf")]
        if wrong or len(class_weights) != num_classes or not any(class_weights):
            raise ValueError(
                f"class_weights must be {num_classes} finite numbers, none negative and one positive, "
                f"got {tuple(class_weights)}"
            )
