"""Metrics, intervals, error analysis, best thresholds and the confusion matrix of detections in one go."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detseg.metrics.bootstrap.detection import bootstrap_detection
from detseg.metrics.bootstrap.draws import Intervals
from detseg.metrics.detection.average_precision import DetectionMetrics, measure
from detseg.metrics.detection.confusion import BestThresholds, Confusion, best_thresholds, confusion_of
from detseg.metrics.detection.error_analysis import ErrorAnalysis, errors_of
from detseg.metrics.detection.inputs import IoUType, read_found, read_truth
from detseg.metrics.detection.matching import MAX_DETECTIONS, find_overlaps
from detseg.metrics.detection.reliability import Reliability, outcomes, reliability
from detseg.options import check_score_threshold

_IOU, _BACKGROUND = 0.5, 0.1


@dataclass(frozen=True, eq=False)
class Analysis:
    """The results of `analyse`."""

    metrics: DetectionMetrics
    intervals: Intervals | None
    errors: ErrorAnalysis
    thresholds: BestThresholds
    confusion: Confusion
    reliability: Reliability

    def to_dict(self, *, curves: bool = False) -> dict[str, Any]:
        """Everything as plain Python for `json.dump`, NaN as None: what the metrics hold, and more beside it."""
        more = {
            "intervals": None if self.intervals is None else self.intervals.to_dict(),
            "errors": self.errors.to_dict(),
            "best_thresholds": self.thresholds.to_dict(),
            "confusion": self.confusion.to_dict(),
            "reliability": self.reliability.to_dict(),
        }
        return self.metrics.to_dict(curves=curves) | more


def analyse(
    ground_truth: Any,
    detections: Any,
    iou_type: IoUType = "bbox",
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    score_threshold: float | None = None,
    metrics: DetectionMetrics | None = None,
    max_detections: Sequence[int] = MAX_DETECTIONS,
) -> Analysis:
    """Metrics with intervals, what the errors cost, the best score thresholds, and the confusion matrix.

    Args:
        ground_truth, detections, iou_type: as in `evaluate_detections`.
        resamples, level, seed: as in `bootstrap_detection`; 0 resamples leave the intervals out.
        score_threshold: of the confusion matrix; by default the one with the best F1 over all classes.
        metrics: of the same detections, where they have been computed already.
        max_detections: as in `evaluate_detections`, where they have not.
    """
    if score_threshold is not None:
        check_score_threshold(score_threshold)
    truth = read_truth(ground_truth, iou_type)
    found = read_found(detections, truth, iou_type)
    if metrics is None:
        metrics = measure(truth, found, iou_type, max_detections=max_detections)
    matches = metrics.matches
    intervals = bootstrap_detection(matches, resamples=resamples, level=level, seed=seed) if resamples else None
    thresholds = best_thresholds(matches, _IOU)
    if score_threshold is None:
        best = thresholds.overall.score
        score_threshold = 0.0 if math.isnan(best) else best
    overlaps = find_overlaps(truth, found, iou_type, at_least=_BACKGROUND, max_detections=matches.max_detections[-1])
    return Analysis(
        metrics=metrics,
        intervals=intervals,
        errors=errors_of(overlaps, len(found.scores), foreground=_IOU, background=_BACKGROUND),
        thresholds=thresholds,
        confusion=confusion_of(overlaps, truth.names, score_threshold=score_threshold, iou_threshold=_IOU),
        reliability=reliability(*outcomes(matches)),
    )
