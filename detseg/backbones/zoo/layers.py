"""Layers for networks of one's own: squeeze and excitation (Hu et al., 2017), depthwise max-pooling."""

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """Any stage, its output maps each scaled by a factor in 0..1 that depends on all of them.

    Squeeze: the mean of each map. Excite: two layers, `channels` -> `channels / ratio` -> `channels`, with ReLU and
    sigmoid. In a residual network the wrapped part is what is added, not the sum (the paper's figure 3):
    `unit.main = SqueezeExcitation(unit.main, channels)`.

    Args:
        stage: gives (N, channels, H, W).
        channels: of its output.
        ratio: how many times fewer the hidden neurons are; at least one is left.
    """

    def __init__(self, stage: nn.Module, channels: int, ratio: int = 16) -> None:
        if channels < 1 or ratio < 1:
            raise ValueError(f"channels and ratio must be at least 1, got {channels} and {ratio}")
        super().__init__()
        hidden = max(1, channels // ratio)
        self.stage = stage
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.relu = nn.ReLU(inplace=True)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The stage's maps (N, channels, H, W), scaled."""
        maps = self.stage(x)
        means = maps.mean((2, 3), keepdim=True)
        return maps * self.excite(self.relu(self.squeeze(means))).sigmoid()


class DepthwiseMaxPool(nn.Module):
    """Each output map is, place by place, the maximum of `size` maps in a row.

    Learnt filters that look for the same thing turned, thicker or brighter become one map that finds it in any form.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C / size, H, W); ValueError where C is no multiple of `size`."""
        if x.shape[1] % self.size:
            raise ValueError(
                f"{x.shape[1]} maps cannot be pooled {self.size} by {self.size}; "
                f"use a size that divides them, or convolutions with a multiple of {self.size} maps"
            )
        return x.unflatten(1, (-1, self.size)).amax(2)

    def extra_repr(self) -> str:
        """The size."""
        return f"size={self.size}"
