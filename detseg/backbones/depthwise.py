"""Depthwise convolutions whose backward pass is quick on CPUs.

The library behind torch's convolutions on CPUs (oneDNN 3) has a quick kernel for the weight gradient of a depthwise
convolution, but only up to three columns; wider ones fall to a general kernel that is about ten times slower. But the
gradient of five columns is that of the first three beside that of the last two: computed so, it is quick again.
In bfloat16 it has none for the input's gradient at strides above 1 either; in float32 that one is quick.
Everything else, and every other device, is left to torch.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones.padding import pad_same, pad_zeros

# The widest kernel with a quick weight gradient: 5x3 takes 0.4 ms where 5x5 takes 5 (128 channels of 40x40, N = 8).
QUICK_COLUMNS = 3


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with ``groups == in_channels == out_channels``: same weights and results, quicker to train.

    On a CPU it computes in float32 under autocast too: the backward pass in bfloat16 is slower there.
    """

    pads_like_tensorflow = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        if self.pads_like_tensorflow:
            x = pad_same(x, self)
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        if x.device.type != "cpu" or self.dilation != (1, 1) or not learns:
            return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        out: Tensor = _QuickBackward.apply(x, self.weight, self.bias, self.stride, self.padding)
        return out


class _QuickBackward(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(  # type: ignore[override]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        to_x = to_weight = to_bias = None
        if wants_x:
            to_x, _, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ctx.stride, ctx.padding, [1, 1], False, [0, 0], len(weight),
                [True, False, False],
            )  # fmt: skip
        if wants_weight:
            to_weight = weight_gradient(gradient, x, weight, ctx.stride, ctx.padding)
        if wants_bias:  # not above: the CPU library would compute the slow weight gradient along with it
            to_bias = gradient.sum((0, 2, 3))
        return to_x, to_weight, to_bias, None, None


def weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Gradient of a depthwise convolution's weight, (C, 1, h, w), a few columns of the kernel at a time.

    Args:
        gradient: of the loss with respect to the convolution's output, (N, C, H', W').
        x: the convolution's input, (N, C, H, W).
        weight: its weight, (C, 1, h, w); only its shape matters.
        stride, padding: its own, rows and columns.
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


def quicken_depthwise(net: nn.Module) -> int:
    """Make every depthwise convolution whose weight gradient would be slow a quick one, in place; returns how many.

    Names, weights and results stay the same.
    """
    slow = [module for module in net.modules() if _is_slow(module)]
    for module in slow:
        same = isinstance(module, Conv2dSame)
        # The same object goes on with another forward: its parameters, hooks and place in the network stay.
        module.__class__ = DepthwiseConv2d
        assert isinstance(module, DepthwiseConv2d)
        module.pads_like_tensorflow = same
    return len(slow)


def _is_slow(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    if type(module) not in (nn.Conv2d, Conv2dSame):  # one derived from them may compute something else
        return False
    assert isinstance(module, nn.Conv2d)
    depthwise = 1 < module.groups == module.in_channels == module.out_channels
    plain = module.dilation == (1, 1) and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return depthwise and plain and (module.kernel_size[1] > QUICK_COLUMNS or max(module.stride) > 1)
