"""How good detections are, as numbers, tables and curves; the names are loaded when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.boxes import box_iou, crowd_iou, paired_iou
    from detseg.metrics.analysis import Analysis, analyse
    from detseg.metrics.classification import ClassificationEvaluator, ClassificationMetrics
    from detseg.metrics.confusion import BestThresholds, Confusion, best_thresholds, confusion_matrix
    from detseg.metrics.detection import ClassMetrics, DetectionMetrics, PrecisionRecall, evaluate_detections
    from detseg.metrics.errors import ErrorAnalysis, analyse_errors
    from detseg.metrics.evaluator import DetectionEvaluator
    from detseg.metrics.inputs import Detections
    from detseg.metrics.matching import Matches, match
    from detseg.metrics.resampling import Comparison, Intervals, bootstrap, compare, compare_matches
    from detseg.metrics.segmentation import PictureCounts, SegmentationClass, SegmentationMetrics, evaluate_segmentation
    from detseg.metrics.segmentation_evaluator import SegmentationEvaluator
    from detseg.metrics.segmentation_resampling import (
        SegmentationIntervals,
        bootstrap_segmentation,
        compare_segmentation,
    )
    from detseg.metrics.voc import VocClass, VocMetrics, evaluate_voc

_HOME = {
    "Analysis": "analysis",
    "BestThresholds": "confusion",
    "ClassMetrics": "detection",
    "ClassificationEvaluator": "classification",
    "ClassificationMetrics": "classification",
    "Comparison": "resampling",
    "Confusion": "confusion",
    "DetectionEvaluator": "evaluator",
    "DetectionMetrics": "detection",
    "Detections": "inputs",
    "ErrorAnalysis": "errors",
    "Intervals": "resampling",
    "Matches": "matching",
    "PictureCounts": "segmentation",
    "PrecisionRecall": "detection",
    "SegmentationClass": "segmentation",
    "SegmentationEvaluator": "segmentation_evaluator",
    "SegmentationIntervals": "segmentation_resampling",
    "SegmentationMetrics": "segmentation",
    "VocClass": "voc",
    "VocMetrics": "voc",
    "analyse": "analysis",
    "analyse_errors": "errors",
    "best_thresholds": "confusion",
    "box_iou": ".boxes",  # of the package above
    "bootstrap": "resampling",
    "bootstrap_segmentation": "segmentation_resampling",
    "compare": "resampling",
    "compare_matches": "resampling",
    "compare_segmentation": "segmentation_resampling",
    "confusion_matrix": "confusion",
    "crowd_iou": ".boxes",
    "evaluate_detections": "detection",
    "evaluate_segmentation": "segmentation",
    "evaluate_voc": "voc",
    "match": "matching",
    "paired_iou": ".boxes",
}

__all__ = [
    "Analysis",
    "BestThresholds",
    "ClassMetrics",
    "ClassificationEvaluator",
    "ClassificationMetrics",
    "Comparison",
    "Confusion",
    "DetectionEvaluator",
    "DetectionMetrics",
    "Detections",
    "ErrorAnalysis",
    "Intervals",
    "Matches",
    "PictureCounts",
    "PrecisionRecall",
    "SegmentationClass",
    "SegmentationEvaluator",
    "SegmentationIntervals",
    "SegmentationMetrics",
    "VocClass",
    "VocMetrics",
    "analyse",
    "analyse_errors",
    "best_thresholds",
    "bootstrap",
    "bootstrap_segmentation",
    "box_iou",
    "compare",
    "compare_matches",
    "compare_segmentation",
    "confusion_matrix",
    "crowd_iou",
    "evaluate_detections",
    "evaluate_segmentation",
    "evaluate_voc",
    "match",
    "paired_iou",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
