"""Writing a data set in any format that has a writer; what the format cannot hold is told."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.format import FORMATS, Format
from detseg.data.formats.locate import PlaceImages, require_writable

log = logging.getLogger(__name__)

CrowdChoice = Literal["error", "drop", "keep"]
"""What becomes of crowd or difficult objects where a format cannot mark them as ignored: "error" refuses, "drop" leaves
them out (they become background), "keep" writes them as ordinary objects."""


def writable_formats() -> dict[str, Format]:
    """The formats that can be written, by name."""
    return {format.name: format for format in FORMATS if format.write is not None}


def write_dataset(
    annotations: Annotations,
    folder: str | Path,
    split: str = "train",
    *,
    to: str,
    images: PlaceImages = "link",
    crowd: CrowdChoice = "error",
) -> None:
    """Write one split of a data set in the format `to`, which reads it back: `find` and `read` of its `Format`.

    What the format cannot hold (polygons, masks, ids) is lost, counted and logged as a warning.

    Raises:
        AnnotationError: a box is not finite, an object has no category, the folder holds other categories, or there
            are crowd objects, `crowd` is "error" and the format cannot mark them.
        ValueError: there is no such format.
    """
    known = writable_formats()
    if to not in known:
        raise ValueError(f"{to!r} is no format that can be written; those are {', '.join(sorted(known))}")
    format, folder = known[to], Path(folder)
    require_writable(annotations, folder)
    kept = annotations if "crowd" in format.holds else without_crowd(annotations, crowd, folder, format.title)
    for what in losses(kept, format):
        log.warning("%s: %s", folder, what)
    assert format.write is not None
    format.write(kept, folder, split, images=images)


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
