"""How good detections are, as numbers, tables and curves; the names are loaded when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.boxes import box_iou, crowd_iou, paired_iou
    from detseg.metrics.bootstrap.detection import Comparison, Intervals, bootstrap, compare, compare_matches
    from detseg.metrics.bootstrap.segmentation import (
        SegmentationIntervals,
        bootstrap_segmentation,
        compare_segmentation,
    )
    from detseg.metrics.classification import ClassificationEvaluator, ClassificationMetrics
    from detseg.metrics.detection.analysis import Analysis, analyse
    from detseg.metrics.detection.average_precision import (
        ClassMetrics,
        DetectionMetrics,
        PrecisionRecall,
        evaluate_detections,
    )
    from detseg.metrics.detection.confusion import BestThresholds, Confusion, best_thresholds, confusion_matrix
    from detseg.metrics.detection.error_analysis import ErrorAnalysis, analyse_errors
    from detseg.metrics.detection.evaluator import DetectionEvaluator
    from detseg.metrics.detection.inputs import Detections
    from detseg.metrics.detection.matching import Matches, match
    from detseg.metrics.detection.voc_ap import VocClass, VocMetrics, evaluate_voc
    from detseg.metrics.segmentation.evaluator import SegmentationEvaluator
    from detseg.metrics.segmentation.mean_iou import (
        ImageCounts,
        SegmentationClass,
        SegmentationMetrics,
        evaluate_segmentation,
    )

_HOME = {
    "Analysis": "detection.analysis",
    "BestThresholds": "detection.confusion",
    "ClassMetrics": "detection.average_precision",
    "ClassificationEvaluator": "classification",
    "ClassificationMetrics": "classification",
    "Comparison": "bootstrap.detection",
    "Confusion": "detection.confusion",
    "DetectionEvaluator": "detection.evaluator",
    "DetectionMetrics": "detection.average_precision",
    "Detections": "detection.inputs",
    "ErrorAnalysis": "detection.error_analysis",
    "Intervals": "bootstrap.detection",
    "Matches": "detection.matching",
    "ImageCounts": "segmentation.mean_iou",
    "PrecisionRecall": "detection.average_precision",
    "SegmentationClass": "segmentation.mean_iou",
    "SegmentationEvaluator": "segmentation.evaluator",
    "SegmentationIntervals": "bootstrap.segmentation",
    "SegmentationMetrics": "segmentation.mean_iou",
    "VocClass": "detection.voc_ap",
    "VocMetrics": "detection.voc_ap",
    "analyse": "detection.analysis",
    "analyse_errors": "detection.error_analysis",
    "best_thresholds": "detection.confusion",
    "box_iou": ".boxes",  # of the package above
    "bootstrap": "bootstrap.detection",
    "bootstrap_segmentation": "bootstrap.segmentation",
    "compare": "bootstrap.detection",
    "compare_matches": "bootstrap.detection",
    "compare_segmentation": "bootstrap.segmentation",
    "confusion_matrix": "detection.confusion",
    "crowd_iou": ".boxes",
    "evaluate_detections": "detection.average_precision",
    "evaluate_segmentation": "segmentation.mean_iou",
    "evaluate_voc": "detection.voc_ap",
    "match": "detection.matching",
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
    "ImageCounts",
    "Intervals",
    "Matches",
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
