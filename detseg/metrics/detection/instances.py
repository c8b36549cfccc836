"""`InstanceEvaluator`: COCO average precision of boxes and of masks, of the same detections."""

from dataclasses import replace
from typing import Any

from detseg.metrics.detection.average_precision import DetectionMetrics, measure
from detseg.metrics.detection.evaluator import DetectionEvaluator, subset_of
from detseg.metrics.detection.inputs import read_truth


class InstanceEvaluator(DetectionEvaluator):
    """Collect detections with masks, and measure their boxes and their masks.

    Args:
        ground_truth: known from the start, or the categories, as for `DetectionEvaluator`.
        mask_truth: ground truth of the masks, where other objects count there.
        options: as for `DetectionEvaluator`.
    """

    def __init__(self, ground_truth: Any, mask_truth: Any = None, **options: Any) -> None:
        super().__init__(ground_truth if mask_truth is None else mask_truth, "segm", **options)
        self._box_truth = None if self._truth is None else read_truth(ground_truth, "bbox")

    def compute(self, *, partial: bool = False) -> DetectionMetrics:
        """The metrics of the boxes of all images so far, with those of the masks as `masks`."""
        truth, found = self._compared(partial)
        masks = measure(truth, found, "segm", **self._options)
        boxes = truth if self._box_truth is None else subset_of(self._box_truth, truth.image_ids)
        return replace(measure(boxes, found, "bbox", **self._options), masks=masks)
