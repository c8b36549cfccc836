"""Padding with zeros that writes every number once."""

from typing import Any

import torch
from timm.layers import get_same_padding
from torch import Tensor, nn
from torch.nn import functional as F


def pad_zeros(x: Tensor, left: int, right: int, top: int = 0, bottom: int = 0) -> Tensor:
    """``F.pad(x, (left, right, top, bottom))`` of (N, C, H, W), none of the four negative, every number written once.

    torch fills the whole result with zeros first: on a CPU a tenth of a training step of EfficientNet-Lite0 went there.
    """
    if not (left or right or top or bottom):
        return x
    if x.device.type != "cpu" or torch.jit.is_tracing():
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
    rows, columns = same_padding(x, conv)
    return pad_zeros(x, *columns, *rows)


def same_padding(x: Tensor, conv: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """What `pad_same` adds (above, below) and (left, right)."""
    if torch.jit.is_tracing():  # for sides that are multiples of the stride, which it does not depend on
        reach = (d * (k - 1) + 1 - s for k, d, s in zip(conv.kernel_size, conv.dilation, conv.stride, strict=True))
        above, left = (max(0, n) for n in reach)
        return (above // 2, above - above // 2), (left // 2, left - left // 2)
    given = zip(x.shape[-2:], conv.kernel_size, conv.stride, conv.dilation, strict=True)
    above, left = (get_same_padding(*of_side) for of_side in given)
    return (above // 2, above - above // 2), (left // 2, left - left // 2)
