"""Detectors and their parts."""

from typing import TYPE_CHECKING, Any

# Imported at once, not when asked for: the package `detseg.detect.nms` would hide a lazily imported `nms`.
from detseg.detect.anchors import AnchorFit, fit_anchors, kmeans_anchors
from detseg.detect.nms.greedy import batched_nms, nms
from detseg.detect.yolo import YoloDetector

if TYPE_CHECKING:
    from detseg.detect.nms.fusion import weighted_boxes_fusion
    from detseg.detect.nms.soft import soft_nms

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

_LAZY = {"soft_nms": "detseg.detect.nms.soft", "weighted_boxes_fusion": "detseg.detect.nms.fusion"}


def __getattr__(name: str) -> Any:
    # Imported when asked for: their pages load numba, half a second.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = value = getattr(import_module(_LAZY[name]), name)
    return value
