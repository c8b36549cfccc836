"""The libraries that networks come from, one adapter each: timm first, then torchvision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from detseg.backbones import timm_adapter, torchvision_adapter
from detseg.backbones.backbone import Backbone


class Library(Protocol):
    """What the module of an adapter offers; the functions are described there."""

    def has(self, name: str) -> bool: ...  # noqa: D102

    def names(self) -> Iterable[str]: ...  # noqa: D102

    def build_backbone(self, name: str, *, strides: tuple[int, ...], in_channels: int) -> Backbone: ...  # noqa: D102

    def build_network(  # noqa: D102
        self, name: str, num_classes: int, in_channels: int
    ) -> tuple[nn.Module, dict[str, Any]]: ...

    def tensors(self, name: str) -> dict[str, torch.Size]: ...  # noqa: D102

    def summarise(self, name: str) -> tuple[int, dict[int, int]]: ...  # noqa: D102

    def download(self, name: str) -> tuple[dict[str, Tensor], str]: ...  # noqa: D102

    def weights_at_hand(self, name: str) -> str: ...  # noqa: D102


LIBRARIES: tuple[Library, ...] = (timm_adapter, torchvision_adapter)


def library_of(name: str) -> Library | None:
    """The first library that has a network of this name."""
    return next((library for library in LIBRARIES if library.has(name)), None)
