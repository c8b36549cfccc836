"""Backbones: `create_backbone(name)` gives feature maps at the strides asked for."""

from detseg.backbones.backbone import Backbone
from detseg.backbones.registry import create_backbone, list_backbones, register_backbone
from detseg.backbones.weights import WeightReport, load_weights

__all__ = [
    "Backbone",
    "WeightReport",
    "create_backbone",
    "list_backbones",
    "load_weights",
    "register_backbone",
]
