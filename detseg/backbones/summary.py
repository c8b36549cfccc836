"""A network's size, feature maps and weights, before it is built."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from detseg.backbones.chain import feature_maps
from detseg.backbones.create import BACKBONES, list_backbones, unknown_backbone
from detseg.backbones.meta import on_meta
from detseg.backbones.network import OWN_NETWORKS
from detseg.backbones.sources import library_of, weights_at_hand


@dataclass(frozen=True)
class NetworkSummary:
    """One network of the registry."""

    name: str  # for `create_backbone` and `create_network`
    parameters: int | None  # of the whole classifier without auxiliary heads; None if only a backbone is registered
    strides: tuple[int, ...]  # of the feature maps it has, rising
    channels: tuple[int, ...]  # of each of them
    weights: str  # where `pretrained=True` finds weights, see `weights_at_hand`


def summarise_network(name: str) -> NetworkSummary:
    """What `name` declares to be, built on the meta device in a tenth of a second; ValueError for an unknown name."""
    parameters: int | None = None
    maps: dict[int, int] = {}  # stride -> channels of the last map at it
    if name in OWN_NETWORKS:
        with on_meta():
            own = OWN_NETWORKS[name].network()
        parameters = sum(p.numel() for p in own.parameters())
        layers = feature_maps(dict(own.features.named_children()), own.in_channels, name)
        maps = {stride: channels for stride, _, channels in layers}
    elif (library := library_of(name)) is not None:
        parameters, maps = library.summarise(name)
    elif name not in BACKBONES:  # else registered as a backbone only: what it has is known once it is built
        raise unknown_backbone(name)
    strides = tuple(sorted(maps))
    return NetworkSummary(name, parameters, strides, tuple(maps[s] for s in strides), weights_at_hand(name))


def match_networks(pattern: str) -> list[str]:
    """Names for what a person types: that network, the matches of a wildcard, else all names that
    contain it, first those that begin with it; ValueError with near names where nothing matches.
    """
    wild = bool(set(pattern) & set("*?["))
    if not wild and (pattern in BACKBONES or library_of(pattern) is not None):  # timm's names may carry a tag
        return [pattern]
    names = list_backbones(pattern if wild else f"*{pattern}*")
    if not names:
        raise unknown_backbone(pattern)
    return sorted(names, key=lambda name: not name.startswith(pattern))


def families() -> dict[str, int]:
    """How many names begin with the same letters (`tf_` aside), the most first: {"vit": 219, "efficientnet": 67, …}."""
    starts = (re.match(r"(?:tf_)?([a-z]+)", name) for name in list_backbones())
    return dict(Counter(start[1] for start in starts if start).most_common())
