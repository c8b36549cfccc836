"""Detectors and their parts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Imported at once, not when asked for: the package `detseg.detect.nms` would hide a lazily imported `nms`.
from detseg.detect.anchors import AnchorFit, fit_anchors, kmeans_anchors
from detseg.detect.faster_rcnn import FasterRcnn
from detseg.detect.mask_rcnn import MaskRcnn
from detseg.detect.nms import batched_nms, nms
from detseg.detect.ssd import SsdDetector
from detseg.detect.yolo import YoloDetector

if TYPE_CHECKING:
    from detseg.detect.nms.fusion import weighted_boxes_fusion
    from detseg.detect.nms.soft import soft_nms

__all__ = [
    "AnchorFit",
    "FasterRcnn",
    "MaskRcnn",
    "SsdDetector",
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
    pages = {"soft_nms": "soft", "weighted_boxes_fusion": "fusion"}
    if name not in pages:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"detseg.detect.nms.{pages[name]}"), name)
