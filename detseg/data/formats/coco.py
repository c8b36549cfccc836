"""COCO JSON: reader and writer.

The reader turns the file into flat arrays a few thousand annotations at a time, so that a million boxes
never exist as Python objects together. Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import AnnotationError, Annotations, Category, Problem
from detseg.data.formats.assemble import box_areas
from detseg.data.formats.coco_json import (
    MISSING,
    CocoAnnotation,
    CocoCategory,
    CocoRle,
    load_file,
    parse_chunk,
)
from detseg.data.formats.locate import locate_images, measure_images
from detseg.data.polygons import FAR, SegmentsBuilder, can_be_drawn

CHUNK = 8192  # annotations parsed at a time: a few MB of Python objects
NO_BOX = (math.nan,) * 4


def read_coco(path: str | Path, images: str | Path | None = None) -> Annotations:
    """Read a COCO JSON file.

    Args:
        path: the JSON file.
        images: the folder of the images. Without it they are looked for beside the JSON file, in `images/`,
            and in folders named after the split ("train2017" for instances_train2017.json), here and one up.

    Raises:
        AnnotationError: the file is no COCO annotation file; the message names the place in it.
    """
    path = Path(path)
    content, parse = load_file(path)
    problems: list[Problem] = []
    labels = _label_table(content.categories, path, problems)
    image_ids = _int64([image.id for image in content.images], f"{path}: images[].id")
    columns, segments = _read_objects(content.annotations, parse, image_ids, labels, path, problems)

    paths = locate_images([image.file_name for image in content.images], image_folders(path, images))
    sizes = _int64([(i.width or 0, i.height or 0) for i in content.images], f"{path}: image sizes")
    categories = tuple(Category(c.id, c.name) for c in content.categories)
    del content  # the whole file; the arrays that follow take its place in memory
    order = np.argsort(columns["image_index"], kind="stable")
    outlines = segments.build()
    if (np.diff(order) < 0).any():
        for name, column in columns.items():
            columns[name] = column[order]
        outlines = outlines and outlines.take(order)
    annotations = Annotations(
        categories=categories,
        image_ids=image_ids,
        paths=np.array(paths, dtype=np.str_),
        sizes=measure_images(paths, sizes.astype(np.int32).reshape(-1, 2)),
        segments=outlines,
        source=str(path),
        **columns,
    )
    return replace(_fill_gaps(annotations), read_problems=_with_images(problems, annotations))


def _int64(values: Sequence[Any], place: str) -> NDArray[np.int64]:
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError as error:
        raise AnnotationError(f"{place}: a number is too large for 64 bits") from error


def _label_table(categories: list[CocoCategory], path: Path, problems: list[Problem]) -> dict[int, int]:
    """Category id -> label. The first of several categories with the same id counts."""
    table: dict[int, int] = {}
    for label, category in enumerate(categories):
        if table.setdefault(category.id, label) != label:
            what = f"category id {category.id} is given twice, the second time to {category.name!r}"
            problems.append(Problem(str(path), "", None, what, "give every category its own id", kind="category"))
    return table


class _Lookup:
    """Image id -> position of the image; the first of several images with the same id counts."""

    def __init__(self, image_ids: NDArray[np.int64]) -> None:
        self._sorted, self._position = np.unique(image_ids, return_index=True)

    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        if not len(self._sorted):
            return np.full(len(ids), -1)
        place = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        return np.where(self._sorted[place] == ids, self._position[place], -1)


def _read_objects(
    items: Sequence[Any],
    parse: Callable[[Any], CocoAnnotation],
    image_ids: NDArray[np.int64],
    labels: dict[int, int],
    path: Path,
    problems: list[Problem],
) -> tuple[dict[str, Any], SegmentsBuilder]:
    """All annotations as columns, in file order, without those that cannot be used."""
    columns: dict[str, NDArray[Any]] = {
        "image_index": np.empty(len(items), np.int32),
        "boxes": np.empty((len(items), 4), np.float64),
        "labels": np.empty(len(items), np.int32),
        "iscrowd": np.empty(len(items), np.bool_),
        "ids": np.empty(len(items), np.int64),
        "areas": np.empty(len(items), np.float64),
    }
    segments, lookup, rows = SegmentsBuilder(), _Lookup(image_ids), 0
    for start in range(0, len(items), CHUNK):
        chunk = parse_chunk(items[start : start + CHUNK], start, parse, path, problems)
        chunk, image_index = _with_image(chunk, lookup, path, problems)
        end = rows + len(chunk)
        columns["image_index"][rows:end] = image_index
        corners = chain.from_iterable(a.bbox or NO_BOX for a in chunk)
        columns["boxes"][rows:end] = np.fromiter(corners, np.float64, 4 * len(chunk)).reshape(-1, 4)
        columns["labels"][rows:end] = [labels.get(a.category_id, -1) for a in chunk]
        columns["iscrowd"][rows:end] = [bool(a.iscrowd) for a in chunk]
        columns["ids"][rows:end] = _int64([a.id for a in chunk], f"{path}: annotations[].id")
        columns["areas"][rows:end] = [np.nan if a.area is None else a.area for a in chunk]
        for row in np.flatnonzero(columns["labels"][rows:end] < 0):
            what = f"category id {chunk[row].category_id} is not in the file's list of categories"
            remedy = "add the category, or remove the object"
            problems.append(_problem(path, chunk[row], what, remedy, "unknown-category"))
        _add_outlines(chunk, segments, path, problems)
        rows = end
    columns = {name: column[:rows] for name, column in columns.items()}
    with np.errstate(invalid="ignore"):  # infinite numbers; validation reports such boxes
        columns["boxes"][:, 2:] += columns["boxes"][:, :2]
    return columns, segments


def _with_image(
    chunk: list[CocoAnnotation], lookup: _Lookup, path: Path, problems: list[Problem]
) -> tuple[list[CocoAnnotation], NDArray[np.int64]]:
    """The annotations whose image exists, and the positions of their images."""
    image_index = lookup(_int64([a.image_id for a in chunk], f"{path}: annotations[].image_id"))
    if (image_index >= 0).all():
        return chunk, image_index
    for row in np.flatnonzero(image_index < 0):
        what = f"image id {chunk[row].image_id} is not in the file's list of images"
        problems.append(_problem(path, chunk[row], what, "add the image, or remove the object", "unknown-image"))
    return [a for a, row in zip(chunk, image_index, strict=True) if row >= 0], image_index[image_index >= 0]


def _problem(path: Path, annotation: CocoAnnotation, what: str, remedy: str, kind: str) -> Problem:
    number = None if annotation.id == MISSING else annotation.id
    # The image id is kept until the images' paths are known, see `_with_images`.
    return Problem(str(path), "", number, what, remedy, kind=kind, image_index=annotation.image_id)


def _with_images(problems: list[Problem], annotations: Annotations) -> tuple[Problem, ...]:
    """Name the image in problems that know only its image id."""
    where = {int(number): row for row, number in enumerate(annotations.image_ids)} if problems else {}
    named = []
    for problem in problems:
        row = where.get(problem.image_index, -1)
        image = str(annotations.paths[row]) if row >= 0 else ""
        named.append(replace(problem, image=image, image_index=row))
    return tuple(named)


def _add_outlines(chunk: list[CocoAnnotation], segments: SegmentsBuilder, path: Path, problems: list[Problem]) -> None:
    if not any(a.segmentation for a in chunk):
        segments.add_nothing(len(chunk))
        return
    for annotation in chunk:
        _add_outline(annotation, segments, path, problems)


def _add_outline(a: CocoAnnotation, segments: SegmentsBuilder, path: Path, problems: list[Problem]) -> None:
    outline = a.segmentation
    if not outline:
        return segments.add_nothing()
    if isinstance(outline, CocoRle):
        return _add_rle(a, outline, segments, path, problems)
    # Fewer than three points enclose nothing, and pycocotools takes four numbers for a box.
    shaped = [polygon for polygon in outline if len(polygon) >= 6 and len(polygon) % 2 == 0]
    usable = [polygon for polygon in shaped if can_be_drawn(polygon)]
    remedy = "correct the outline; these polygons are left out"
    if len(shaped) < sum(1 for polygon in outline if polygon):
        count = f"{len(outline) - len(shaped)} of {len(outline)} polygons"
        what = f"{count} have fewer than 6 numbers or an odd count of them"
        problems.append(_outline_problem(path, a, what, remedy))
    if len(usable) < len(shaped):
        what = f"its outline holds NaN, infinity or numbers beyond {FAR:,.0f}"
        problems.append(replace(_outline_problem(path, a, what, remedy), severity="error"))
    return segments.add_polygons(usable)


def _outline_problem(path: Path, a: CocoAnnotation, what: str, remedy: str) -> Problem:
    return replace(_problem(path, a, what, remedy, "malformed-outline"), severity="warning")


def _add_rle(a: CocoAnnotation, rle: CocoRle, segments: SegmentsBuilder, path: Path, problems: list[Problem]) -> None:
    height, width = rle.size
    counts = rle.counts
    if height > 0 and width > 0 and _fills(height, width, counts):
        return segments.add_rle(height, width, counts)
    what = f"the run lengths do not fill the mask of {height} x {width} pixels"
    problems.append(_outline_problem(path, a, what, "correct the mask; it is left out"))
    return segments.add_nothing()


def _fills(height: int, width: int, counts: str | list[int]) -> bool:
    """Whether run lengths, compressed or not, are those of a mask of that size."""
    from pycocotools import mask

    if not isinstance(counts, str):
        return min(counts, default=-1) >= 0 and sum(counts) == height * width
    try:
        mask.decode({"size": [height, width], "counts": counts.encode("ascii")})  # raises where they go beyond its end
    except (ValueError, UnicodeEncodeError):
        return False
    return bool(counts)


def _fill_gaps(annotations: Annotations) -> Annotations:
    """Compute the ids, boxes and areas that the file leaves out."""
    ids, boxes, areas = annotations.ids, annotations.boxes, annotations.areas
    missing = ids == MISSING
    if missing.any():
        first = max(int(ids.max(initial=0)), 0) + 1
        ids = ids.copy()
        ids[missing] = np.arange(first, first + int(missing.sum()))
    segments = annotations.segments
    outlined = np.zeros(len(ids), bool) if segments is None else segments.has_polygons | segments.has_rle
    no_box = np.asarray(np.isnan(boxes).all(axis=1))
    no_area = np.isnan(areas)
    if not missing.any() and not no_box.any() and not no_area.any():
        return annotations
    boxes, areas = boxes.copy(), areas.copy()
    for row in np.flatnonzero(outlined & (no_box | no_area)):
        outline_box, outline_area = _measure_outline(annotations, int(row))
        if no_box[row]:
            boxes[row] = outline_box
        if no_area[row]:
            areas[row] = outline_area
    plain = np.isnan(areas)
    areas[plain] = box_areas(boxes[plain])
    return replace(annotations, ids=ids, boxes=boxes, areas=areas)


def _measure_outline(annotations: Annotations, row: int) -> tuple[Any, float]:
    """Box xyxy and area of an object's outline, as pycocotools measures them."""
    from pycocotools import mask

    assert annotations.segments is not None
    width, height = (int(v) for v in annotations.sizes[annotations.image_index[row]])
    rle = annotations.segments.rle(row, height, width)
    polygons = annotations.segments.polygons(row)
    area = float(mask.area(rle))
    if polygons:
        points = np.concatenate(polygons)
        return np.concatenate([points.min(axis=0), points.max(axis=0)]), area
    x, y, w, h = mask.toBbox(rle)
    return (x, y, x + w, y + h), area


def image_folders(path: Path, images: str | Path | None) -> list[Path]:
    """Where the images of a COCO file may lie, likeliest first."""
    if images is not None:
        if not Path(images).is_dir():
            raise AnnotationError(f"{images}: the folder of images (--images) does not exist")
        return [Path(images)]
    here = path.parent
    split = re.sub(r"^(instances|annotations|_annotations\.coco|person_keypoints)_?", "", path.stem)
    names = [split, split.rstrip("0123456789_-")] if split else []
    places = [here, here / "images"]
    for base in (here, here / "images", here.parent, here.parent / "images"):
        places += [base / name for name in names if name]
    places += [here.parent, here.parent / "images"]
    return list(dict.fromkeys(places))
