"""The maps that two-stage detectors look at: a backbone's, through a feature pyramid, and a coarser one on top.

Light, of separable layers; or as published (Lin et al. 2017, arXiv:1612.03144), torchvision's, whose weights then fit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones import Backbone
from detseg.backbones.backbone import cut
from detseg.backbones.meta import evaluating, hooked
from detseg.detect.pyramid import FeaturePyramid


class RcnnPyramid(nn.Module):
    """Normalised images (N, C, H, W) to maps of `width` channels: one for each of `strides`, and one half as fine.

    Args:
        backbone: with the strides of the maps.
        width: channels of the maps.
        published: dense layers instead of separable ones.
        tap: an inner layer of the backbone whose map, of the coarsest stride too, comes before its last: torchvision's
            MobileNet has two maps at stride 32.
    """

    def __init__(self, backbone: Backbone, width: int, *, published: bool, tap: str | None = None) -> None:
        super().__init__()
        self.tap = tap
        self.strides = [*backbone.strides] if tap is None else [*backbone.strides, backbone.strides[-1]]
        self.published = published
        self.multiple = backbone.size_multiple
        if not published:
            self.neck: nn.Module = FeaturePyramid(backbone.channels, backbone.strides, width)
            return
        from torchvision.ops import FeaturePyramidNetwork  # here: it takes seconds to load

        channels = [*backbone.channels]
        if tap is not None:
            with torch.no_grad(), evaluating(backbone):
                side = backbone.size_multiple
                channels = [
                    x.shape[1] for x in self.backbone_maps(backbone, torch.zeros(1, len(backbone.mean), side, side))
                ]
        self.neck = FeaturePyramidNetwork(channels, width)

    def backbone_maps(self, backbone: Backbone, images: Tensor) -> list[Tensor]:
        """The backbone's maps, with that of the tap before the last."""
        if self.tap is None:
            return backbone(images)
        inner: list[Tensor] = []
        with hooked([backbone.net.get_submodule(self.tap)], lambda _module, _inputs, output: inner.append(output)):
            maps = backbone(images)
        return [*maps[:-1], cut(inner[0], maps[-1]), maps[-1]]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the backbone to those of the pyramid."""
        if self.published:
            found = list(self.neck({str(i): x for i, x in enumerate(maps)}).values())
        else:
            found = list(self.neck(maps))
        return [*found, F.max_pool2d(found[-1], 1, 2)]  # every second cell

    def steps(self, maps: Sequence[Tensor], size: Sequence[int]) -> list[tuple[int, int]]:
        """Pixels from cell to cell of the maps, down and across, in images of `size` (height, width).

        torchvision divides the sides, which for the coarsest map may give less than its stride.
        """
        if not self.published:
            return [(stride, stride) for stride in (*self.strides, 2 * self.strides[-1])]
        height, width = (-(-side // self.multiple) * self.multiple for side in size)
        return [(height // x.shape[-2], width // x.shape[-1]) for x in maps]
