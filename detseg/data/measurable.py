"""Annotations whose masks detections can be measured by.

Where some objects have a box and no mask, nobody knows which of the pixels in the box are the object's. They are set
aside as crowd regions are: a mask found within such a box is neither right nor wrong.
"""

from dataclasses import replace

from detseg.data.annotations import Annotations
from detseg.data.polygons import SegmentsBuilder


def tell_without_masks(data: Annotations) -> str:
    """A line on how many objects have no mask, "" where all have one."""
    objects = ~data.iscrowd
    count = int((objects & ~data.drawn).sum())
    if not count:
        return ""
    total = int(objects.sum())
    return f"{data.source}: {count} of {total} objects have no mask; masks found there are neither right nor wrong"


def measurable_masks(data: Annotations) -> Annotations:
    """The same annotations; objects without a mask are crowd regions the size of their box."""
    missing = ~data.drawn
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
