"""YOLO text labels: the writer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.locate import (
    PlaceImages,
    list_images,
    place_images,
    require_writable,
    unique_stems,
)
from detseg.files import write_atomically

log = logging.getLogger(__name__)


def write_yolo(
    annotations: Annotations,
    folder: str | Path,
    split: str = "train",
    *,
    images: PlaceImages = "link",
    crowd: Literal["error", "drop", "keep"] = "error",
    outlines: bool = False,
) -> None:
    """Write one split of a YOLO folder: images/<split>/, labels/<split>/, and its line in data.yaml.

    Category ids become 0..K-1, image and annotation ids are lost.

    Args:
        images: "link" puts links to the images into images/ (copies where links are impossible), "copy"
            copies them, "leave" expects them to be put there by other means.
        crowd: YOLO cannot say "ignore this". "error" refuses, "drop" leaves crowd objects out (they become
            background), "keep" writes them as ordinary objects; both log how many.
        outlines: write objects with exactly one polygon as outlines, the rest as boxes.

    Raises:
        AnnotationError: crowd objects with crowd="error", a box that is not finite, an object without
            category, an image of unknown size, or a folder that holds other categories.
    """
    folder = Path(folder)
    require_writable(annotations, folder)
    _require_sizes(annotations, folder)
    written = _crowd_choice(annotations, crowd, folder)
    _report_lost_outlines(annotations, outlines, folder)
    content = _yaml_with(annotations, folder / "data.yaml", split)

    sources = annotations.paths.tolist()
    stems = unique_stems(annotations, set())
    targets = [
        folder / "images" / split / f"{stem}{Path(source).suffix}" for stem, source in zip(stems, sources, strict=True)
    ]
    _refuse_leftovers(folder / "images" / split, targets)
    place_images(sources, targets, images)
    for row, stem in enumerate(stems):
        owned = annotations.objects(row)
        lines = [_line(annotations, row, o, outlines) for o in range(owned.start, owned.stop) if written[o]]
        write_atomically(folder / "labels" / split / f"{stem}.txt", "".join(f"{line}\n" for line in lines))
    write_atomically(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _require_sizes(annotations: Annotations, folder: Path) -> None:
    unknown = np.flatnonzero((annotations.sizes <= 0).any(axis=1))
    if len(unknown):
        raise AnnotationError(
            f"{folder}: not written, YOLO needs the size of every image and {len(unknown)} are unknown; "
            f"the first is {annotations.paths[unknown[0]]}"
        )


def _crowd_choice(annotations: Annotations, crowd: str, folder: Path) -> Any:
    """(M,) True for the objects to write."""
    if crowd not in ("error", "drop", "keep"):
        raise ValueError(f'crowd must be "error", "drop" or "keep", not {crowd!r}')
    count = int(annotations.iscrowd.sum())
    if count and crowd == "error":
        raise AnnotationError(
            f"{folder}: not written, YOLO labels cannot mark the {count} crowd (or difficult) objects as "
            'ignored. Choose crowd="drop" to leave them out or crowd="keep" to write them as ordinary objects'
        )
    if count:
        done = "left out" if crowd == "drop" else "written as ordinary objects"
        log.warning("%s: %d crowd (or difficult) objects were %s", folder, count, done)
    return ~annotations.iscrowd if crowd == "drop" else np.ones(len(annotations.iscrowd), bool)


def _report_lost_outlines(annotations: Annotations, outlines: bool, folder: Path) -> None:
    segments = annotations.segments
    if segments is None:
        return
    lost = segments.has_polygons | segments.has_rle
    if outlines:
        lost &= np.diff(segments.polygon_offsets) != 1
    if lost.any():
        log.warning("%s: %d objects keep only their boxes, not their outlines", folder, int(lost.sum()))


def _yaml_with(annotations: Annotations, file: Path, split: str) -> dict[str, Any]:
    """The content of data.yaml with this split added."""
    names = dict(enumerate(annotations.names))
    content: dict[str, Any] = {}
    if file.is_file():
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if content.get("names") != names:
            raise AnnotationError(f"{file}: the folder already holds other categories; write to a new folder")
    # Without "path" the splits are relative to data.yaml itself, so that the folder can be moved.
    splits: dict[str, Any] = {key: content[key] for key in ("train", "val", "test") if key in content}
    return {**splits, split: f"images/{split}", "names": names}


def _refuse_leftovers(folder: Path, targets: list[Path]) -> None:
    """Images of an earlier export would silently join the split."""
    extra = sorted(set(list_images(folder)) - {str(target) for target in targets})
    if extra:
        raise AnnotationError(f"{folder}: already holds {len(extra)} other images, the first is {extra[0]}")


def _line(annotations: Annotations, row: int, position: int, outlines: bool) -> str:
    width, height = annotations.sizes[row].tolist()
    label = int(annotations.labels[position])
    polygons = annotations.segments.polygons(position) if outlines and annotations.segments else []
    if len(polygons) == 1:
        values = (polygons[0] / [width, height]).ravel().tolist()
    else:
        x1, y1, x2, y2 = annotations.boxes[position].tolist()
        values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    return " ".join([str(label), *(repr(value) for value in values)])
