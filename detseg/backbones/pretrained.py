"""Backbones from timm and torchvision."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from detseg.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from detseg.backbones.chain import chain_backbone, no_such_stride, replace_input
from detseg.backbones.measure import pad_unpadded
from detseg.backbones.meta import skeleton

# --- timm ---


def is_timm(name: str) -> bool:
    """True if timm has a network of this name (a tag such as `.in1k` may follow)."""
    import timm

    return bool(timm.is_model(name))


def build_timm(name: str, *, strides: tuple[int, ...], in_channels: int) -> Backbone:
    """timm's network `name`, random weights, cut at the deepest of `strides`.

    Raises:
        ValueError: it has no feature map at one of the strides.
    """
    import timm

    indices = [_index_of(stride, _timm_reductions(name), name) for stride in strides]
    net = timm.create_model(name, features_only=True, out_indices=tuple(indices), in_chans=in_channels)
    _pad_inception_v3(net)
    config = timm.models.get_pretrained_cfg(name)
    return Backbone(
        net,
        strides=strides,
        in_channels=in_channels,
        mean=config.mean if config else IMAGENET_MEAN,
        std=config.std if config else IMAGENET_STD,
        name=name,
        whole_network=functools.partial(timm_tensors, name),
    )


def _index_of(stride: int, reductions: Sequence[int], name: str) -> int:
    """Index of the last feature map at `stride`."""
    if stride not in reductions:
        raise no_such_stride(name, stride, reductions)
    return max(i for i, reduction in enumerate(reductions) if reduction == stride)


def _pad_inception_v3(net: nn.Module) -> None:
    """Pad the layers of timm's Inception v3 that shrink their maps, in place; leave other networks alone.

    Its two reductions hold an unpadded max-pooling that is no module, beside unpadded convolutions: so their
    input is padded instead. It comes from a ReLU, hence zeros do not change a maximum.
    """
    from timm.models.inception_v3 import InceptionB, InceptionD

    reductions = [m for m in net.modules() if isinstance(m, InceptionB | InceptionD)]
    if not (reductions and isinstance(net, nn.ModuleDict)):
        return
    inside = {m for reduction in reductions for m in reduction.modules()}
    pad_unpadded(m for m in net.modules() if m not in inside)
    layers = list(net.items())
    net.clear()
    for name, layer in layers:
        if layer in reductions:
            net[f"{name}_padding"] = nn.ZeroPad2d(1)
        net[name] = layer


@functools.cache
def _timm_reductions(name: str) -> tuple[int, ...]:
    """The strides of all feature maps timm knows of `name`."""
    try:
        net = timm_skeleton(name, features_only=True)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise ValueError(f"timm offers no feature maps of {name!r} ({error}); choose another backbone") from error
    return tuple(info["reduction"] for info in net.feature_info.info)


@functools.cache
def timm_tensors(name: str) -> dict[str, torch.Size]:
    """Names and shapes of the state dict of the whole classifier, in order."""
    return {key: tensor.shape for key, tensor in timm_skeleton(name).state_dict().items()}


def timm_skeleton(name: str, **options: Any) -> Any:
    """timm's network `name` without its numbers."""
    import timm

    return skeleton(functools.partial(timm.create_model, name, **options))


# --- torchvision ---

# What ends the chain of feature layers in torchvision's classifiers.
_TORCHVISION_HEAD = ("avgpool", "fc", "classifier", "dropout", "head")
_TORCHVISION_AUXILIARY = ("aux1", "aux2", "AuxLogits")
# Their forward first turns (x - ImageNet mean) / std into (x - 0.5) / 0.5; declaring 0.5 does the same.
_TORCHVISION_HALF = ("googlenet", "inception_v3")


def is_torchvision(name: str) -> bool:
    """True if torchvision has a classifier of this name."""
    from torchvision import models

    return name in models.list_models(module=models)


def build_torchvision(name: str, *, strides: tuple[int, ...], in_channels: int) -> Backbone:
    """torchvision's network `name`, random weights, cut at the deepest of `strides`.

    Raises:
        ValueError: it is no chain of layers, or has no feature map at one of the strides.
    """
    model = torchvision_model(name)
    layers = torchvision_layers(model)
    replace_input(layers.values(), in_channels)
    mean, std = torchvision_normalisation(name)
    return chain_backbone(
        layers,
        strides=strides,
        in_channels=in_channels,
        mean=mean,
        std=std,
        name=name,
        whole_network=functools.partial(torchvision_tensors, name),
    )


def torchvision_model(name: str, **options: Any) -> nn.Module:
    """torchvision's classifier `name`."""
    from torchvision import models

    if name in _TORCHVISION_HALF and "weights" not in options:
        options["init_weights"] = True  # said aloud, or torchvision warns that the default will change
    return models.get_model(name, **options)


def torchvision_classifier(name: str, num_classes: int) -> nn.Module:
    """torchvision's classifier `name`, random weights, without the auxiliary heads that only training has."""
    options = {"aux_logits": False} if name in _TORCHVISION_HALF else {}
    return torchvision_model(name, num_classes=num_classes, **options)


@functools.cache
def torchvision_tensors(name: str) -> dict[str, torch.Size]:
    """Names and shapes of the state dict of the whole classifier, in order."""
    network = skeleton(functools.partial(torchvision_model, name))
    return {key: tensor.shape for key, tensor in network.state_dict().items()}


def torchvision_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers before the head, in order; `features` opened, its parts named `features_0` as in timm."""
    layers: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if name in _TORCHVISION_HEAD:
            break
        if name in _TORCHVISION_AUXILIARY:
            continue
        if isinstance(child, nn.Sequential) and name in ("features", "layers", "trunk_output"):
            layers.update({f"{name}_{key}": layer for key, layer in child.named_children()})
        else:
            layers[name] = child
    return layers


def torchvision_normalisation(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std that the weights of `name` expect."""
    from torchvision import models

    if name in _TORCHVISION_HALF:
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    transforms = models.get_model_weights(name)["DEFAULT"].transforms()
    return transforms.mean, transforms.std
