"""Several splits of a data set as one."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from detseg.data.annotations import Annotations
from detseg.data.base import Set, refuse_pack
from detseg.data.labels import LabelledImages
from detseg.data.masks import SemanticMasks
from detseg.data.polygons import Segments

# Fields with an entry for each image or object, by kind of set.
_ROWS = {
    Annotations: ("boxes", "labels", "iscrowd", "areas"),
    LabelledImages: ("labels",),
    SemanticMasks: (),
}


def joined(sets: Sequence[Set], source: str) -> Set:
    """The images of several sets of one kind, with the categories of the first.

    Ids of images and objects are kept where they stay unique, else numbered from 1.

    Raises:
        AnnotationError: the categories differ in more than their order.
        ValueError: images are packed.
    """
    first, *others = sets
    sets = [first, *(data.match(first.categories) for data in others)]
    if not others:
        return first
    for data in sets:
        refuse_pack(data.pack)
    changes: dict[str, Any] = {name: _end_to_end(sets, name) for name in ("paths", "sizes", *_ROWS[type(first)])}
    starts = np.cumsum([0, *(len(data) for data in sets)]).tolist()
    problems = zip(starts, sets, strict=False)
    changes["read_problems"] = tuple(
        replace(problem, image_index=problem.image_index + start if problem.image_index >= 0 else -1)
        for start, data in problems
        for problem in data.read_problems
    )
    changes["image_ids"] = _unique(_end_to_end(sets, "image_ids"))
    if isinstance(first, Annotations):
        objects: Any = sets
        changes["ids"] = _unique(_end_to_end(sets, "ids"))
        changes["image_index"] = np.concatenate(
            [(data.image_index + start).astype(np.int32) for start, data in zip(starts, objects, strict=False)]
        )
        files = [[data.file_of(image) for image in range(len(data))] for data in objects]
        changes["label_files"] = np.array([file for own in files for file in own], np.str_)
        changes["segments"] = _segments(objects)
    elif isinstance(first, SemanticMasks) and first.objects is not None:
        changes["objects"] = joined([data.objects for data in sets], source)  # type: ignore[attr-defined]
    elif isinstance(first, SemanticMasks):
        changes["mask_paths"] = _end_to_end(sets, "mask_paths")
    return replace(first, source=source, **changes)


def _end_to_end(sets: Sequence[Any], name: str) -> Any:
    return np.concatenate([getattr(data, name) for data in sets])


def _unique(ids: Any) -> Any:
    return ids if len(np.unique(ids)) == len(ids) else np.arange(1, len(ids) + 1, dtype=np.int64)


def _segments(sets: Sequence[Annotations]) -> Segments | None:
    """The masks of all objects; None where no set has any."""
    if all(data.segments is None for data in sets):
        return None
    parts = [_nothing(len(data.ids)) if data.segments is None else data.segments for data in sets]
    columns: dict[str, Any] = {}
    for field in fields(Segments):
        arrays = [getattr(part, field.name) for part in parts]
        if field.name.endswith("offsets"):
            ends = np.cumsum([0, *(array[-1] for array in arrays)])
            arrays = [arrays[0][:1], *(array[1:] + end for array, end in zip(arrays, ends, strict=False))]
        columns[field.name] = np.concatenate(arrays)
    return Segments(**columns)


def _nothing(objects: int) -> Segments:
    none, points = np.zeros(objects + 1, np.int64), np.zeros((0, 2))
    return Segments(none, np.zeros(1, np.int64), points, none, np.zeros(0, np.uint8), np.zeros((objects, 2), np.int32))
