"""Detectors that torchvision has published with COCO weights, as networks of our own."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Published(NamedTuple):
    """A detector of torchvision's with COCO weights, and how its tensors are called in a model of ours."""

    builder: str  # a function of torchvision.models.detection, such as "ssd300_vgg16"
    options: Mapping[str, Any]  # arguments of the model's class that make it the same network
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
