"""Overlapping detections and objects of an image, whatever their classes, for error analysis and confusion matrix."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.detection.inputs import Found, IoUType, Truth
from detseg.metrics.detection.layout import Layout, lay_out
from detseg.metrics.detection.matching import find_pairs


@dataclass(frozen=True, eq=False)
class Overlaps:
    """D detections, sorted by image and then by falling score, and P pairs of them with overlapping objects.

    Images come by rising id and equal scores in the order given, as everywhere in COCO's evaluation. The pairs
    of detection d are `start[d]:start[d + 1]`, in the order of the objects. For a crowd region the IoU is the
    share of the detection that lies in it.
    """

    source: NDArray[np.int32]  # (D,) position in Found
    labels: NDArray[np.int32]  # (D,) position in Truth.category_ids
    scores: NDArray[np.float64]  # (D,)
    object_labels: NDArray[np.int32]  # (M,) position in Truth.category_ids
    iscrowd: NDArray[np.bool_]  # (M,)
    start: NDArray[np.int64]  # (D + 1,)
    objects: NDArray[np.int32]  # (P,) position among Truth's objects
    ious: NDArray[np.float64]  # (P,)
    classes: int  # K
    at_least: float  # pairs with a smaller IoU are not listed

    def detection_of_pair(self) -> NDArray[np.int64]:
        """(P,) the detection that each pair belongs to."""
        return np.repeat(np.arange(len(self.scores)), np.diff(self.start))


def find_overlaps(
    truth: Truth, found: Found, iou_type: IoUType, *, at_least: float = 0.1, max_detections: int = 100
) -> Overlaps:
    """The pairs of a detection and an object of one image whose IoU is `at_least` that.

    Args:
        truth: checked ground truth.
        found: checked detections of it.
        iou_type: "bbox" compares boxes, "segm" masks.
        at_least: above 0.
        max_detections: the best so many of each image and class take part.

    Raises:
        ValueError: `at_least` is not in (0, 1], or `max_detections` is less than 1.
    """
    if not 0 < at_least <= 1:
        raise ValueError(f"at_least must be an IoU above 0 and up to 1, got {at_least}")
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}")
    layout = lay_out(truth, found, most=max_detections)
    labels = np.repeat(np.arange(len(truth.names), dtype=np.int32), np.diff(layout.label_start))
    scores = found.scores[layout.source]
    order = np.lexsort((layout.source, -scores, layout.image_positions))
    together = _as_one_class(layout, order)
    start, objects, ious = find_pairs(truth, found, iou_type, together, min(at_least, 1 - 1e-10))
    return Overlaps(
        source=together.source,
        labels=labels[order],
        scores=scores[order],
        object_labels=layout.object_labels,
        iscrowd=truth.iscrowd,
        start=start,
        objects=together.objects[objects],
        ious=ious,
        classes=len(truth.names),
        at_least=at_least,
    )


def _as_one_class(layout: Layout, order: NDArray[np.int64]) -> Layout:
    """The layout with all classes together: detections in this order, objects by image, then as given."""
    by_image = np.lexsort((layout.objects, layout.object_positions))
    return Layout(
        by_id=layout.by_id,
        source=layout.source[order],
        label_start=np.array([0, len(order)]),
        image_positions=layout.image_positions[order],
        rank=layout.rank[order],
        places=np.arange(len(order), dtype=np.int32),
        objects=layout.objects[by_image],
        object_start=np.array([0, len(by_image)]),
        object_positions=layout.object_positions[by_image],
        object_labels=layout.object_labels,
    )
