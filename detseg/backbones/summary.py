"""What there is to know of a network before it is built: size, feature maps, where its weights are."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from detseg.backbones.chain import feature_maps
from detseg.backbones.create import list_backbones, unknown_backbone
from detseg.backbones.meta import skeleton, without_numbers
from detseg.backbones.network import OWN_NETWORKS
from detseg.backbones.pretrained import (
    is_timm,
    is_torchvision,
    timm_skeleton,
    torchvision_classifier,
    torchvision_layers,
)
from detseg.backbones.sources import weights_at_hand


@dataclass(frozen=True)
class NetworkSummary:
    """One network of the registry.

    Attributes:
        name: for `create_backbone` and `create_network`.
        parameters: of the whole classifier for its usual images and classes, auxiliary heads left out; None if
            only a backbone is registered.
        strides: of the feature maps it has, rising; empty for a network that has none.
        channels: of each of them.
        weights: where `pretrained=True` finds weights: "package" (installed), "cached" (downloaded before),
            "download", or "none".
    """

    name: str
    parameters: int | None
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    weights: str


def summarise_network(name: str) -> NetworkSummary:
    """What `name` is, without its numbers: a tenth of a second.

    Strides and channels are what the network declares; `create_backbone` measures them and refuses a network whose
    maps are no regular grids.

    Raises:
        ValueError: unknown name.
    """
    parameters: int | None = None
    maps: dict[int, int] = {}  # stride -> channels of the last map at it
    if name in OWN_NETWORKS:
        with without_numbers():
            own = OWN_NETWORKS[name].network()
        parameters = sum(p.numel() for p in own.parameters())
        maps = _maps(dict(own.features.named_children()), own.in_channels, name)
    elif is_timm(name):
        network = timm_skeleton(name)
        parameters = sum(p.numel() for p in network.parameters())
        maps = {info["reduction"]: info["num_chs"] for info in network.feature_info}
    elif is_torchvision(name):
        parameters, maps = _torchvision(name)
    elif name not in list_backbones():  # else registered as a backbone only: what it has is known once it is built
        raise unknown_backbone(name)
    strides = tuple(sorted(maps))
    return NetworkSummary(name, parameters, strides, tuple(maps[s] for s in strides), weights_at_hand(name))


def _torchvision(name: str) -> tuple[int, dict[int, int]]:
    """Parameters and maps of torchvision's `name`; no maps where it is no chain of layers."""
    network = skeleton(functools.partial(torchvision_classifier, name, 1000))
    parameters = sum(p.numel() for p in network.parameters())
    try:
        return parameters, _maps(torchvision_layers(network), 3, name)
    except ValueError:
        return parameters, {}


def _maps(layers: Mapping[str, nn.Module], in_channels: int, name: str) -> dict[int, int]:
    """Stride -> channels of the last map at it, of layers in a row."""
    return {stride: channels for stride, _, channels in feature_maps(layers, in_channels, name)}


def match_networks(pattern: str) -> list[str]:
    """Names for what a person types: that network, the matches of a wildcard, else all names that
    contain it, first those that begin with it.

    Raises:
        ValueError: nothing matches; with the names near it.
    """
    wild = bool(set(pattern) & set("*?["))
    if not wild and (pattern in list_backbones() or is_timm(pattern)):  # timm's names may carry a tag
        return [pattern]
    names = list_backbones(pattern if wild else f"*{pattern}*")
    if not names:
        raise unknown_backbone(pattern)
    return sorted(names, key=lambda name: not name.startswith(pattern))


def families() -> dict[str, int]:
    """How many names begin with the same letters (`tf_` aside), the most first: {"vit": 219, "efficientnet": 67, …}."""
    starts = (re.match(r"(?:tf_)?([a-z]+)", name) for name in list_backbones())
    return dict(Counter(start[1] for start in starts if start).most_common())
