"""Writing a data set in any format that has a writer; what the format cannot hold is told."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.format import FORMATS, Format, Gives
from detseg.data.formats.locate import (
    PlaceImages,
    image_targets,
    place_images,
    require_plain_names,
    require_text,
    require_writable,
    unique_stems,
)

if TYPE_CHECKING:  # it brings OpenCV
    from detseg.data.masks import SemanticMasks

log = logging.getLogger(__name__)

CrowdChoice = Literal["error", "drop", "keep"]
"""What becomes of crowd or difficult objects where a format cannot mark them as ignored: "error" refuses, "drop" leaves
them out (they become background), "keep" writes them as ordinary objects."""


def writable_formats(gives: Gives = "objects") -> dict[str, Format]:
    """The formats that can be written, by name."""
    return {format.name: format for format in FORMATS if format.write is not None and format.gives == gives}


def write_dataset(
    annotations: Annotations,
    folder: str | Path,
    split: str = "train",
    *,
    to: str,
    images: PlaceImages = "link",
    crowd: CrowdChoice = "error",
    scores: NDArray[np.floating] | None = None,
) -> None:
    """Write one split of a data set in the format `to`, which reads it back: `find` and `read` of its `Format`.

    What the format cannot hold (polygons, masks, ids) is lost, counted and logged as a warning. `scores` (M,) say that
    the objects were found by a model: formats that know of such things write them as a model's predictions.

    Raises:
        AnnotationError: a box is not finite, an object has no category, the folder holds other categories, or there
            are crowd objects, `crowd` is "error" and the format cannot mark them.
        ValueError: there is no such format.
    """
    format, folder = _writable(to, "objects"), Path(folder)
    require_writable(annotations, folder)
    if "category ids" not in format.holds:
        require_plain_names(annotations.names, folder)
    if images == "keep":
        require_text(annotations.paths.tolist(), folder)
    kept = annotations if "crowd" in format.holds else without_crowd(annotations, crowd, folder, format.title)
    for what in losses(kept, format):
        log.warning("%s: %s", folder, what)
    assert format.write is not None
    options = {} if scores is None or "scores" not in format.holds else {"scores": scores}
    format.write(kept, folder, split, images=images, **options)


def write_masks(
    masks: SemanticMasks,
    folder: str | Path,
    split: str = "train",
    *,
    to: str = "mask-folders",
    images: PlaceImages = "link",
) -> None:
    """Write one split of a set of masks in the format `to`, which reads it back.

    Masks drawn from polygons become files; `SemanticMasks.from_annotations` makes such masks.

    Raises:
        AnnotationError: a mask cannot be read, or the folder holds other classes.
        ValueError: there is no such format.
    """
    format = _writable(to, "masks")
    assert format.write is not None
    format.write(masks, Path(folder), split, images=images)


def _writable(name: str, gives: Gives) -> Format:
    known = writable_formats(gives)
    if name not in known:
        raise ValueError(f"{name!r} is no format that can be written; those are {', '.join(sorted(known))}")
    return known[name]


def without_crowd(a: Annotations, crowd: CrowdChoice, folder: Path, title: str) -> Annotations:
    """The set for a format that cannot mark objects as ignored."""
    if crowd not in ("error", "drop", "keep"):
        raise ValueError(f'crowd must be "error", "drop" or "keep", not {crowd!r}')
    count = int(a.iscrowd.sum())
    if not count:
        return a
    if crowd == "error":
        raise AnnotationError(
            f"{folder}: not written, {title} cannot mark the {count} crowd (or difficult) objects as "
            'ignored. Choose crowd="drop" to leave them out or crowd="keep" to write them as ordinary objects'
        )
    done = "left out" if crowd == "drop" else "written as ordinary objects"
    log.warning("%s: %d crowd (or difficult) objects were %s", folder, count, done)
    if crowd == "keep":
        return replace(a, iscrowd=np.zeros(len(a.ids), np.bool_))
    return replace(a, **a.take_objects(np.flatnonzero(~a.iscrowd)))


def losses(a: Annotations, format: Format) -> list[str]:
    """A sentence for each thing in the set that a format cannot hold."""
    told = []
    if a.segments is not None:
        polygons = int(np.sum(a.segments.has_polygons))
        masks = int(np.sum(a.segments.has_rle))
        if polygons and "polygons" not in format.holds:
            told.append(f"{format.title} has no polygons, {polygons} objects keep only their boxes")
        if masks and "masks" not in format.holds:
            told.append(f"{format.title} has no run-length masks, {masks} objects keep only their boxes")
    return told


def placed_names(annotations: Annotations, folder: Path, images: PlaceImages) -> list[str]:
    """Bring the images into a folder; what a file calls each: its name there, or its whole path where it is kept."""
    if images == "keep":
        return [str(Path(path).absolute()) for path in annotations.paths.tolist()]
    targets = image_targets(annotations, unique_stems(annotations, set()), folder)
    place_images(annotations.paths.tolist(), targets, images)
    return [target.name for target in targets]


def number(value: Any) -> str:
    """The shortest text that reads back as the same number; whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def write_voc(
    annotations: Annotations, folder: str | Path, split: str = "train", *, images: PlaceImages = "link"
) -> None:
    """Write one split of a Pascal VOC folder; see `write_dataset`."""
    write_dataset(annotations, folder, split, to="voc", images=images)


def write_yolo(
    annotations: Annotations,
    folder: str | Path,
    split: str = "train",
    *,
    images: PlaceImages = "link",
    crowd: CrowdChoice = "error",
) -> None:
    """Write one split of a YOLO folder; see `write_dataset`. Ids become 0..K-1."""
    write_dataset(annotations, folder, split, to="yolo", images=images, crowd=crowd)
