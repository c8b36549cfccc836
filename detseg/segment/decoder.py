"""Decoders: from the backbone's maps to class scores at the finest of their strides.

A decoder is a class with `@register_decoder`, built from channels and strides; `FCN` and the commands know no names.
Maps of images whose size is no multiple of a stride reach over their border, so a coarse map made finer is cut to the
finer map's size, at the bottom and right.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from detseg.backbones.backbone import check_multiples, cut
from detseg.backbones.blocks import ResidualSeparable, conv_norm_act
from detseg.registry import Registry
from detseg.segment.upsampling import BilinearUpsample


class Decoder(nn.Module):
    """Base of the decoders: one map per stride, finest first, to scores (N, K, H_0, W_0) of the finest map's size.

    `channels` and `strides` are the maps', each stride a multiple of the one before; `width` is the number of channels
    of the maps that the decoder makes, if it makes any.
    """

    # Those of the backbone where nobody asks for others.
    usual_strides: ClassVar[tuple[int, ...]] = (8, 16, 32)
    # Whether it makes maps finer by transposed convolutions, which can learn, as the network's last upsampling then.
    learns_upsampling: ClassVar[bool] = False
    # Whether a trained network with fewer, coarser strides can be the start of one with more.
    extends: ClassVar[bool] = False

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, *, width: int = 96) -> None:
        super().__init__()

    def class_layers(self) -> list[str]:
        """Names of the layers with a row for each class."""
        return []

    @classmethod
    def strides_for(cls, *, atrous: bool) -> tuple[int, ...]:
        """`usual_strides`; those of an atrous backbone lack the map that its last one takes the place of."""
        *others, last = cls.usual_strides
        return (*(stride for stride in others if not atrous or 2 * stride != last), last)


DECODERS: Registry[type[Decoder]] = Registry("decoder")
# Decorator: makes a subclass of `Decoder` known to `FCN` and `detseg train segmenter` by its argument, a name.
register_decoder = DECODERS.register


@register_decoder("fcn")
class ScoreDecoder(Decoder):
    """The fully convolutional network's own (Long et al. 2015): class scores on every stride, made finer and added.

    Every score layer starts at zero, as in the paper, so an added skip changes nothing at first.
    """

    learns_upsampling = True
    extends = True

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, *, width: int = 0) -> None:
        super().__init__(channels, strides, num_classes)
        factors = check_multiples(strides)
        # Named by their strides, so that weights find their place when a skip is added.
        self.score = nn.ModuleDict(
            {str(stride): nn.Conv2d(c, num_classes, 1) for c, stride in zip(channels, strides, strict=True)}
        )
        self.finer = nn.ModuleDict(
            {
                str(stride): BilinearUpsample(num_classes, factor, learnable=True)
                for stride, factor in zip(strides[1:], factors, strict=True)
            }
        )
        for layer in self.score.values():
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def class_layers(self) -> list[str]:
        """Scores and what makes them finer, of each stride."""
        return [f"{part}.{stride}" for part in ("score", "finer") for stride in getattr(self, part)]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(N, C_l, H_l, W_l) for every stride, finest first, to (N, K, H_0, W_0) float32."""
        # Summed in float32: adding up and interpolating in half precision would cost the scores their last digits.
        scores = [layer(x).float() for layer, x in zip(self.score.values(), maps, strict=True)]
        total = scores.pop()
        for finer in reversed(list(self.finer.values())):
            skip = scores.pop()
            total = skip + cut(finer(total), skip)
        return total


@register_decoder("pyramid")
class PyramidDecoder(Decoder):
    """A light decoder that knows the whole image: bilinear skip fusion, top down, of maps of one width.

        coarsest map -> 1x1 + the image's mean features -> residual -> twice as fine -> + 1x1 of the skip -> …

    The ideas are those of feature pyramids (Lin et al. 2017, arXiv:1612.03144), their segmentation form (Kirillov et
    al. 2019, arXiv:1901.02446), and the global context of ParseNet (Liu et al. 2015, arXiv:1506.04579).
    """

    usual_strides = (4, 8, 16, 32)

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, *, width: int = 96) -> None:
        super().__init__(channels, strides, num_classes)
        factors = check_multiples(strides)
        self.lateral = nn.ModuleList(conv_norm_act(c, width) for c in channels)
        self.smooth = nn.ModuleList(ResidualSeparable(width, 3) for _ in channels)
        self.finer = nn.ModuleList(BilinearUpsample(width, factor) for factor in factors)
        # No batch norm in it: an image has one such vector, and a batch of one would have nothing to average.
        self.context = nn.Linear(channels[-1], width)
        self.score = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        assert self.score.bias is not None
        nn.init.zeros_(self.score.bias)

    def class_layers(self) -> list[str]:
        """The last one."""
        return ["score"]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(N, C_l, H_l, W_l) for every stride, finest first, to (N, K, H_0, W_0)."""
        sides = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        x = sides.pop() + self.context(maps[-1].mean((2, 3)))[..., None, None]
        x = self.smooth[-1](x)
        for level, side in reversed(list(enumerate(sides))):
            x = self.smooth[level](side + cut(self.finer[level](x), side))
        scores: Tensor = self.score(x)
        return scores
