"""Atrous (dilated) last stage: the same weights, twice as fine (Chen et al. 2015, arXiv:1412.7062; Yu & Koltun 2016).

The layers that would halve the map for the last time keep its size, and every layer behind them looks at every second
cell. So cell (2i, 2j) of the new map is cell (i, j) of the old one, and the cells between are new.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones.backbone import Backbone
from detseg.backbones.measure import pair, stride_of
from detseg.backbones.meta import evaluating, hooked, run_on_meta

_LAYERS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def dilate_last_stage(backbone: Backbone) -> Backbone:
    """A backbone whose last map has half the stride it had; the network is changed in place.

    Weights keep their names and shapes. The new map agrees with the old one at its even cells (borders too), except for
    networks that look at the whole map at once (squeeze and excitation): there the average is over the new map.

    Raises:
        ValueError: the backbone has a map at half its last stride already, or layers that cannot be dilated.
    """
    coarse = backbone.strides[-1]
    fine = coarse // 2
    strides = (*backbone.strides[:-1], fine)
    if fine < 1 or coarse % 2 or fine in backbone.strides:
        raise ValueError(
            f"the last of the strides {backbone.strides} cannot be halved: {fine} is there or is none; "
            f"ask create_backbone for fewer, such as strides=({', '.join(map(str, (*strides[:-2], coarse)))},)"
        )
    for layer, before, after in _calls(backbone):
        if before == fine and after == coarse:
            _keep_size(layer)
        elif before == coarse:
            _dilate(layer)
    dilated = Backbone(  # which measures it again
        backbone.net,
        strides=strides,
        in_channels=backbone.in_channels,
        mean=backbone.mean,
        std=backbone.std,
        name=backbone.name,
        whole_network=backbone.whole_network,
    )
    dilated.weight_report = backbone.weight_report
    return dilated


def _calls(backbone: Backbone) -> list[tuple[Any, int, int]]:
    """The convolutions and poolings with the strides of what comes in and goes out, each once."""
    size = max(256, 8 * backbone.strides[-1])
    calls: dict[nn.Module, tuple[int, int]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.setdefault(module, (stride_of(inputs[0], size), stride_of(output, size)))

    layers = [module for module in backbone.net.modules() if isinstance(module, _LAYERS)]
    with hooked(layers, note), evaluating(backbone.net):
        run_on_meta(backbone.net, torch.Size((1, backbone.in_channels, size, size)))
    return [(module, before, after) for module, (before, after) in calls.items()]


class PadFirst(NamedTuple):
    """A hook that pads a layer's input, at the left and top by other numbers than at the right and bottom."""

    before: int
    after: int
    value: float | None  # None to repeat the border

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The padded input."""
        sides = (self.before, self.after, self.before, self.after)
        mode = "replicate" if self.value is None else "constant"
        return (F.pad(inputs[0], sides, mode, self.value),)


def _keep_size(layer: Any) -> None:
    """Stride 1 for a layer of stride 2, so that its cells 2i are the cells i from before.

    Cell i reads k cells from 2i - p on. So must cell 2i of stride 1: the padding before stays p, and for as many cells
    to come out as go in, that behind becomes k - 1 - p.
    """
    kernel, stride = _square(layer, layer.kernel_size), _square(layer, layer.stride)
    if stride != 2 or _square(layer, getattr(layer, "dilation", 1)) != 1:
        raise ValueError(f"{layer} halves its map in a way that cannot be undone; choose another backbone")
    same = _pads_itself(layer)
    before = max(kernel - stride, 0) // 2 if same else _square(layer, layer.padding)
    after = kernel - 1 - before
    layer.stride = (1, 1)
    if before == after and not same:
        return
    if same:  # the same object with the plain forward: its parameters and its place in the network stay
        layer.__class__ = next(kind for kind in _LAYERS if isinstance(layer, kind))
    layer.padding = (0, 0)
    # Nothing wins against a maximum; an average over the border must not count zeros beyond it.
    value = {nn.Conv2d: 0.0, nn.MaxPool2d: -math.inf}.get(next(k for k in _LAYERS if isinstance(layer, k)))
    if not isinstance(layer, nn.Conv2d):
        layer.ceil_mode = False
    layer.register_forward_pre_hook(PadFirst(before, after, value))


def _dilate(layer: Any) -> None:
    """Every second cell for a layer that keeps the size of its map."""
    if layer.kernel_size in (1, (1, 1)):
        return
    kernel = _square(layer, layer.kernel_size)
    if isinstance(layer, nn.AvgPool2d) or _square(layer, layer.stride) != 1 or kernel % 2 == 0:
        raise ValueError(f"{layer} cannot be dilated; choose another backbone")
    layer.dilation = tuple(2 * d for d in pair(layer.dilation))
    if isinstance(layer.padding, str) or _pads_itself(layer):
        return  # they reckon with the dilation
    padding = 2 * _square(layer, layer.padding)
    if isinstance(layer, nn.Conv2d):
        layer.padding = (padding, padding)
    else:  # torch's poolings pad by half their kernel at most
        layer.padding = (0, 0)
        layer.register_forward_pre_hook(PadFirst(padding, padding, -math.inf))


def _pads_itself(layer: nn.Module) -> bool:
    """Whether it pads in its forward as TensorFlow does, whatever its `padding` says."""
    return type(layer).__name__.endswith("Same") or getattr(layer, "pads_like_tensorflow", False)


def _square(layer: nn.Module, value: Any) -> int:
    if isinstance(value, str) or len(set(pair(value))) != 1:
        raise ValueError(f"{layer} is not square; choose another backbone")
    return pair(value)[0]
