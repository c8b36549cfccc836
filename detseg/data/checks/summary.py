"""One line on how much a set of annotated objects holds: what is learnt, and what is not."""

import numpy as np

from detseg.data.annotations import Annotations


def objects_summary(annotations: Annotations) -> str:
    """What there is to learn and what there is not, as "4 images with 7 objects, 1 image without objects, 2 objects
    ignored (crowd or difficult)".

    The images are all of them; those without objects have nothing annotated, not even what is ignored.
    """
    ignored = int(annotations.iscrowd.sum())
    empty = int((np.diff(annotations.offsets) == 0).sum())
    parts = [f"{_count(len(annotations), 'image')} with {_count(len(annotations.ids) - ignored, 'object')}"]
    if 0 < empty < len(annotations):
        parts.append(f"{_count(empty, 'image')} without objects")
    if ignored:
        parts.append(f"{_count(ignored, 'object')} ignored (crowd or difficult)")
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
