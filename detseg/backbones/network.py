"""Whole classifiers by name, head included: detseg's own, timm's, torchvision's; and what they are, unbuilt."""

import functools
import logging
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from detseg.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, spread_colours
from detseg.backbones.chain import chain_backbone, feature_maps
from detseg.backbones.create import BACKBONES, list_backbones, register_backbone, unknown_backbone
from detseg.backbones.meta import build_on_meta, on_meta, shapes_of
from detseg.backbones.sources import find_weights, library_of, no_weights, weights_at_hand
from detseg.backbones.weights import WeightReport, copy_weights, load_weights
from detseg.registry import Registry

logger = logging.getLogger(__name__)


class Classifier(nn.Sequential):
    """Convolutional features, then a head: one layer after the other, nothing between them."""

    features: nn.Sequential

    def __init__(
        self,
        features: nn.Sequential,
        head: Mapping[str, nn.Module],
        *,
        in_channels: int,
        input_size: tuple[int, int],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(OrderedDict(features=features, **head))
        self.in_channels = in_channels
        self.input_size = input_size
        self.mean = spread_colours(mean, in_channels)
        self.std = spread_colours(std, in_channels)
        self.weight_report: WeightReport | None = None


def named_layers(**layers: nn.Module) -> nn.Sequential:
    """The layers one after the other, under these names."""
    return nn.Sequential(OrderedDict(layers))


# How to make each of detseg's own: called with `num_classes=` and `in_channels=`.
OWN_NETWORKS: Registry[Callable[..., Classifier]] = Registry("network")


def register_network(name: str, network: Callable[..., Classifier], features: Callable[[int], nn.Sequential]) -> None:
    """Make a classifier known to `create_network`, and its convolutional part to `create_backbone`.

    `features`, called with the input's channels, makes what the classifier has as `features`. ValueError if the name is
    taken.
    """

    @register_backbone(name)
    def build(*, strides: tuple[int, ...], in_channels: int) -> Backbone:
        with on_meta():
            whole = network(in_channels=in_channels)
        return chain_backbone(
            {f"features_{key}": layer for key, layer in features(in_channels).named_children()},
            strides=strides,
            in_channels=in_channels,
            name=name,
            mean=whole.mean,
            std=whole.std,
            whole_network=functools.partial(dict, shapes_of(whole)),  # no lambda, which could not be pickled
        )

    OWN_NETWORKS.register(name)(network)


def create_network(
    name: str,
    *,
    num_classes: int = 1000,
    pretrained: bool | str | os.PathLike[str] = False,
    in_channels: int = 3,
) -> nn.Module:
    """The whole classifier `name`: (N, in_channels, H, W) -> (N, num_classes) before the softmax.

    It is the network as its library makes it (auxiliary heads left out), with the attributes `mean`, `std` and
    `weight_report` of a `Backbone`, and `input_size`, height and width of the images its weights were trained on.

    Args:
        name: one of detseg's networks, else of timm's, else of torchvision's; see `list_backbones`.
        num_classes: of the output. With `pretrained=True` and other than the weights' own number, the last layer
            is random.
        pretrained: as for `create_backbone`, which also says what is raised; a file has the last layer too.
        in_channels: channels of the input; the first layer of pretrained weights is adapted.
    """
    if num_classes < 1 or in_channels < 1:
        raise ValueError(f"num_classes and in_channels must be at least 1, got {num_classes} and {in_channels}")
    network = _build(name, num_classes, in_channels)
    if not isinstance(pretrained, bool):
        load_weights(network, pretrained)
    elif pretrained and name in OWN_NETWORKS:
        raise no_weights(name)
    elif pretrained:
        tensors, source = find_weights(name)
        copy_weights(network, _with_own_head(tensors, network), source)
    return network


def _build(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """The network with random weights and its attributes."""
    if name in OWN_NETWORKS:
        return OWN_NETWORKS[name](num_classes=num_classes, in_channels=in_channels)
    library = library_of(name)
    if library is None:
        raise unknown_backbone(name)
    network, described = library.build_network(name, num_classes, in_channels)
    for attribute in ("mean", "std"):
        described[attribute] = spread_colours(described[attribute], in_channels)
    # The channels tell `copy_weights` how to adapt the first layer.
    for attribute, value in {**described, "in_channels": in_channels, "weight_report": None}.items():
        setattr(network, attribute, value)
    return network


def _with_own_head(tensors: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """`tensors`, those for another number of classes replaced by the network's own, random ones."""
    own = network.state_dict()
    others = [
        name
        for name, tensor in tensors.items()
        if tensor.ndim and name in own and tensor.shape[1:] == own[name].shape[1:] and len(tensor) != len(own[name])
    ]
    if others:
        logger.info("weights for another number of classes are left out, random instead: %s", ", ".join(others))
    return {**tensors, **{name: own[name] for name in others}}


def imagenet_classes() -> list[str]:
    """What the 1000 outputs of ImageNet's classifiers mean, in their order: "daisy", "bell cote, bell cot", …"""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_description(index) for index in range(info.num_classes())]


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
            own = OWN_NETWORKS[name]()
        parameters = sum(p.numel() for p in own.parameters())
        layers = feature_maps(dict(own.features.named_children()), own.in_channels, name)
        maps = {stride: channels for stride, _, channels in layers}
    elif (library := library_of(name)) is not None:
        parameters, maps = library.summarise(name)
    elif name not in BACKBONES:  # else registered as a backbone only: what it has is known once it is built
        raise unknown_backbone(name)
    strides = tuple(sorted(maps))
    return NetworkSummary(name, parameters, strides, tuple(maps[s] for s in strides), weights_at_hand(name))


def unbuilt_network(name: str) -> nn.Module:
    """The whole classifier `name` with its own number of classes, on the meta device where it can be made there."""
    return build_on_meta(OWN_NETWORKS[name] if name in OWN_NETWORKS else functools.partial(create_network, name))


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
