"""torchvision's classifiers; the functions of a library, see `sources`."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detseg.backbones.backbone import Backbone
from detseg.backbones.chain import chain_backbone, feature_maps, replace_input
from detseg.backbones.meta import build_on_meta, shapes_of
from detseg.backbones.weights import cached_download

# What ends the chain of feature layers.
_HEAD = ("avgpool", "fc", "classifier", "dropout", "head")
_AUXILIARY = ("aux1", "aux2", "AuxLogits")
# Their forward first turns (x - ImageNet mean) / std into (x - 0.5) / 0.5; declaring 0.5 does the same.
_HALF = ("googlenet", "inception_v3")


def has(name: str) -> bool:
    """True if torchvision has a classifier of this name."""
    return name in names()


def names() -> Iterable[str]:
    """All of them."""
    from torchvision import models

    return models.list_models(module=models)


def build_backbone(name: str, *, strides: tuple[int, ...], in_channels: int) -> Backbone:
    """torchvision's network `name`, random weights, cut at the deepest of `strides`; raises as `chain_backbone`."""
    layers = _feature_layers(_model(name))
    replace_input(layers.values(), in_channels)
    mean, std = _normalisation(name)
    return chain_backbone(
        layers,
        strides=strides,
        in_channels=in_channels,
        mean=mean,
        std=std,
        name=name,
        whole_network=functools.partial(tensors, name),
    )


def build_network(name: str, num_classes: int, in_channels: int) -> tuple[nn.Module, dict[str, Any]]:
    """The classifier with random weights, without auxiliary heads; and its "input_size", "mean" and "std"."""
    network = _classifier(name, num_classes)
    replace_input([network], in_channels)
    mean, std = _normalisation(name)
    return network, {"input_size": (_default_weights(name).transforms().crop_size[0],) * 2, "mean": mean, "std": std}


@functools.cache
def tensors(name: str) -> dict[str, torch.Size]:
    """Names and shapes of the state dict of the whole classifier, in order."""
    return shapes_of(build_on_meta(functools.partial(_model, name)))


def summarise(name: str) -> tuple[int, dict[int, int]]:
    """Parameters of the classifier, and stride -> channels of the last map at it; no maps where it is no chain."""
    network = build_on_meta(functools.partial(_classifier, name, 1000))
    parameters = sum(p.numel() for p in network.parameters())
    try:
        maps = feature_maps(_feature_layers(network), 3, name)
    except ValueError:
        maps = []
    return parameters, {stride: channels for stride, _, channels in maps}


def download(name: str) -> tuple[dict[str, Tensor], str]:
    """The classifier's ImageNet weights, and where they are from; raises what the hub's client raises."""
    return _model(name, weights="DEFAULT").state_dict(), f"torchvision's hub ({name})"


def weights_at_hand(name: str) -> str:
    """Where `download` would find weights: "cached" or "download"."""
    return cached_download(_default_weights(name).url)


def _model(name: str, **options: Any) -> nn.Module:
    from torchvision import models

    if name in _HALF and "weights" not in options:
        options["init_weights"] = True  # explicit, or torchvision warns that the default will change
    if "weights" in options:  # torchvision unpickles the file: one that holds more than tensors is refused before
        _default_weights(name).get_state_dict(progress=True, check_hash=True, weights_only=True)
    return models.get_model(name, **options)


def _classifier(name: str, num_classes: int) -> nn.Module:
    return _model(name, num_classes=num_classes, **({"aux_logits": False} if name in _HALF else {}))


def _default_weights(name: str) -> Any:
    from torchvision import models

    return models.get_model_weights(name)["DEFAULT"]


def _feature_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers before the head, in order; `features` opened, its parts named `features_0` as in timm."""
    layers: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if name in _HEAD:
            break
        if isinstance(child, nn.Sequential) and name in ("features", "layers", "trunk_output"):
            layers.update({f"{name}_{key}": layer for key, layer in child.named_children()})
        elif name not in _AUXILIARY:
            layers[name] = child
    return layers


def _normalisation(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std that the weights of `name` expect."""
    if name in _HALF:
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    transforms = _default_weights(name).transforms()
    return transforms.mean, transforms.std
