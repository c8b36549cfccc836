"""Annotations whose masks detections can be measured by.

Where some objects have a box and no mask, nobody knows which of the pixels in the box are the object's. They are set
aside as crowd regions are: a mask found within such a box is neither right nor wrong.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.polygons import SegmentsBuilder


def without_masks(data: Annotations) -> NDArray[np.bool_]:
    """(M,) which objects have neither polygons nor run lengths."""
    if data.segments is None:
        return np.ones(len(data.ids), np.bool_)
    return ~(data.segments.has_polygons | data.segments.has_rle)


def require_measurable(data: Annotations) -> str:
    """A line on how many objects have no mask, "" where all have one.

    Raises:
        AnnotationError: none has one, crowd regions apart.
    """
    missing, objects = without_masks(data), ~data.iscrowd
    count, total = int((missing & objects).sum()), int(objects.sum())
    if total and count == total:
        raise AnnotationError(
            f"{data.source}: has boxes but no masks to evaluate masks by; give a file with polygons or run lengths "
            "('segmentation'; packed files keep none)"
        )
    if not count:
        return ""
    return f"{data.source}: {count} of {total} objects have no mask; masks found there are neither right nor wrong"


def measurable_masks(data: Annotations) -> Annotations:
    """The same annotations; objects without a mask are crowd regions the size of their box."""
    missing = without_masks(data)
    if not missing.any():
        return data
    builder, segments = SegmentsBuilder(), data.segments
    for row, (x1, y1, x2, y2) in enumerate(data.boxes.tolist()):
        if segments is None or missing[row]:
            builder.add_polygons([[x1, y1, x2, y1, x2, y2, x1, y2]])
        elif polygons := segments.polygons(row):
            builder.add_polygons([polygon.ravel().tolist() for polygon in polygons])
        elif code := segments.rle(row, 0, 0):
            height, width = code["size"]
            builder.add_rle(height, width, code["counts"])
    return replace(data, iscrowd=data.iscrowd | missing, segments=builder.build())
