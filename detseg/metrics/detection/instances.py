"""`InstanceEvaluator`: COCO average precision of boxes and of masks, of the same detections."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

from detseg.metrics.detection.average_precision import DetectionMetrics
from detseg.metrics.detection.evaluator import DetectionEvaluator
from detseg.metrics.figure import Metric


class InstanceEvaluator(Metric):
    """Collect detections with masks and measure their boxes and their masks, as `DetectionEvaluator` does each.

    Args:
        ground_truth: known from the start, or categories, as for `DetectionEvaluator`.
        masks: ground truth of the masks, where it is another one.
    """

    def __init__(self, ground_truth: Any, masks: Any = None) -> None:
        self._boxes = DetectionEvaluator(ground_truth)
        self._masks = DetectionEvaluator(ground_truth if masks is None else masks, "segm")

    def __len__(self) -> int:
        """Images so far, each counted once."""
        return len(self._boxes)

    def update(self, predictions: Iterable[Mapping[str, Any]], targets: Any, image_ids: Any = None) -> None:
        """Add the predictions of some images; see `DetectionEvaluator.update`."""
        rows, targets = list(predictions), None if targets is None else list(targets)
        self._masks.update(rows, targets, image_ids)  # first: where masks are missing or wrong, nothing is kept
        self._boxes.update(rows, targets, image_ids)

    def merge(self, other: Self) -> None:
        """Add the images of another evaluator."""
        self._boxes.merge(other._boxes)
        self._masks.merge(other._masks)

    def compute(self, *, partial: bool = False) -> DetectionMetrics:
        """The metrics of the boxes, with those of the masks as `masks`."""
        return replace(self._boxes.compute(partial=partial), masks=self._masks.compute(partial=partial))
