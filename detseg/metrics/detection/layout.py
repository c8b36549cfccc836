"""The order in which detections and objects are compared: positions in place of ids, sorted once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detseg.kernels import sort_falling, sort_groups
from detseg.metrics.detection.inputs import Found, Truth
from detseg.metrics.detection.loops import rank_in_image
from detseg.metrics.detection.records import positions


@dataclass(frozen=True, eq=False)
class Layout:
    """D detections and M objects of K classes in N images; images are numbered by rising id here."""

    by_id: NDArray[np.int64]  # (N,) position in Truth.image_ids of the image with each number
    source: NDArray[np.int32]  # (D,) position in Found; sorted by class, then falling score
    label_start: NDArray[np.int64]  # (K + 1,) class k owns source[label_start[k]:label_start[k + 1]]
    image_positions: NDArray[np.int32]  # (D,) of source
    rank: NDArray[np.int32]  # (D,) of source: position among those of its class and image
    places: NDArray[np.int32]  # (D,) positions in source, sorted by class, image, falling score
    objects: NDArray[np.int32]  # (M,) position in Truth; sorted by class, image, then as given
    object_start: NDArray[np.int64]  # (K + 1,)
    object_positions: NDArray[np.int32]  # (M,) of objects
    object_labels: NDArray[np.int32]  # (M,) in the order of Truth


def lay_out(
    truth: Truth, found: Found, *, most: int | None = None, class_agnostic: bool = False, ties_by_image: bool = True
) -> Layout:
    """Sort detections and objects.

    Args:
        truth, found: checked input.
        most: keep so many detections an image and class, the best ones; None keeps all.
        class_agnostic: take all categories for one class.
        ties_by_image: equal scores of a class go by the images' ids, as in pycocotools; otherwise as given.
    """
    by_id = np.argsort(truth.image_ids)
    count = len(by_id)
    image_positions = positions(found.image_ids, truth.image_ids[by_id])
    object_positions = positions(truth.object_images, truth.image_ids[by_id])
    categories = positions(found.category_ids, truth.category_ids)
    object_categories = positions(truth.object_categories, truth.category_ids)
    order = np.arange(len(image_positions), dtype=np.int32)
    objects = np.arange(len(object_positions), dtype=np.int32)
    classes, labels, object_labels = len(truth.category_ids), categories, object_categories
    if class_agnostic:
        # pycocotools lists an image's boxes category after category, by rising id.
        place = np.argsort(np.argsort(truth.category_ids)).astype(np.int32)
        order = sort_groups(order, place[categories], classes)
        objects = sort_groups(objects, place[object_categories], classes)
        classes, labels, object_labels = 1, np.zeros_like(categories), np.zeros_like(object_categories)
    if ties_by_image:
        order = sort_groups(order, image_positions, count)
    source = sort_groups(sort_falling(order, found.scores + 0.0), labels, classes)  # no -0.0
    objects = sort_groups(sort_groups(objects, object_positions, count), object_labels, classes)

    start = starts(labels, classes)
    rank = np.empty(len(source), np.int32)
    rank_in_image(start, image_positions[source], *np.zeros((2, count), np.int32), rank)
    if most is not None and (rank >= most).any():
        kept = rank < most
        start = np.concatenate([[0], np.cumsum(kept)])[start]
        source, rank = source[kept], rank[kept]
    places = sort_groups(np.arange(len(source), dtype=np.int32), image_positions[source], count)
    return Layout(
        by_id=by_id,
        source=source,
        label_start=start,
        image_positions=image_positions[source],
        rank=rank,
        places=sort_groups(places, labels[source], classes),
        objects=objects,
        object_start=starts(object_labels, classes),
        object_positions=object_positions[objects],
        object_labels=object_labels,
    )


def starts(labels: NDArray[np.int32], classes: int) -> NDArray[np.int64]:
    """(K + 1,) where each class starts when the labels are sorted."""
    return np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=classes))]).astype(np.int64)
