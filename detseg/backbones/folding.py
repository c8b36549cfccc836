"""Batch norms with fixed statistics folded into the convolutions before them.

A batch norm that only applies the statistics it was trained with is a scale and a shift of each channel, and so is
part of the convolution that feeds it: ``norm(conv(x)) == conv'(x)``. Folded, training and prediction save a pass over
every feature map.

That holds only where the norm alone takes what the convolution gave: not with an activation between them, which may
work in place, and not where something else reads the same map. So all operations of a run are watched. What is folded
follows from the network's structure, never from its numbers: a saved model, built with random ones, must come out with
the same layers.
"""

import copy
import functools
import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_leaves

from detseg.backbones.backbone import Backbone
from detseg.backbones.meta import evaluating
from detseg.backbones.watch import Watch, only_call
from detseg.backbones.weights import copy_weights, names_found, read_weights


def load_backbone(backbone: Backbone, weights: str | os.PathLike[str] | Mapping[str, Tensor]) -> Backbone:
    """`backbone`, or its folded copy if that is what the weights are of, with them: a file's, see `load_weights`, or
    tensors by name."""
    tensors, source = (
        (weights, "what was given") if isinstance(weights, Mapping) else (read_weights(weights), str(weights))
    )
    found = names_found(backbone, tensors)
    if backbone.state_dict().keys() - found:
        folded = copy.deepcopy(backbone)
        fold_backbone(folded)
        if len(names_found(folded, tensors)) > len(found):  # those of the biases that were norms
            backbone = folded
    copy_weights(backbone, tensors, source)
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
    convs = {name: shape for name, shape in whole.items() if len(shape) == 4 and name.endswith(".weight")}
    return {f"{name.removesuffix('weight')}bias": torch.Size(shape[:1]) for name, shape in convs.items()} | whole


@torch.no_grad()
def fold_norms(net: nn.Module, example: Tensor) -> int:
    """Fold every batch norm that alone takes the output of a convolution, in place; returns how many there were.

    `example`, an input, is run once to see what follows what; its numbers do not matter.
    """
    pairs = _pairs(net, example)
    names: dict[nn.Module, list[str]] = {}
    for name, module in net.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    for conv, norm in pairs:
        assert norm.running_mean is not None and norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.bias.requires_grad_(conv.weight.requires_grad)  # a bias that was not there before starts out fixed
        rest = _rest(norm)
        for name in names[norm]:
            net.set_submodule(name, rest)
    return len(pairs)


def _pairs(net: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and the batch norms that alone take their output, and nothing else, at every level they look at."""
    convs = [(m, m.weight) for m in net.modules() if isinstance(m, nn.Conv2d)]
    norms = [(m, m.running_mean) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    norm_of = {id(mean): norm for norm, mean in norms if mean is not None}
    watch = Watch([*(weight for _, weight in convs), *(mean for _, mean in norms if mean is not None)])
    with evaluating(net), watch:
        given = {id(tensor) for tensor in tree_leaves(net(example))}
    pairs = []
    for conv, weight in convs:
        made = watch.calls[id(weight)]
        # Some compute the weights they convolve with from those they have.
        if not all("convolution" in c.name and c.arguments[1] is weight and c.arguments[2] is conv.bias for c in made):
            continue
        taken = [only_call(watch.calls[id(call.output)], "batch_norm") for call in made]
        if any(call is None for call in taken) or not given.isdisjoint(id(call.output) for call in made):
            continue
        found = {norm_of[id(x)] for call in taken if call for x in call.arguments if id(x) in norm_of}
        if len(found) == 1 and len(watch.calls[id((norm := found.pop()).running_mean)]) == len(made):
            pairs.append((conv, norm))
    return pairs


def _rest(norm: nn.Module) -> nn.Module:
    """What a norm layer does besides normalising: timm's hold the activation that follows."""
    children = [module for module in norm.children() if not isinstance(module, nn.Identity)]
    return nn.Sequential(*children) if children else nn.Identity()
