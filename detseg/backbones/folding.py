"""Batch norms with fixed statistics folded into the convolutions before them.

A batch norm that only applies the statistics it was trained with is a scale and a shift of each channel, and so is
part of the convolution that feeds it: ``norm(conv(x)) == conv'(x)``. Fine-tuning on few pictures in small batches
keeps those statistics anyway; folded, training saves the time and memory of a pass over every feature map (and
its backward pass), and so does prediction.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from detseg.backbones.backbone import Backbone
from detseg.backbones.weights import copy_weights, names_found, read_weights


def load_backbone(backbone: Backbone, path: str | os.PathLike[str]) -> Backbone:
    """A backbone with the weights in a file; folded if those are, as most trained models' are.

    Args:
        backbone: with its batch norms not folded.
        path: of the file, see `load_weights`.

    Returns:
        `backbone`, or its folded copy.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a state dict, or fits neither form.
    """
    tensors = read_weights(path)
    found = names_found(backbone, tensors)
    if backbone.state_dict().keys() - found:
        folded = copy.deepcopy(backbone)
        fold_backbone(folded)
        if len(names_found(folded, tensors)) > len(found):  # those of the biases that were norms
            backbone = folded
    copy_weights(backbone, tensors, str(path))
    return backbone


def fold_backbone(backbone: Backbone) -> int:
    """`fold_norms` for a backbone, in place; it then takes the weights of a folded one."""
    count = fold_norms(backbone.net, torch.zeros(1, backbone.in_channels, 128, 128))
    if count and backbone.whole_network is not None:
        backbone.whole_network = functools.partial(_with_biases, backbone.whole_network)
    return count


def _with_biases(whole_network: Callable[[], Mapping[str, torch.Size]]) -> dict[str, torch.Size]:
    """Names and shapes of a whole network, and those of the biases that its convolutions get by folding."""
    whole = dict(whole_network())
    weights = {name: shape for name, shape in whole.items() if len(shape) == 4 and name.endswith(".weight")}
    return {f"{name.removesuffix('weight')}bias": torch.Size(shape[:1]) for name, shape in weights.items()} | whole


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
