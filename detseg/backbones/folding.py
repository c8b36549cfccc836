"""Batch norms with fixed statistics folded into the convolutions before them.

A batch norm that only applies the statistics it was trained with is a scale and a shift of each channel, and so is
part of the convolution that feeds it: ``norm(conv(x)) == conv'(x)``. Fine-tuning on few pictures in small batches
keeps those statistics anyway; folded, training saves the time and memory of a pass over every feature map (and
its backward pass), and so does prediction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@torch.no_grad()
def fold_norms(net: nn.Module, example: Tensor) -> int:
    """Fold every batch norm that directly follows a convolution, in place; returns how many there were.

    Args:
        net: a network; batch norms that cannot be folded are left as they are.
        example: an input, which is run once to see what follows what.
    """
    pairs = _pairs(net, example)
    names = {module: name for name, module in net.named_modules()}
    for conv, norm in pairs:
        assert norm.running_mean is not None and norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.bias.requires_grad_(conv.weight.requires_grad)  # a bias that was not there before starts out fixed
        parent, _, child = names[norm].rpartition(".")
        setattr(net.get_submodule(parent), child, _rest(norm))
    return len(pairs)


def _pairs(net: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and the batch norms that take their output; both run exactly once."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is kept, so that its id stays its own
    calls: dict[nn.Module, int] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = (module, output)
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats and id(inputs[0]) in outputs:
            found.append((outputs[id(inputs[0])][0], module))

    watched = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    handles = [module.register_forward_hook(after) for module in watched]
    training = net.training
    net.eval()
    try:
        net(example)
    finally:
        net.train(training)
        for handle in handles:
            handle.remove()
    return [(conv, norm) for conv, norm in found if calls[conv] == calls[norm] == 1]


def _rest(norm: nn.BatchNorm2d) -> nn.Module:
    """What a norm layer does besides normalising: timm's hold the activation that follows."""
    children = [module for module in norm.children() if not isinstance(module, nn.Identity)]
    return nn.Sequential(*children) if children else nn.Identity()
