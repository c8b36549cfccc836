"""Fully convolutional networks for semantic segmentation (Long, Shelhamer & Darrell 2015, arXiv:1411.4038).

images -> backbone (strides 8, 16, 32) -> class scores at the finest stride -> upsampling -> logits at any size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detseg.backbones import Backbone
from detseg.backbones.class_rows import ClassRows
from detseg.backbones.normalise import ImageModel
from detseg.options import require_rising_strides
from detseg.registry import register_model
from detseg.segment.decoder import DECODERS
from detseg.segment.losses import IGNORE_INDEX, parse_loss, segmentation_losses
from detseg.segment.upsampling import BilinearUpsample

_FINEST = 32  # times the pixels of the input, a side: the kernels that make maps finer grow with it


@register_model("fcn", task="segment")
class FCN(ImageModel):
    """Semantic segmentation on any backbone.

    Args:
        backbone: with a skip connection for each of its strides but the last; a decoder's `usual_strides` are
            (8, 16, 32) for "fcn", (4, 8, 16, 32) for "pyramid".
        num_classes: K, background included; 2..255.
        decoder: "fcn" is the paper's; "pyramid" fuses the maps themselves; see `detseg.segment.decoder`.
        learn_upsampling: whether the transposed convolutions learn, beginning as bilinear interpolation, or the maps
            are interpolated. By default they learn where the decoder has them, as "fcn" does.
        width: channels of the maps that the decoder makes ("pyramid").
        output_scale: logits have this many times the pixels of the input, a side.
        loss: "ce", "dice", "focal", several joined by "+", or their weights by name.
        class_weights: weight of each class in the loss; None for equal ones.
    """

    class_weights: Tensor | None

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options of the segmenter."""

        decoder: str = "fcn"
        """Decoder: fcn (FCN-8s) or pyramid (feature pyramid down to stride 4)."""
        strides: tuple[int, ...] | None = None
        """Strides of the feature maps used; by default 8 16 32 (FCN-8s), for pyramid 4 8 16 32; 32 alone is FCN-32s."""
        atrous: bool = False
        """Dilated (atrous) convolutions in the last backbone stage: same weights, a map twice as fine, slower."""
        learn_upsampling: bool | None = None
        """Learn the transposed convolutions, which start as bilinear; fixed if off; by default on for fcn."""
        loss: str = "ce"
        """Loss: ce (cross-entropy), dice, focal, or a sum such as ce+dice."""

        def check_model(self) -> None:
            """Raise ValueError where options contradict each other or make no sense."""
            if self.learn_upsampling and not DECODERS[self.decoder].learns_upsampling:
                able = ", ".join(name for name, decoder in DECODERS.items() if decoder.learns_upsampling)
                raise ValueError(f"--learn-upsampling is for --decoder {able}: {self.decoder} has no kernels to learn")
            require_rising_strides(self.used_strides)
            *others, last = self.used_strides
            if self.atrous and last // 2 in others:
                left = " ".join(str(stride) for stride in (*others, last) if stride != last // 2)
                raise ValueError(
                    f"--atrous makes the map of stride {last} one of stride {last // 2}, which --strides has already; "
                    f"give --strides {left}"
                )
            parse_loss(self.loss)

        @property
        def used_strides(self) -> tuple[int, ...]:
            """`strides`, or what is usual for the decoder."""
            return self.strides or DECODERS[self.decoder].strides_for(atrous=self.atrous)

    @classmethod
    def options_for(cls, data: Any, config: Any) -> dict[str, Any]:
        """The options as set; weights of the classes come with `--balance`."""
        learn = config.learn_upsampling
        return {
            "strides": list(config.used_strides),
            "atrous": config.atrous,
            "decoder": config.decoder,
            "learn_upsampling": DECODERS[config.decoder].learns_upsampling if learn is None else learn,
            "loss": config.loss,
            "class_weights": None,
        }

    @staticmethod
    def example_targets(count: int, size: int, device: torch.device | str) -> Tensor:
        """Class 0 for every pixel of `count` images."""
        return torch.zeros(count, size, size, dtype=torch.uint8, device=device)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        decoder: str = "fcn",
        learn_upsampling: bool | None = None,
        width: int = 96,
        output_scale: int = 1,
        loss: str | Mapping[str, float] = "ce",
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(backbone)
        _check(num_classes, width, output_scale, class_weights)
        kind = DECODERS[decoder]
        if learn_upsampling and not kind.learns_upsampling:
            raise ValueError(f"learn_upsampling: the decoder {decoder!r} has no transposed convolutions to learn")
        self.backbone = backbone
        self.num_classes = num_classes
        self.output_scale = output_scale
        self.loss = parse_loss(loss)
        self.decoder = kind(backbone.channels, backbone.strides, num_classes, width=width)
        factor = backbone.strides[0] * output_scale
        self.upsample = BilinearUpsample(num_classes, factor, learnable=kind.learns_upsampling)
        if learn_upsampling is False:
            for layer in self.modules():
                if isinstance(layer, BilinearUpsample):
                    layer.weight = None
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Losses when targets are given, logits when not; `.training` plays no part in the choice.

        Args:
            images: (N, 3, H, W) RGB, uint8 or float in [0, 1], of any size.
            targets: (N, s·H, s·W) class of each pixel or `IGNORE_INDEX`, integers; s is `output_scale`.

        Returns:
            A dict of scalar losses whose sum is the loss; or logits (N, K, s·H, s·W) float32.
        """
        scores = self.decoder(self.backbone(self.normalise(images)))
        height, width = (side * self.output_scale for side in images.shape[-2:])
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.upsample(scores.float())[..., :height, :width]
        if targets is None:
            return logits
        return segmentation_losses(logits, targets, self.loss, self.class_weights)

    def class_layers(self) -> dict[str, ClassRows]:
        """See `detseg.backbones.normalise.ImageModel`: scores, and the learnt upsampling of each class's map."""
        names = ["upsample", *(f"decoder.{name}" for name in self.decoder.class_layers())]
        return {name: ClassRows() for name in names}

    def start_from(self, other: FCN) -> None:
        """Take over the weights of a network with fewer skips, in place.

        The staged training of the paper: `FCN32s` is trained first, `FCN16s` starts from it and `FCN8s` from that one,
        each with a new skip whose scores are zero. Transposed convolutions of new factors begin as interpolation. So
        the scores at the other's finest stride are equal at first; the logits differ by what its last upsampling has
        learnt, and by interpolating in two steps.

        Raises:
            ValueError: the other network is of another kind, or has what this one has no place for.
        """
        if type(self.decoder) is not type(other.decoder) or not self.decoder.extends:
            able = " or ".join(f'"{name}"' for name, kind in DECODERS.items() if kind.extends)
            raise ValueError(f"start_from is for two networks with decoder={able}, whose coarser forms are parts of it")
        if self.num_classes != other.num_classes or not set(other.backbone.strides) <= set(self.backbone.strides):
            raise ValueError(
                f"a network of {self.num_classes} classes at strides {self.backbone.strides} cannot start from one of "
                f"{other.num_classes} classes at strides {other.backbone.strides}"
            )
        mine, theirs = self.state_dict(), other.state_dict()
        taken = {n: tensor for n, tensor in theirs.items() if n in mine and mine[n].shape == tensor.shape}
        # A kernel that was learnt for one factor (see its shape) is of no use for another one.
        unknown = [n for n in theirs if n not in taken and not n.startswith(("upsample.", "decoder.finer."))]
        missing = [n for n in mine if n not in theirs and not n.startswith(("upsample.", "decoder."))]
        if unknown or missing:
            raise ValueError(
                f"the backbones {self.backbone.name!r} and {other.backbone.name!r} differ "
                f"({len(unknown)} tensors have no place, {len(missing)} are missing: {(unknown + missing)[0]}); norms "
                "folded into convolutions, as with pretrained weights, differ from unfolded ones too"
            )
        self.load_state_dict(mine | taken)


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


def _check(num_classes: int, width: int, output_scale: int, class_weights: Sequence[float] | None) -> None:
    if not 2 <= num_classes <= IGNORE_INDEX:
        raise ValueError(f"num_classes must be 2..{IGNORE_INDEX}, background is one of them; got {num_classes}")
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    if not isinstance(output_scale, int) or not 1 <= output_scale <= _FINEST:
        raise ValueError(
            f"output_scale must be a whole number of at least 1 and at most {_FINEST}, got {output_scale!r}"
        )
    if class_weights is not None:
        wrong = [w for w in class_weights if not 0 <= w < float("inf")]
        if wrong or len(class_weights) != num_classes or not any(class_weights):
            raise ValueError(
                f"class_weights must be {num_classes} finite numbers, none negative and one positive, "
                f"got {tuple(class_weights)}"
            )
