"""Which detections found an object, the COCO way; all figures follow from it.

The rules are pycocotools' own, to the last tie. In each image and class the detections choose in order of
falling score (equal scores: as given). A detection takes the free object with the highest IoU, if that reaches
the threshold; of equal IoUs the later object. Crowd regions, and objects of another size than the area range
asks for, are only taken when nothing else is left, and whoever takes one is ignored; so is a detection
that found nothing and is itself of another size. A crowd region can be taken many times.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.metrics.detection import loops as kernels
from detseg.metrics.detection.inputs import Found, IoUType, Truth
from detseg.metrics.detection.layout import Layout, lay_out
from detseg.metrics.detection.loops import IGNORED, MISS, Pairs

# COCO's settings: IoU 0.50, 0.55, … 0.95; all, small, medium and large areas in square pixels, both ends included.
IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
AREA_RANGES = ((0.0, 1e5**2), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e5**2))
MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of every detection, for T IoU thresholds and A area ranges.

    D detections sorted by label, then falling score; equal scores in pycocotools' order: images by rising
    id, then as given. Each image and class is cut to the largest of `max_detections`. M objects in the
    order of the ground truth, N images, K classes (one, if the classes were ignored).
    """

    iou_thresholds: NDArray[np.float64]  # (T,)
    area_ranges: NDArray[np.float64]  # (A, 2)
    max_detections: tuple[int, ...]  # rising
    num_images: int  # N
    classes: int  # K
    class_agnostic: bool  # all classes are taken for one
    source: NDArray[np.int64]  # (D,) position in Found
    images: NDArray[np.int32]  # (D,) position in Truth.image_ids
    label_start: NDArray[np.int64]  # (K + 1,) class k owns the detections label_start[k]:label_start[k + 1]
    scores: NDArray[np.float64]  # (D,)
    rank: NDArray[np.int32]  # (D,) position among the detections of its image and class, best first
    status: NDArray[np.int8]  # (A, T, D) HIT, MISS or IGNORED
    object_images: NDArray[np.int32]  # (M,) position in Truth.image_ids
    object_labels: NDArray[np.int32]  # (M,) position in Truth.category_ids
    counted: NDArray[np.bool_]  # (A, M) the objects that count: of that size and no crowd region

    def object_counts(self) -> NDArray[np.int64]:
        """(A, K) objects that count, by area range and class."""
        rows = [np.bincount(self.object_labels[row], minlength=self.classes) for row in self.counted]
        return np.array(rows, dtype=np.int64).reshape(-1, self.classes)

    def image_counts(self, objects: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(K,) images with at least one of these objects (M,)."""
        labels, images = self.object_labels[objects].astype(np.int64), self.object_images[objects]
        return np.bincount(np.unique(labels * self.num_images + images) // self.num_images, minlength=self.classes)


def match(
    truth: Truth,
    found: Found,
    iou_type: IoUType,
    *,
    iou_thresholds: ArrayLike | None = None,
    area_ranges: ArrayLike = AREA_RANGES,
    max_detections: Sequence[int] = MAX_DETECTIONS,
    class_agnostic: bool = False,
) -> Matches:
    """Compare checked detections with checked ground truth.

    Args:
        truth, found, iou_type: from `read_truth` and `read_found`, for the same `iou_type`.
        area_ranges: (A, 2) lowest and highest area in square pixels, both included.
        iou_thresholds, max_detections, class_agnostic: as for `evaluate_detections`.

    Raises:
        ValueError: an option is out of its range, or the run lengths of a mask are damaged.
    """
    thresholds = _checked_thresholds(IOU_THRESHOLDS if iou_thresholds is None else iou_thresholds)
    ranges = _checked_ranges(area_ranges)
    limits = _checked_limits(max_detections)
    layout = lay_out(truth, found, most=limits[-1], class_agnostic=class_agnostic)
    images = layout.by_id[layout.image_positions].astype(np.int32)
    object_images = np.empty(len(truth.areas), np.int32)
    object_images[layout.objects] = layout.by_id[layout.object_positions]
    in_range = [(truth.areas >= low) & (truth.areas <= high) & ~truth.iscrowd for low, high in ranges]
    counted = np.array(in_range, dtype=bool)

    status = np.empty((len(ranges), len(thresholds), len(images)), np.int8)
    for rows, (low, high) in zip(status, ranges, strict=True):
        outside = (found.areas < low) | (found.areas > high)
        rows[:] = np.where(outside, np.int8(IGNORED), np.int8(MISS))[layout.source]
    kernels.match_pairs(
        layout.label_start,
        layout.image_positions[layout.places],
        layout.places,
        find_pairs(truth, found, iou_type, layout, min(float(thresholds[0]), 1 - 1e-10)),
        truth.iscrowd[layout.objects],
        np.ascontiguousarray(counted[:, layout.objects]),
        np.minimum(thresholds, 1 - 1e-10),  # as pycocotools has it
        np.zeros(len(layout.objects), np.int32),
        np.empty(len(images), np.int64),
        status,
    )
    return Matches(
        iou_thresholds=thresholds,
        area_ranges=ranges,
        max_detections=limits,
        num_images=len(truth.image_ids),
        classes=len(layout.label_start) - 1,
        class_agnostic=class_agnostic,
        source=layout.source.astype(np.int64),
        images=images,
        label_start=layout.label_start,
        scores=found.scores[layout.source],
        rank=layout.rank,
        status=status,
        object_images=object_images,
        object_labels=layout.object_labels,
        counted=counted,
    )


def limits_of(most: int) -> tuple[int, ...]:
    """COCO's numbers of detections an image and class, with `most` as the largest in place of 100."""
    return *(limit for limit in MAX_DETECTIONS[:-1] if limit < most), most


def limits_for(truth: Truth, most: int) -> tuple[int, ...]:
    """COCO's, or where an image has more objects of a class than these allow, those that go to `most`."""
    return limits_of(max(MAX_DETECTIONS[-1], most)) if images_beyond(truth, MAX_DETECTIONS[-1]) else MAX_DETECTIONS


def images_beyond(truth: Truth, most: int) -> int:
    """How many images have more than `most` objects of a class, crowds left out."""
    real = ~truth.iscrowd
    owners = np.stack([truth.object_images[real], truth.object_categories[real]], 1)
    pairs, counts = np.unique(owners, axis=0, return_counts=True)
    return len(np.unique(pairs[counts > most, 0]))


def find_pairs(truth: Truth, found: Found, iou_type: IoUType, layout: Layout, lowest: float) -> Pairs:
    """IoUs of `lowest` and more between detections and objects of the same class and image.

    Detection d is `layout.places[d]`, object g is `layout.objects[g]`.

    Raises:
        ValueError: the run lengths of a mask are damaged.
    """
    if iou_type == "bbox":
        return find_box_pairs(truth, found, layout, truth.iscrowd[layout.objects], lowest)
    if iou_type == "boundary":
        from detseg.metrics.detection.boundary_iou import find_boundary_pairs  # compiled only where it is used

        return find_boundary_pairs(truth, found, layout, lowest)
    from detseg.metrics.detection.mask_iou import find_mask_pairs

    return find_mask_pairs(truth, found, layout, lowest)


def find_box_pairs(truth: Truth, found: Found, layout: Layout, crowd: NDArray[np.bool_], lowest: float) -> Pairs:
    """`find_pairs` of boxes; `crowd` (M,) are the objects whose overlap is divided by the detection's area."""
    places, boxes = layout.places, np.ascontiguousarray(found.boxes)
    detections = layout.label_start, layout.image_positions[places], layout.source[places], boxes
    real = layout.object_start, layout.object_positions, np.ascontiguousarray(truth.boxes[layout.objects])
    fill = partial(kernels.box_pairs, detections, real, crowd, lowest)
    return kernels.collect_pairs(len(places), fill)


# ------------------------------------------------------------------ whatever the classes


@dataclass(frozen=True, eq=False)
class Overlaps:
    """D detections, sorted by image and then by falling score, and P pairs of them with objects of any class.

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


def find_overlaps(
    truth: Truth, found: Found, iou_type: IoUType, *, at_least: float, max_detections: int = 100
) -> Overlaps:
    """The pairs of an image whose IoU is `at_least` that; the best `max_detections` of each image and class take part.

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
    by_image = np.lexsort((layout.objects, layout.object_positions))
    together = replace(  # as if all were of one class
        layout,
        source=layout.source[order],
        label_start=np.array([0, len(order)]),
        image_positions=layout.image_positions[order],
        places=np.arange(len(order), dtype=np.int32),
        objects=layout.objects[by_image],
        object_start=np.array([0, len(by_image)]),
        object_positions=layout.object_positions[by_image],
    )
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
    )


# ------------------------------------------------------------------ checks


def _checked_thresholds(values: ArrayLike) -> NDArray[np.float64]:
    thresholds = np.array(values, dtype=np.float64)
    if thresholds.ndim != 1 or not thresholds.size:
        raise ValueError(f"iou_thresholds must be a list of numbers such as [0.5, 0.75], got {values!r:.80}")
    if not ((thresholds >= 0) & (thresholds <= 1)).all() or (np.diff(thresholds) <= 0).any():
        raise ValueError(f"iou_thresholds must rise and lie in [0, 1], got {thresholds.tolist()}")
    return thresholds


def _checked_ranges(values: ArrayLike) -> NDArray[np.float64]:
    ranges = np.array(values, dtype=np.float64)
    if ranges.ndim != 2 or ranges.shape[1] != 2 or not ranges.size:
        raise ValueError(f"area_ranges must have shape (A, 2): lowest and highest area, got {ranges.shape}")
    if not (ranges[:, 0] <= ranges[:, 1]).all():
        raise ValueError(f"area_ranges: the lowest area must not be above the highest, got {ranges.tolist()}")
    return ranges


def _checked_limits(values: Sequence[int]) -> tuple[int, ...]:
    limits = sorted({int(value) for value in values})
    if not limits or limits[0] < 1 or any(value != int(value) for value in values):
        raise ValueError(f"max_detections must be whole numbers from 1 such as (1, 10, 100), got {values!r:.80}")
    return tuple(limits)
