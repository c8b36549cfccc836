"""timm's networks; the functions of a library, see `sources`."""

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from detseg.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from detseg.backbones.chain import require_strides
from detseg.backbones.measure import pad_unpadded
from detseg.backbones.meta import build_on_meta, shapes_of
from detseg.backbones.weights import cached_download


def has(name: str) -> bool:
    """True if timm has a network of this name (a tag such as `.in1k` may follow)."""
    import timm

    return bool(timm.is_model(name))


def names() -> Iterable[str]:
    """All of them, without tags."""
    import timm

    return timm.list_models()


def current_name(name: str) -> str:
    """The name, with a tag, that timm gives today to a network it has renamed; other names stay as they are."""
    import timm

    return timm.models.get_deprecated_models().get(name) or name


def build_backbone(name: str, *, strides: tuple[int, ...], in_channels: int) -> Backbone:
    """timm's network `name`, random weights, cut at the deepest of `strides`; ValueError where it has no such map."""
    import timm

    reductions = _reductions(name)
    last = {reduction: index for index, reduction in enumerate(reductions)}
    indices = [last[stride] for stride in require_strides(name, strides, last)]
    net = timm.create_model(current_name(name), features_only=True, out_indices=tuple(indices), in_chans=in_channels)
    _pad_inception_v3(net)
    # Not by the current name: models saved under an old one were trained with ImageNet's mean and deviation.
    config = timm.models.get_pretrained_cfg(name)
    return Backbone(
        net,
        strides=strides,
        in_channels=in_channels,
        mean=config.mean if config else IMAGENET_MEAN,
        std=config.std if config else IMAGENET_STD,
        name=name,
        whole_network=functools.partial(tensors, name),
    )


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


def build_network(name: str, num_classes: int, in_channels: int) -> tuple[nn.Module, dict[str, Any]]:
    """The classifier with random weights; and its "input_size", "mean" and "std"."""
    import timm

    network: Any = timm.create_model(current_name(name), num_classes=num_classes, in_chans=in_channels)
    config = network.pretrained_cfg
    return network, {"input_size": tuple(config["input_size"][1:]), "mean": config["mean"], "std": config["std"]}


@functools.cache
def tensors(name: str) -> dict[str, torch.Size]:
    """Names and shapes of the state dict of the whole classifier, in order."""
    return shapes_of(_on_meta(name))


def summarise(name: str) -> tuple[int, dict[int, int]]:
    """Parameters of the classifier, and stride -> channels of the last map at it."""
    network = _on_meta(name)
    maps = {info["reduction"]: info["num_chs"] for info in network.feature_info}
    return sum(p.numel() for p in network.parameters()), maps


def download(name: str) -> tuple[dict[str, Tensor], str]:
    """The classifier's ImageNet weights, and where they are from; raises what the hub's client raises."""
    import timm

    return timm.create_model(current_name(name), pretrained=True).state_dict(), f"timm's hub ({name})"


def weights_at_hand(name: str) -> str:
    """Where `download` would find weights: "cached", "download" or "none"."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.models.get_pretrained_cfg(current_name(name))
    if config is None or not (config.hf_hub_id or config.url):
        return "none"
    if not config.hf_hub_id:  # timm takes the Hugging Face hub before a plain address
        return cached_download(str(config.url))
    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    cached = any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in files)
    return "cached" if cached else "download"


@functools.cache
def _reductions(name: str) -> tuple[int, ...]:
    """The strides of all feature maps timm knows of `name`."""
    try:
        net = _on_meta(name, features_only=True)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise ValueError(f"timm offers no feature maps of {name!r} ({error}); choose another backbone") from error
    return tuple(info["reduction"] for info in net.feature_info.info)


def _on_meta(name: str, **options: Any) -> Any:
    import timm

    return build_on_meta(functools.partial(timm.create_model, current_name(name), **options))
