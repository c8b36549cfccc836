"""The networks that SSD was published with: VGG-16 and MobileNetV3, cut where the first default boxes are."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones.backbone import Backbone
from detseg.backbones.chain import replace_input, require_strides
from detseg.backbones.create import register_backbone

# Of colours in 0..1; the network sees 0..255 less the mean.
VGG_MEAN, VGG_STD = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3


class ScaledUnit(nn.Module):
    """Each cell of a map (N, C, H, W) at length 1, then scaled by channel (Liu et al. 2015, arXiv:1506.04579)."""

    def __init__(self, channels: int, scale: float = 20.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return self.weight[:, None, None] * F.normalize(x)


class SsdVgg(nn.Module):
    """VGG-16 to conv4_3, its cells at one length, and to fc7 as an atrous convolution (Liu et al. 2016, section 3).

    Poolings round up as the paper's do, so maps have ceil(H / stride) rows whatever H; the last one keeps the size.
    """

    def __init__(self, strides: Sequence[int]) -> None:
        from torchvision.models.vgg import cfgs, make_layers

        super().__init__()
        self.strides = tuple(strides)
        layers = list(make_layers(cfgs["D"]))
        poolings = [place for place, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        for place in poolings:
            layers[place].ceil_mode = True
        self.fine = nn.Sequential(*layers[: poolings[3]])
        self.unit = ScaledUnit(512)
        self.coarse = nn.Sequential(*layers[poolings[3] : poolings[4]])
        self.fc = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(inplace=True),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to its maps at the strides asked for."""
        x = self.fine(x)
        maps = {8: self.unit(x), 16: self.fc(self.coarse(x))}
        return [maps[stride] for stride in self.strides]


@register_backbone("ssd_vgg16")
def ssd_vgg16(*, strides: tuple[int, ...], in_channels: int) -> Backbone:
    """The network of SSD300, as torchvision's `ssd300_vgg16` has it: strides 8 and 16."""
    require_strides("ssd_vgg16", strides, (8, 16))
    net = SsdVgg(strides)
    replace_input([net], in_channels)
    backbone = Backbone(net, strides=strides, in_channels=in_channels, mean=VGG_MEAN, std=VGG_STD, name="ssd_vgg16")
    # Rounding up, it needs no padding, and padded it would not be the paper's network: 300 is no multiple of 16.
    backbone.size_multiple = 1
    return backbone


class SsdLiteMobileNet(nn.Module):
    """MobileNetV3-Large with half its last channels (Howard et al. 2019, arXiv:1905.02244, section 6.3).

    The map of stride 16 is taken inside a block, of its first convolution, which has more channels than its ends.
    """

    def __init__(self, strides: Sequence[int]) -> None:
        from torchvision.models import mobilenet_v3_large

        super().__init__()
        self.strides = tuple(strides)
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        features = mobilenet_v3_large(norm_layer=norm, reduced_tail=True).features
        last = max(place for place, block in enumerate(features) if _halves(block))
        inside = features[last].block
        self.fine = nn.Sequential(*features[:last], inside[0])
        self.coarse = nn.Sequential(inside[1:], *features[last + 1 :])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to its maps at the strides asked for."""
        fine = self.fine(x)
        maps = {16: fine, 32: self.coarse(fine)}
        return [maps[stride] for stride in self.strides]


def _halves(block: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) and module.stride == (2, 2) for module in block.modules())


@register_backbone("ssdlite_mobilenet_v3_large")
def ssdlite_mobilenet_v3_large(*, strides: tuple[int, ...], in_channels: int) -> Backbone:
    """The network of torchvision's `ssdlite320_mobilenet_v3_large`: strides 16 and 32."""
    name = "ssdlite_mobilenet_v3_large"
    require_strides(name, strides, (16, 32))
    net = SsdLiteMobileNet(strides)
    replace_input([net], in_channels)
    half = (0.5, 0.5, 0.5)
    return Backbone(net, strides=strides, in_channels=in_channels, mean=half, std=half, name=name)
