"""Detectors and their parts."""

from typing import TYPE_CHECKING, Any

# Imported at once, not when asked for: the package `detseg.detect.nms` would hide a lazily imported `nms`.
from detseg.detect.anchors import AnchorFit, fit_anchors, kmeans_anchors
from detseg.detect.nms.greedy import batched_nms, nms
from detseg.detect.yolo import YoloDetector

if TYPE_CHECKING:
    from detseg.detect.nms import soft_nms, weighted_boxes_fusion

__all__ = [
    "AnchorFit",
    "YoloDetector",
    "batched_nms",
    "fit_anchors",
    "kmeans_anchors",
    "nms",
    "soft_nms",
    "weighted_boxes_fusion",
]


def __getattr__(name: str) -> Any:
    # Imported when asked for: their pages load numba, half a second.
    if name in ("soft_nms", "weighted_boxes_fusion"):
        from importlib import import_module

        return getattr(import_module("detseg.detect.nms"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
