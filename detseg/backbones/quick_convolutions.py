"""Convolutions that are quick to train on CPUs: depthwise ones, and those padded as TensorFlow does.

oneDNN 3 has a quick kernel for the weight gradient of a depthwise convolution only up to three columns; the general one
is about ten times slower. But the gradient of five columns is that of the first three beside that of the last two.
The input's gradient at stride 1 is a convolution of the output's with the kernel turned by half a turn, which takes
half the time of oneDNN's own; at larger strides there is a quick one in float32, and none in bfloat16.
Everything else, and every other device, is left to torch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones.fused import FusedConv2d
from detseg.backbones.padding import pad_same, pad_zeros

# The widest kernel with a quick weight gradient: 5x3 takes 0.4 ms where 5x5 takes 5 (128 channels of 40x40, N = 8).
QUICK_COLUMNS = 3


class DepthwiseConv2d(FusedConv2d):
    """`nn.Conv2d` with ``groups == in_channels == out_channels``: same weights and results, quicker to train."""

    def convolve(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        if self.pads_like_tensorflow:
            x = pad_same(x, self)
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        if x.device.type != "cpu" or self.dilation != (1, 1) or not learns:
            return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        out: Tensor = _QuickBackward.apply(x, weight, bias, self.stride, self.padding)
        return out


class _QuickBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        to_x = to_weight = to_bias = None
        if wants_x:
            to_x = input_gradient(gradient, weight, x.shape[-2:], ctx.stride, ctx.padding)
        if wants_weight:
            to_weight = weight_gradient(gradient, x, weight, ctx.stride, ctx.padding)
        if wants_bias:  # not above: the CPU library would compute the slow weight gradient along with it
            to_bias = gradient.sum((0, 2, 3))
        return to_x, to_weight, to_bias, None, None


def input_gradient(
    gradient: Tensor, weight: Tensor, size: Sequence[int], stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Gradient of a depthwise convolution's input, (N, C, *size); arguments as of `weight_gradient`."""
    kernel = weight.shape[-2:]
    around = [k - 1 - p for k, p in zip(kernel, padding, strict=True)]
    if stride == (1, 1) and min(around) >= 0:
        return F.conv2d(gradient, weight.flip(-2, -1), None, 1, around, groups=len(weight))
    given = zip(size, gradient.shape[-2:], stride, padding, kernel, strict=True)
    rest = [whole - (n - 1) * s + 2 * p - k for whole, n, s, p, k in given]  # what no step of the stride has seen
    wide = gradient.float() if gradient.dtype == torch.bfloat16 else gradient
    narrow = F.conv_transpose2d(wide, weight.to(wide.dtype), None, stride, padding, rest, len(weight))
    return narrow.to(gradient.dtype)


def weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Gradient of a depthwise convolution's weight, (C, 1, h, w), a few columns of the kernel at a time.

    `gradient` is that of the output, (N, C, H', W'), `x` the input, (N, C, H, W); of `weight` only the shape matters.
    """
    parts = []
    for first in range(0, weight.shape[-1], QUICK_COLUMNS):
        part = weight[..., first : first + QUICK_COLUMNS]
        # What these columns see of the input: from `left` on, and as wide as all steps of the stride need.
        left = first - padding[1]
        width = (gradient.shape[-1] - 1) * stride[1] + part.shape[-1]
        _, columns, _ = torch.ops.aten.convolution_backward(
            gradient, _columns(x, left, width), part, None, stride, [padding[0], 0], [1, 1], False, [0, 0], len(weight),
            [False, True, False],
        )  # fmt: skip
        parts.append(columns)
    return torch.cat(parts, -1)


def _columns(x: Tensor, first: int, width: int) -> Tensor:
    """Columns first..first + width - 1 of (N, C, H, W), zeros where there are none."""
    inside = x[..., max(first, 0) : max(first + width, 0)]
    before, after = min(max(-first, 0), width), min(max(first + width - x.shape[-1], 0), width)
    return pad_zeros(inside, before, after)


class QuickConv2dSame(FusedConv2d):
    """timm's `Conv2dSame`, padded by `pad_same`: same weights and results."""

    pads_like_tensorflow = True

    def convolve(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        x = pad_same(x, self)
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


def quicken(net: nn.Module) -> int:
    """Make every convolution that would be slow to train a quick one, in place; returns how many."""
    count = 0
    for module in net.modules():
        same = type(module) is Conv2dSame
        if slow := _has_slow_gradient(module):
            # The same object goes on with another forward: its parameters, hooks and place in the network stay.
            module.__class__ = DepthwiseConv2d
            module.pads_like_tensorflow = same  # type: ignore[assignment]
        elif same:
            module.__class__ = QuickConv2dSame
        count += slow or same
    return count


def _has_slow_gradient(module: nn.Module) -> bool:
    if type(module) not in (nn.Conv2d, Conv2dSame):  # one derived from them may compute something else
        return False
    assert isinstance(module, nn.Conv2d)
    depthwise = 1 < module.groups == module.in_channels == module.out_channels
    plain = module.dilation == (1, 1) and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return depthwise and plain
