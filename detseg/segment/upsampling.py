"""Upsampling of score maps by bilinear transposed convolution (Long, Shelhamer & Darrell 2015, arXiv:1411.4038).

The alignment, for a factor f. Cell i of a map at stride f stands for the pixels [f·i, f·(i + 1)), so its centre is at
index c(i) = f·i + (f - 1)/2 of the finer map. A transposed convolution of stride f writes its kernel of
k = 2f - f%2 numbers, centred on (k - 1)/2, from index f·i on; with `padding` p it drops the first and last p numbers of
the result. The kernel's centre has to come to lie on c(i):

    f·i + (k - 1)/2 - p = f·i + (f - 1)/2    =>    p = (k - f)/2 = (f - f%2)/2 = f // 2

and from n cells come (n - 1)·f + k - 2p = n·f: the whole finer map, nothing to crop. Maps of sizes that are no
multiple of f were padded at the bottom and right (`detseg.backbones.Backbone`), so their surplus is cut off there.
Outside of the map a transposed convolution adds zeros, which would pull the scores at the border towards zero; the
outermost cells are repeated once instead (the kernel reaches no further), and those f numbers a side are dropped too.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def bilinear_kernel(factor: int) -> Tensor:
    """The kernel, (k, k) float32 with k = 2 · factor - factor % 2, of a bilinear transposed convolution."""
    size = kernel_size(factor)
    distance = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2).abs()
    line = 1 - distance / factor
    return torch.outer(line, line).float()


class BilinearUpsample(nn.Module):
    """(N, C, H, W) to (N, C, factor · H, factor · W), each channel by itself.

    Fixed, it is bilinear interpolation with half-pixel centres. Learnable, it is the transposed convolution that
    begins as exactly that, with a weight (C, 1, k, k). None mixes channels: the paper's released models have full
    kernels, but begin on the diagonal and hardly leave it, for C times the arithmetic.
    """

    def __init__(self, channels: int, factor: int, *, learnable: bool = False) -> None:
        super().__init__()
        kernel = bilinear_kernel(factor)
        self.channels, self.factor = channels, factor
        self.weight = nn.Parameter(kernel.repeat(channels, 1, 1, 1)) if learnable else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, factor · H, factor · W) of the same dtype."""
        if self.weight is None:
            # The same numbers from a quicker kernel; a test compares the two.
            return F.interpolate(x, scale_factor=float(self.factor), mode="bilinear", align_corners=False)
        return transposed_upsample(x, self.weight.to(x.dtype), self.factor)

    def extra_repr(self) -> str:
        """Channels, factor, learnable or not."""
        return f"{self.channels}, factor={self.factor}, learnable={self.weight is not None}"


def transposed_upsample(x: Tensor, weight: Tensor, factor: int) -> Tensor:
    """(N, C, H, W) to (N, C, factor · H, factor · W) by a weight (C, 1, k, k), aligned as derived above."""
    size = kernel_size(factor)
    if weight.shape != (x.shape[1], 1, size, size):
        raise ValueError(f"weight must be {(x.shape[1], 1, size, size)} for factor {factor}, got {tuple(weight.shape)}")
    repeated = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return F.conv_transpose2d(repeated, weight, stride=factor, padding=factor // 2 + factor, groups=len(weight))


def kernel_size(factor: int) -> int:
    """k = 2 · factor - factor % 2; ValueError for a factor below 1."""
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"factor must be a whole number of at least 1, got {factor!r}")
    return 2 * factor - factor % 2
