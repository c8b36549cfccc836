"""Networks by name, with their ImageNet weights, as classifiers of images."""

from pathlib import Path

from detseg.backbones import timm_adapter, torchvision_adapter
from detseg.backbones.create import list_backbones, unknown_backbone
from detseg.backbones.network import OWN_NETWORKS, create_network, imagenet_classes
from detseg.backbones.sources import WEIGHT_PACKAGES, weights_at_hand
from detseg.classify.classifier import NetworkClassifier
from detseg.predict.classifier import ImageClassifier


def load_network(name: str, weights: str | Path | None = None) -> ImageClassifier:
    """The classifier `name` of `detseg.backbones.create_network` with its 1000 ImageNet classes, ready to predict.

    Args:
        weights: a file of weights for it, last layer included; by default an installed package's, else the hub's.

    Raises:
        ValueError: unknown name, weights that cannot be had, do not fit or are for other classes.
        FileNotFoundError: no file at `weights`.
    """
    names = imagenet_classes()
    _check_name(name)
    if weights is None:
        _check_weights(name, len(names))
    try:
        network = create_network(name, pretrained=True if weights is None else weights)
    except RuntimeError as error:
        if weights is not None:
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{reason.rstrip('.')}. {_elsewhere(name)}") from error
    categories = [{"id": number, "name": text} for number, text in enumerate(names)]
    network.name = name  # type: ignore[assignment]
    return ImageClassifier(NetworkClassifier(network), {"categories": categories, "size": min(network.input_size)})  # type: ignore[arg-type]


def _check_name(name: str) -> None:
    """Raise ValueError for what is no whole network."""
    if name in OWN_NETWORKS or torchvision_adapter.has(name):
        return
    if not timm_adapter.has(name):
        if name in list_backbones():
            raise ValueError(f"{name!r} is a backbone only, without classes; train a classifier on it")
        raise unknown_backbone(name)
    import timm

    architecture, _, tag = name.partition(".")
    if tag and name not in (tagged := timm.list_pretrained(f"{architecture}.*")):
        raise ValueError(f"timm has no weights named {name!r}, but {', '.join(tagged) or 'none of this network'}")


def _check_weights(name: str, classes: int) -> None:
    """Raise ValueError where there are no weights of ImageNet's classes, before any is fetched."""
    if weights_at_hand(name) == "none":
        raise ValueError(f"nobody offers ImageNet weights of {name!r}. {_elsewhere(name)}")
    if timm_adapter.has(name):
        import timm

        config = timm.models.get_pretrained_cfg(name)
        if config is not None and config.num_classes != classes:
            raise ValueError(
                f"the weights of {name!r} are for {config.num_classes} classes, not ImageNet's {classes}; choose "
                f"those with another tag: detseg backbones {name.partition('.')[0]}"
            )


def _elsewhere(name: str) -> str:
    installed = [other for other in WEIGHT_PACKAGES if other != name and weights_at_hand(other) == "package"]
    others = f", or choose a network whose weights are installed: {', '.join(installed)}" if installed else ""
    install = f"Install {WEIGHT_PACKAGES[name].package}, give" if name in WEIGHT_PACKAGES else "Give"
    return f"{install} a file of its weights (--weights FILE){others}"
