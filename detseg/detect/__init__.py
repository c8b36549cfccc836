"""Detectors and their parts."""

# Imported at once, not when asked for: the module `detseg.detect.nms` would hide a lazily imported `nms`.
from detseg.detect.anchors import AnchorFit, fit_anchors, kmeans_anchors
from detseg.detect.nms import batched_nms, nms
from detseg.detect.yolo import YoloDetector

__all__ = ["AnchorFit", "YoloDetector", "batched_nms", "fit_anchors", "kmeans_anchors", "nms"]
