"""Backbones with one output: the deepest map that a network has, whatever its stride."""

from __future__ import annotations

import os

from detseg.backbones.backbone import Backbone
from detseg.backbones.create import create_backbone

# Where a network may end, the deepest first.
STRIDES = (64, 32, 16, 8, 4, 2, 1)


def create_deepest(name: str, *, pretrained: bool | str | os.PathLike[str] = False, in_channels: int = 3) -> Backbone:
    """The backbone `name` with its deepest map only; arguments and errors as for `create_backbone`."""
    problems: list[ValueError] = []
    for stride in STRIDES:
        try:
            # Without weights: what is wrong with those is no question of the stride.
            backbone = create_backbone(name, strides=(stride,), in_channels=in_channels)
        except ValueError as error:
            problems.append(error)
            continue
        if pretrained is False:
            return backbone
        return create_backbone(name, pretrained=pretrained, strides=(stride,), in_channels=in_channels)
    raise problems[-1]
