"""The rule that a run needs something to learn, for every task: objects, a second class of pixels, a second class."""

from collections.abc import Iterator

import numpy as np

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.base import ImageSet
from detseg.data.index_png import MaskError
from detseg.data.labels import LabelledImages
from detseg.data.masks import SemanticMasks
from detseg.data.sample import IGNORE


def require_learnable(data: ImageSet, purpose: str = "learn") -> None:
    """Raise AnnotationError, which names the cause, where there is nothing to learn, or to evaluate a model on.

    Args:
        data: checked; masks are read until two classes of pixels are found, which one of the first mostly has.
        purpose: "learn" or "evaluate a model on".
    """
    cause = None
    if isinstance(data, Annotations):
        cause = _of_objects(data, purpose)
    elif isinstance(data, SemanticMasks):
        cause = _of_masks(data, purpose)
    elif isinstance(data, LabelledImages) and purpose == "learn":  # of one class accuracy can still be measured
        cause = _of_labels(data)
    if cause is not None:
        raise AnnotationError(f"{data.source}: {cause}")


def require_masks(data: Annotations) -> None:
    """Raise AnnotationError where no object, crowds apart, has a mask."""
    if data.drawn[~data.iscrowd].any() or data.iscrowd.all():  # without objects `require_learnable` says so
        return
    packed = ". What an earlier version packed has none: pack it again" if data.pack is not None else ""
    raise AnnotationError(
        f"{data.source}: has boxes but no masks, none of its {int((~data.iscrowd).sum())} objects has polygons or run "
        "lengths. Give COCO with 'segmentation', YOLO rows of polygons, VOC with SegmentationObject/, polygons of "
        f"LabelMe, or mask files with a number for each object{packed}; or learn boxes only"
    )


def _of_objects(data: Annotations, purpose: str) -> str | None:
    if not data.iscrowd.all():
        return None
    text = f"there are no objects to {purpose} in {len(data)} images"
    if len(data.iscrowd):
        text += f": all {len(data.iscrowd)} {IGNORED_CAUSE}"
    return text if purpose == "learn" else f"{text}; validate on images with objects"


IGNORED_CAUSE = (
    "are marked as crowd or difficult and are ignored. Where the tool did that (CVAT writes iscrowd 1 for every brush "
    "mask), set iscrowd or <difficult> to 0 in the files"
)


def _of_masks(data: SemanticMasks, purpose: str) -> str | None:
    objects = data.objects
    seen: set[int] = set()
    for labels in _labels(data):
        seen |= labels
        if len(seen - {IGNORE}) > 1:
            return None
    known = seen - {IGNORE}
    if not known:
        only = "every pixel is ignored"
    else:
        name = data.names[known.pop()]
        only = f"every pixel is {name!r}" + (" or ignored" if IGNORE in seen else "")
    text = f"there is nothing to {purpose} in the masks of {len(data)} images: {only}"
    if objects is not None and len(objects.ids) and objects.iscrowd.all():
        return f"{text}; all {len(objects.ids)} objects {IGNORED_CAUSE}"
    if objects is not None and not len(objects.ids):
        return f"{text}; there is not a single object"
    return text + _advice(data, seen)


def _labels(data: SemanticMasks) -> Iterator[set[int]]:
    """The labels in each mask; of masks that cannot be read none: validation reports them."""
    for index in range(len(data)):
        try:
            counts = np.bincount(data.mask(index).ravel(), minlength=IGNORE + 1)
        except MaskError:
            continue
        yield set(np.flatnonzero(counts).tolist())


def _advice(data: SemanticMasks, seen: set[int]) -> str:
    """What to do, by what is usual: 255 is the class of a list of two, or masks of another kind."""
    if IGNORE in seen and data.mask_paths is not None and IGNORE in data.ignore_values and len(data.categories) == 2:
        first, second = data.categories
        return (
            f". {IGNORE} is taken as 'ignore': if it is {second.name!r}, write the lines '{first.id} {first.name}' and "
            f"'{IGNORE} {second.name}' into the list of classes"
        )
    if data.reading.threshold is not None:
        return f"; the threshold of {data.reading.threshold} is above or below all that is in the masks"
    absent = [name for label, name in enumerate(data.names) if label not in seen]
    shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "") or "a second class"
    return f"; no pixel of {shown}. Are these the right masks, and the right list of classes?"


def _of_labels(data: LabelledImages) -> str | None:
    present = [name for name, count in zip(data.names, data.counts.tolist(), strict=True) if count]
    if len(present) > 1:
        return None
    return f"there is nothing to learn: all {len(data)} images are of {', '.join(map(repr, present)) or 'no class'}"
