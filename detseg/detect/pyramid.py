"""A light feature pyramid network: deep levels are added to the finer ones (Lin et al. 2017, arXiv:1612.03144)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones.backbone import check_multiples, cut
from detseg.backbones.blocks import ResidualSeparable, conv_norm_act


class FeaturePyramid(nn.Module):
    """Maps of `channels` and `strides`, finest first, to maps of one width; each stride a multiple of the last."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int) -> None:
        super().__init__()
        self.factors = check_multiples(strides)
        self.lateral = nn.ModuleList(conv_norm_act(c, width) for c in channels)
        self.smooth = nn.ModuleList(ResidualSeparable(width) for _ in channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(N, C_l, H_l, W_l) for every level, finest first, to (N, width, H_l, W_l)."""
        maps = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for fine in range(len(maps) - 2, -1, -1):
            # By the whole factor: resized to the finer map's own size, cells would take others than those above them.
            coarse = F.interpolate(maps[fine + 1], scale_factor=float(self.factors[fine]), mode="nearest")
            maps[fine] = maps[fine] + cut(coarse, maps[fine])
        return [smooth(x) for smooth, x in zip(self.smooth, maps, strict=True)]
