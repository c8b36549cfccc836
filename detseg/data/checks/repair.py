"""Repairs what can be repaired without guessing: clip, leave out, join, renumber."""

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.base import ImageSet, Set
from detseg.data.checks.problems import LEFT_OUT_BY_READER, LEFT_OUT_IMAGES, LEFT_OUT_OBJECTS, Problem
from detseg.data.images import inspect_image
from detseg.data.labels import LabelledImages
from detseg.data.masks import SemanticMasks

ByKind = dict[str, list[Problem]]


def repair_once(data: Set, problems: Iterable[Problem]) -> tuple[Set, list[str]] | None:
    """The set without these problems, and a sentence for each kind of change; None where nothing changes."""
    by_kind: ByKind = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    done: list[str] = []
    repaired: Any
    if isinstance(data, Annotations):
        repaired = _repair_annotations(data, by_kind, done)
    elif isinstance(data, SemanticMasks) and data.objects is not None:
        objects = _repair_annotations(data.objects, by_kind, done)
        images: dict[str, Any] = {"image_ids": objects.image_ids, "paths": objects.paths, "sizes": objects.sizes}
        repaired = replace(data, objects=objects, **images)
    elif isinstance(data, SemanticMasks):
        keep = np.ones(len(data), bool)
        _leave_out_images(by_kind, keep, done)
        twice = by_kind.get("duplicate-path", [])
        keep[[problem.image_index for problem in twice]] = False
        _note(done, f"left out {len(twice)} images listed twice", twice)
        repaired = data.subset(keep)
    else:
        out = left_out_images(data, [problem for found in by_kind.values() for problem in found])
        if out:
            done.append(f"{data.source}: {len(out)} of {len(data)} images, which have errors, left out")
        repaired = data.subset([row for row in range(len(data)) if row not in out])
    return (repaired, done) if done else None


def left_out_images(data: ImageSet, problems: Iterable[Problem]) -> set[int]:
    """Positions of the images that `repair_once` would leave out."""
    if isinstance(data, LabelledImages):
        return {p.image_index for p in problems if p.severity == "error" and p.image_index >= 0}
    return {p.image_index for p in problems if p.kind in LEFT_OUT_IMAGES}


def _repair_annotations(annotations: Annotations, by_kind: ByKind, done: list[str]) -> Annotations:
    repaired = annotations
    for step, kinds in (
        (_turn, ("unrotated",)),
        (_remove_polygons, ("malformed-outline", "mask-size")),
        (_clip, ("box-over-border",)),
        (_renumber, ("duplicate-object-id",)),
    ):
        found = [problem for kind in kinds for problem in by_kind.get(kind, [])]
        if found:
            repaired, what = step(repaired, found)
            _note(done, what, found)
    repaired = _leave_out(repaired, by_kind, done)
    for kind, name in LEFT_OUT_BY_READER.items():
        _note(done, f"left out {len(by_kind.get(kind, []))} {name}", by_kind.get(kind, []))
    # What was not to be repaired (its cause is known) stays.
    left = tuple(p for p in repaired.read_problems if not p.repairable or p.kind not in by_kind)
    return replace(repaired, read_problems=left)


def _note(done: list[str], what: str, found: list[Problem]) -> None:
    """Add a sentence on what was done about problems, if there are any."""
    if found:
        number = "" if found[0].object is None else f", object {found[0].object}"
        done.append(f"{what}, the first is {found[0].image or found[0].file}{number}")


def _rows(problems: Iterable[Problem]) -> NDArray[np.int64]:
    """Positions of the problems' objects, of those that are in the arrays."""
    return np.unique(np.array([p.object_index for p in problems if p.object_index >= 0], dtype=np.int64))


def _turn(a: Annotations, found: list[Problem]) -> tuple[Annotations, str]:
    boxes, sizes, segments, masks = a.boxes.copy(), a.sizes.copy(), a.segments, np.zeros(len(a.ids), bool)
    points = None if segments is None else segments.points.copy()
    for problem in found:
        image = problem.image_index
        orientation = inspect_image(problem.image).orientation
        width, height = (int(side) for side in a.sizes[image])
        owned = a.objects(image)
        corners = turn_points(boxes[owned].reshape(-1, 2), width, height, orientation).reshape(-1, 2, 2)
        boxes[owned] = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        sizes[image] = height, width
        if segments is not None and points is not None:
            polygons = segments.polygon_offsets[[owned.start, owned.stop]]
            span = slice(*segments.point_offsets[polygons].tolist())
            points[span] = turn_points(points[span], width, height, orientation)
            masks[owned] = segments.has_rle[owned]
    if segments is not None and points is not None:
        segments = replace(segments, points=points).without(masks)
    lost = f" ({int(masks.sum())} run-length masks were removed)" if masks.any() else ""
    turned = replace(a, boxes=boxes, sizes=sizes, segments=segments)
    return turned, f"turned the boxes of {len(found)} images upright{lost}"


def turn_points(points: NDArray[np.float64], width: int, height: int, orientation: int) -> NDArray[np.float64]:
    """Move points (n, 2) from a stored image of width x height to the upright one (orientation 5..8)."""
    x, y = points.T
    across, down = {
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }[orientation]
    return np.stack([across, down], axis=1)


def _remove_polygons(a: Annotations, found: list[Problem]) -> tuple[Annotations, str]:
    rows = _rows(found)  # none of those that the reader reports, which are not in the arrays
    if a.segments is not None and len(rows):
        removed = np.zeros(len(a.ids), bool)
        removed[rows] = True
        a = replace(a, segments=a.segments.without(removed))
    return a, f"removed {len(found)} broken polygons or masks"


def _clip(a: Annotations, found: list[Problem]) -> tuple[Annotations, str]:
    rows = _rows(found)
    boxes, areas = a.boxes.copy(), a.areas.copy()
    limits = np.tile(a.sizes[a.image_index[rows]], 2).astype(np.float64)
    boxes[rows] = np.clip(boxes[rows], 0, limits)
    plain = rows[~a.drawn[rows]]
    areas[plain] = np.prod(boxes[plain, 2:] - boxes[plain, :2], axis=1)
    return replace(a, boxes=boxes, areas=areas), f"clipped {len(rows)} boxes to their image"


def _renumber(a: Annotations, found: list[Problem]) -> tuple[Annotations, str]:
    rows = _rows(found)
    ids = a.ids.copy()
    first = int(ids.max()) + 1
    ids[rows] = np.arange(first, first + len(rows))
    return replace(a, ids=ids), f"gave {len(rows)} objects new ids from {first} on"


def _leave_out(a: Annotations, by_kind: ByKind, done: list[str]) -> Annotations:
    """Without the objects and images that cannot be used; entries of one image joined."""
    keep_images, keep_objects = np.ones(len(a), bool), np.ones(len(a.ids), bool)
    for kind, name in LEFT_OUT_OBJECTS.items():
        found = by_kind.get(kind, [])
        rows = _rows(found)
        if found and kind == "unknown-category":  # the reader knows them by ids, which need not be unique
            rows = np.flatnonzero((a.labels < 0) | (a.labels >= len(a.categories)))
        keep_objects[rows] = False
        if len(rows):
            _note(done, f"left out {len(rows)} {name}", found)
    _leave_out_images(by_kind, keep_images, done)
    target = _joined(a, by_kind.get("duplicate-path", []), keep_images, done)
    if keep_images.all() and keep_objects.all():
        return a
    rows = np.flatnonzero(keep_objects)
    rows = rows[np.argsort(target[a.image_index[rows]], kind="stable")]
    return replace(a, **a.take_objects(rows, target[a.image_index[rows]])).subset(keep_images)


def _leave_out_images(by_kind: ByKind, keep: NDArray[np.bool_], done: list[str]) -> None:
    """Mark in `keep` (N,) the images that cannot be used, in place."""
    for kind, name in LEFT_OUT_IMAGES.items():
        found = by_kind.get(kind, [])
        keep[[problem.image_index for problem in found]] = False
        _note(done, f"left out {len(found)} {name}", found)


def _joined(a: Annotations, found: list[Problem], keep_images: NDArray[np.bool_], done: list[str]) -> NDArray[np.int64]:
    """(N,) the image that gets each image's objects; images joined to another are no longer kept."""
    target = np.arange(len(a))
    first_of: dict[str, int] = {}
    joined = {problem.image_index for problem in found}
    for image, path in enumerate(map(os.path.normpath, a.paths.tolist() if found else [])):
        if image in joined and keep_images[image] and path in first_of:
            target[image], keep_images[image] = first_of[path], False
        elif keep_images[image]:
            first_of.setdefault(path, image)
    _note(done, f"joined {len(found)} repeated entries of an image", found)
    return target
