"""Zero padding that writes every number once, as networks from TensorFlow want it before convolutions of stride 2.

torch's `pad` fills the whole result with zeros before it copies the image into it: on a CPU a tenth of a training
step of EfficientNet-Lite0 went there. Other devices are left to torch.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Conv2dSame, get_same_padding
from torch import Tensor, nn
from torch.nn import functional as F


def pad_zeros(x: Tensor, left: int, right: int, top: int = 0, bottom: int = 0) -> Tensor:
    """``F.pad(x, (left, right, top, bottom))`` of (N, C, H, W), none of the four negative."""
    if not (left or right or top or bottom):
        return x
    if x.device.type != "cpu":
        return F.pad(x, (left, right, top, bottom))
    if torch.is_grad_enabled() and x.requires_grad:
        padded: Tensor = _Pad.apply(x, left, right, top, bottom)
        return padded
    return _pad(x, left, right, top, bottom)


def _pad(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    height, width = x.shape[-2] + top + bottom, x.shape[-1] + left + right
    # By its strides: a part of an image in channels_last is not contiguous, but has its channels side by side.
    layout = torch.channels_last if x.stride(1) == 1 < x.shape[1] else torch.contiguous_format
    result = torch.empty((*x.shape[:-2], height, width), dtype=x.dtype, device=x.device, memory_format=layout)
    rows = slice(top, height - bottom)
    result[..., :top, :] = 0
    result[..., height - bottom :, :] = 0
    result[..., rows, :left] = 0
    result[..., rows, width - right :] = 0
    result[..., rows, left : width - right] = x
    return result


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
        ctx.window = slice(top, top + x.shape[-2]), slice(left, left + x.shape[-1])
        return _pad(x, left, right, top, bottom)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        rows, columns = ctx.window
        return gradient[..., rows, columns], None, None, None, None


def pad_same(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """`x` (N, C, H, W) padded as TensorFlow's SAME does for `conv`: ceil(H / stride) rows come out of it."""
    kernel, stride, dilation = conv.kernel_size, conv.stride, conv.dilation
    down = get_same_padding(x.shape[-2], kernel[0], stride[0], dilation[0])
    across = get_same_padding(x.shape[-1], kernel[1], stride[1], dilation[1])
    return pad_zeros(x, across // 2, across - across // 2, down // 2, down - down // 2)


class QuickConv2dSame(nn.Conv2d):
    """timm's `Conv2dSame`, padded by `pad_same`: same weights and results."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        x = pad_same(x, self)
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


def quicken_padding(net: nn.Module) -> int:
    """Make every `Conv2dSame` a `QuickConv2dSame`, in place; returns how many there were."""
    slow: list[nn.Conv2d] = [module for module in net.modules() if type(module) is Conv2dSame]
    for module in slow:
        # The same object goes on with another forward: its parameters, hooks and place in the network stay.
        module.__class__ = QuickConv2dSame
    return len(slow)
