"""Small blocks that necks and decoders are made of."""

from torch import Tensor, nn


def conv_norm_act(in_channels: int, out_channels: int) -> nn.Sequential:
    """Pointwise convolution, batch norm, SiLU."""
    # Not in place: autograd would first copy what SiLU overwrites.
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.SiLU())


def separable(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
    """Depthwise then pointwise convolution, batch norm, SiLU: k² + C weights a channel, not k²·C.

    Nothing stands between the two convolutions, as in EfficientDet (Tan et al. 2020, arXiv:1911.09070): on a CPU norms
    and activations take as long as these convolutions, and a second pair of them gained nothing.
    """
    depthwise = nn.Conv2d(
        in_channels, in_channels, kernel_size, padding=kernel_size // 2, groups=in_channels, bias=False
    )
    return nn.Sequential(depthwise, *conv_norm_act(in_channels, out_channels))


class ResidualSeparable(nn.Module):
    """``x + separable(x)``, (N, C, H, W) to the same shape.

    With ``start_at_zero`` the block begins as the identity (Goyal et al. 2017, arXiv:1706.02677, section 5.1): random
    layers in a row behind pretrained features cost a short training most of its time.
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
