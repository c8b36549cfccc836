"""A light feature pyramid: every level sees what the deeper ones know (Lin et al. 2017, arXiv:1612.03144)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm_act(in_channels: int, out_channels: int, kernel_size: int = 1, *, groups: int = 1) -> nn.Sequential:
    """Convolution that keeps the map's size, batch norm, SiLU."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.SiLU(inplace=True))


def separable(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
    """Depthwise then pointwise convolution, each with batch norm and SiLU: k² + C weights a channel, not k²·C."""
    return nn.Sequential(
        *conv_norm_act(in_channels, in_channels, kernel_size, groups=in_channels),
        *conv_norm_act(in_channels, out_channels),
    )


class ResidualSeparable(nn.Module):
    """``x + separable(x)``, (N, C, H, W) to the same shape.

    With ``start_at_zero`` the block begins as the identity (Goyal et al. 2017, arXiv:1706.02677, section 5.1), so
    that what is stacked behind pretrained features does not hide them from the layers after it: random layers
    in a row cost a short training most of its time (docs/results.md).
    """

    def __init__(self, width: int, kernel_size: int = 5, *, start_at_zero: bool = True) -> None:
        super().__init__()
        self.body = separable(width, width, kernel_size)
        norm = self.body[-2]
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.constant_(norm.weight, 0.0 if start_at_zero else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        out: Tensor = x + self.body(x)
        return out


class FeaturePyramid(nn.Module):
    """Maps of several strides to maps of the same strides and one width.

    Args:
        channels: channels of the maps that come in, finest first.
        width: channels of every map that goes out.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_norm_act(c, width) for c in channels)
        self.smooth = nn.ModuleList(ResidualSeparable(width) for _ in channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(N, C_l, H_l, W_l) for every level, finest first, to (N, width, H_l, W_l)."""
        maps = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for fine in range(len(maps) - 2, -1, -1):
            # Resized to the finer map's own size: odd input sizes make it other than twice the coarse one.
            maps[fine] = maps[fine] + F.interpolate(maps[fine + 1], maps[fine].shape[-2:], mode="nearest")
        return [smooth(x) for smooth, x in zip(self.smooth, maps, strict=True)]
