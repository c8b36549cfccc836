"""Whole classifiers by name: detseg's own, timm's and torchvision's, head included."""

from __future__ import annotations

import functools
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from detseg.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, spread_colours
from detseg.backbones.chain import chain_backbone, replace_input
from detseg.backbones.create import register_backbone, unknown_backbone
from detseg.backbones.meta import without_numbers
from detseg.backbones.pretrained import is_timm, is_torchvision, torchvision_classifier, torchvision_normalisation
from detseg.backbones.sources import find_weights, no_weights
from detseg.backbones.weights import WeightReport, copy_weights, load_weights

logger = logging.getLogger(__name__)


class Classifier(nn.Sequential):
    """Convolutional features, then a head: one layer after the other, nothing between them.

    Attributes:
        features: the convolutional part.
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


class OwnNetwork(NamedTuple):
    """How to make one of detseg's networks: `network(num_classes=, in_channels=)`, `features(in_channels)`."""

    network: Callable[..., Classifier]
    features: Callable[[int], nn.Sequential]


OWN_NETWORKS: dict[str, OwnNetwork] = {}


def register_network(name: str, network: Callable[..., Classifier], features: Callable[[int], nn.Sequential]) -> None:
    """Make a classifier known to `create_network`, and its convolutional part to `create_backbone`.

    Args:
        name: of both.
        network: called with `num_classes` and `in_channels`.
        features: called with the input's channels, makes what the classifier has as `features`.

    Raises:
        ValueError: the name is taken.
    """

    @register_backbone(name)
    def build(*, strides: tuple[int, ...], in_channels: int) -> Backbone:
        with without_numbers():
            whole = network(in_channels=in_channels)
        shapes = {key: tensor.shape for key, tensor in whole.state_dict().items()}
        return chain_backbone(
            {f"features_{key}": layer for key, layer in features(in_channels).named_children()},
            strides=strides,
            in_channels=in_channels,
            name=name,
            mean=whole.mean,
            std=whole.std,
            whole_network=functools.partial(dict, shapes),  # no lambda, which could not be pickled
        )

    OWN_NETWORKS[name] = OwnNetwork(network, features)


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
    network: Any
    if is_timm(name):
        import timm

        network = timm.create_model(name, num_classes=num_classes, in_chans=in_channels)
        config = network.pretrained_cfg
        size, mean, std = tuple(config["input_size"][1:]), config["mean"], config["std"]
    elif is_torchvision(name):
        from torchvision import models

        network = torchvision_classifier(name, num_classes)
        replace_input([network], in_channels)
        size = (models.get_model_weights(name)["DEFAULT"].transforms().crop_size[0],) * 2
        mean, std = torchvision_normalisation(name)
    else:
        raise unknown_backbone(name)
    _describe(
        network,
        input_size=size,
        mean=spread_colours(mean, in_channels),
        std=spread_colours(std, in_channels),
        in_channels=in_channels,  # tells `copy_weights` how to adapt the first layer
        weight_report=None,
    )
    return network


def _describe(network: nn.Module, **attributes: object) -> None:
    for name, value in attributes.items():
        setattr(network, name, value)


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
