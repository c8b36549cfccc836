"""Whole classifiers by name: detseg's own, timm's and torchvision's, head included."""

from __future__ import annotations

import functools
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from detseg.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, spread_colours
from detseg.backbones.chain import chain_backbone
from detseg.backbones.create import register_backbone, unknown_backbone
from detseg.backbones.meta import on_meta, shapes_of
from detseg.backbones.sources import find_weights, library_of, no_weights
from detseg.backbones.weights import WeightReport, copy_weights, load_weights
from detseg.registry import Registry

logger = logging.getLogger(__name__)


class Classifier(nn.Sequential):
    """Convolutional features, then a head: one layer after the other, nothing between them.

    Attributes:
        mean, std: the normalisation it is meant to be trained with; in_channels long.
        input_size: height and width of its images.
    """

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


class OwnNetwork(NamedTuple):
    """How to make one of detseg's networks, see `register_network`."""

    network: Callable[..., Classifier]
    features: Callable[[int], nn.Sequential]


OWN_NETWORKS: Registry[OwnNetwork] = Registry("network")


def register_network(name: str, network: Callable[..., Classifier], features: Callable[[int], nn.Sequential]) -> None:
    """Make a classifier known to `create_network`, and its convolutional part to `create_backbone`.

    `network` is called with `num_classes=` and `in_channels=`; `features`, with the input's channels, makes what the
    classifier has as `features`. ValueError if the name is taken.
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

    OWN_NETWORKS.register(name)(OwnNetwork(network, features))


def create_network(
    name: str,
    *,
    num_classes: int = 1000,
    pretrained: bool | str | os.PathLike[str] = False,
    in_channels: int = 3,
) -> nn.Module:
    """The whole classifier `name`: (N, in_channels, H, W) -> (N, num_classes) before the softmax.

    It is the network as its library makes it (auxiliary heads left out), with these attributes added:

        mean, std: what to normalise with, `(x - mean) / std` for x in [0, 1]; in_channels long.
        input_size: height and width of the images its weights were trained on.
        weight_report: what was copied, None with random weights.

    Args:
        name: one of detseg's networks, else of timm's, else of torchvision's; see `list_backbones`.
        num_classes: of the output. With `pretrained=True` and other than the weights' own number, the last layer
            is random.
        pretrained: False for random weights; True for ImageNet weights from an installed package, else from the
            hub; or a file of weights for this network, its last layer included.
        in_channels: channels of the input; the first layer of pretrained weights is adapted.

    Raises:
        ValueError: unknown name, or weights that do not fit.
        FileNotFoundError: no file at `pretrained`.
        RuntimeError: the hub cannot be reached.
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
        return OWN_NETWORKS[name].network(num_classes=num_classes, in_channels=in_channels)
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
