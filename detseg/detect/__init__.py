"""Detectors and their parts."""

# Imported at once, not when asked for: the module `detseg.detect.nms.greedy` would hide a lazily imported `nms`.
from detseg.detect.anchors import AnchorFit, fit_anchors, kmeans_anchors
from detseg.detect.nms.fusion import weighted_boxes_fusion
from detseg.detect.nms.greedy import batched_nms, nms
from detseg.detect.nms.soft import soft_nms
from detseg.detect.yolo import YoloDetector

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
