"""Detectors that torchvision has published with COCO weights, as a start for the same networks here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

NONE = "__background__"


class Published(NamedTuple):
    """A detector of torchvision's with COCO weights, and how its tensors are called in a model of ours."""

    builder: str  # a function of torchvision.models.detection, such as "ssd300_vgg16"
    options: Mapping[str, Any]  # arguments of the model's class that make it the same network
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def published_weights(published: Published) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under our names, of a backbone whose norms are not folded, and COCO's classes in their order.

    They are downloaded where torch's cache does not have them. A first class that is none is not listed; numbers that
    COCO does not use have no name.

    Raises:
        RuntimeError: they cannot be downloaded; the message says from where and where to put them.
    """
    from torchvision.models import get_model_weights

    weights = get_model_weights(published.builder)["COCO_V1"]
    try:
        tensors = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)  # no code runs
    except Exception as error:  # of the network, the disk, the hash
        folder = Path(torch.hub.get_dir(), "checkpoints")
        raise RuntimeError(
            f"could not get the COCO weights of torchvision's {published.builder} ({type(error).__name__}: "
            f"{str(error)[:300]}); download {weights.url} where there is a network and put the file into {folder}"
        ) from error
    names = ["" if name == "N/A" else str(name) for name in weights.meta["categories"]]
    return published.rename(tensors), names[1:] if names[0] == NONE else names
