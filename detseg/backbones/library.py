"""The libraries that networks come from, timm first, then torchvision; an adapter is a module with these functions.

has(name), names()                          which classifiers there are
build_backbone(name, strides=, in_channels=)
build_network(name, num_classes, in_channels)
tensors(name), summarise(name)              what a classifier is made of, without building it
download(name), weights_at_hand(name)       its ImageNet weights
"""

from __future__ import annotations

from types import ModuleType

from detseg.backbones import timm_adapter, torchvision_adapter

LIBRARIES: tuple[ModuleType, ...] = (timm_adapter, torchvision_adapter)


def library_of(name: str) -> ModuleType | None:
    """The first library that has a network of this name."""
    return next((library for library in LIBRARIES if library.has(name)), None)
