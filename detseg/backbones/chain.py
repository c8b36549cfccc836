"""Backbones from networks that are one layer after the other."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from detseg.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from detseg.backbones.measure import stride_of
from detseg.backbones.meta import evaluating
from detseg.backbones.weights import adapt_input


class Chain(nn.Module):
    """Layers run one after the other; the outputs after some of them are returned."""

    def __init__(self, layers: Mapping[str, nn.Module], taps: Sequence[str]) -> None:
        super().__init__()
        self.taps = tuple(taps)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> the map after each tap, in order."""
        maps = []
        for name, layer in self.named_children():
            x = layer(x)
            if name in self.taps:
                maps.append(x)
        return maps


def chain_backbone(
    layers: Mapping[str, nn.Module],
    *,
    strides: tuple[int, ...],
    in_channels: int,
    name: str,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    whole_network: Callable[[], Mapping[str, torch.Size]] | None = None,
) -> Backbone:
    """The backbone that runs `layers` in order, cut at the deepest of `strides`; outputs are the last maps at each.

    The other arguments are those of `Backbone`. ValueError if it is no chain of layers, or has no such feature map.
    """
    last = {stride: key for stride, key, _ in feature_maps(layers, in_channels, name)}
    require_strides(name, strides, last)
    names = list(layers)
    keep = names[: names.index(last[strides[-1]]) + 1]
    return Backbone(
        Chain({n: layers[n] for n in keep}, [last[s] for s in strides]),
        strides=strides,
        in_channels=in_channels,
        mean=mean,
        std=std,
        name=name,
        whole_network=whole_network,
    )


def require_strides(name: str, strides: Sequence[int], available: Collection[int]) -> Sequence[int]:
    """`strides`, or ValueError for the first that the network `name` has no feature map at."""
    for stride in strides:
        if stride not in available:
            raise ValueError(f"{name!r} has no feature map at stride {stride}; it has {tuple(sorted(available))}")
    return strides


def feature_maps(layers: Mapping[str, nn.Module], in_channels: int, name: str) -> list[tuple[int, str, int]]:
    """(stride, layer, channels) of the last map at each stride, by a run on the meta device; ValueError if it fails."""
    size = 256
    x = torch.empty(1, in_channels, size, size, device="meta")
    last: dict[int, tuple[int, str, int]] = {}
    for key, layer in layers.items():
        tensors = {n: torch.empty_like(t, device="meta") for n, t in layer.state_dict().items()}
        try:
            with evaluating(layer):
                x = torch.func.functional_call(layer, tensors, (x,))
        except (RuntimeError, TypeError, AssertionError) as error:
            raise ValueError(f"{name!r} is no chain of convolutional layers: {key} fails ({error})") from error
        if x.ndim != 4:
            raise ValueError(f"{name!r} is no chain of convolutional layers: {key} gives {x.ndim} dimensions")
        stride = stride_of(x, size)  # of unpadded layers too, which `measure` pads later
        last[stride] = (stride, key, x.shape[1])
    return list(last.values())


def replace_input(layers: Iterable[nn.Module], in_channels: int) -> None:
    """Give the first convolution among three-channel `layers` `in_channels` and adapted weights, in place."""
    if in_channels == 3:
        return
    conv = next(m for layer in layers for m in layer.modules() if isinstance(m, nn.Conv2d))
    conv.weight = nn.Parameter(adapt_input(conv.weight.detach(), in_channels))
    conv.in_channels = in_channels
