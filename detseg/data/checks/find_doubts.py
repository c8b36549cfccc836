"""Everything doubtful in the splits of a data set, of any kind: boxes, masks or labels."""

from collections.abc import Mapping

from detseg.data.annotations import Annotations
from detseg.data.base import ImageSet, Track
from detseg.data.checks import box_doubts, class_doubts, image_doubts, mask_doubts
from detseg.data.checks.doubts import Doubt, ranked
from detseg.data.labels import LabelledImages
from detseg.data.masks import SemanticMasks

KINDS = {**image_doubts.KINDS, **class_doubts.KINDS, **box_doubts.KINDS, **mask_doubts.KINDS}


def find_doubts(
    splits: Mapping[str, ImageSet], *, images: Track | None = None, masks: Track | None = None
) -> list[Doubt]:
    """What is worth a look, by kind in the order of `KINDS`, the worst of a kind first. Nothing is changed.

    Args:
        splits: by name, all `Annotations`, `SemanticMasks` or `LabelledImages`.
        images, masks: show progress over the images, and the masks, that are read.
    """
    doubts = image_doubts.image_doubts(splits, images)
    counts, noun = {}, "object"
    for split, data in splits.items():
        if isinstance(data, Annotations):
            doubts += box_doubts.box_doubts(split, data)
        if isinstance(data, Annotations | LabelledImages):
            noun = "object" if isinstance(data, Annotations) else "image"
            counts[split] = class_doubts.counted(data.names, data.labels)
    masked = {split: data for split, data in splits.items() if isinstance(data, SemanticMasks)}
    if masked:
        found, counts = mask_doubts.mask_doubts(masked, masks)
        doubts, noun = doubts + found, "image"
    return ranked(doubts + class_doubts.class_doubts(counts, noun), KINDS)
