"""Mends what can be mended without guessing: clip, leave out, join, renumber."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations, Problem
from detseg.data.pack.rows import take_rows
from detseg.data.polygons import Segments

DROPPED_OBJECTS = {
    "not-finite": "boxes that were not finite",
    "reversed-box": "reversed boxes",
    "zero-size-box": "boxes without area",
    "box-outside": "boxes outside their image",
    "unknown-category": "objects of unknown categories",
    "duplicate-object": "objects listed twice",
}
DROPPED_IMAGES = {
    "missing-image": "images that do not exist",
    "damaged-image": "damaged images",
    "duplicate-image-id": "images whose id was taken (with their objects)",
    "in-both-splits": "images that are in the other split too",
}
DROPPED_BY_READER = {
    "malformed-object": "malformed objects",
    "unknown-image": "objects of unlisted images",
}


def repair(annotations: Annotations, problems: Iterable[Problem]) -> tuple[Annotations, list[str]]:
    """Mend the problems that `validate` found in these annotations, as far as that is safe.

    Boxes over the border are clipped; objects and images that cannot be used are left out; entries of the
    same image are joined; boxes drawn on unturned pixels are turned; broken outlines are removed; repeated
    object ids are renumbered. Problems whose `repairable` is False stay.

    Returns:
        The mended annotations, and one sentence for each kind of change.
    """
    by_kind: dict[str, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    done: list[str] = []
    mended = _turn(annotations, by_kind, done)
    mended = _remove_outlines(mended, by_kind, done)
    mended = _clip(mended, by_kind, done)
    mended = _renumber(mended, by_kind, done)
    mended = _leave_out(mended, by_kind, done)
    for kind, name in DROPPED_BY_READER.items():
        if kind in by_kind:
            done.append(f"left out {len(by_kind[kind])} {name}, the first is {_name(by_kind[kind][0])}")
    remaining = tuple(p for p in mended.read_problems if not p.repairable)
    return replace(mended, read_problems=remaining), done


def _name(problem: Problem) -> str:
    parts = [problem.image or problem.file]
    if problem.object is not None:
        parts.append(f"object {problem.object}")
    return ", ".join(parts)


def _rows(problems: Iterable[Problem]) -> NDArray[np.int64]:
    """Positions of the problems' objects, of those that are in the arrays."""
    return np.unique(np.array([p.object_index for p in problems if p.object_index >= 0], dtype=np.int64))


def _turn(a: Annotations, by_kind: dict[str, list[Problem]], done: list[str]) -> Annotations:
    from detseg.data.images import inspect_image

    found = by_kind.get("unrotated", [])
    if not found:
        return a
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
    done.append(f"turned the boxes of {len(found)} images upright{lost}, the first is {_name(found[0])}")
    return replace(a, boxes=boxes, sizes=sizes, segments=segments)


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


def _remove_outlines(a: Annotations, by_kind: dict[str, list[Problem]], done: list[str]) -> Annotations:
    found = [*by_kind.get("malformed-outline", []), *by_kind.get("mask-size", [])]
    if not found:
        return a
    done.append(f"removed {len(found)} broken outlines, the first is of {_name(found[0])}")
    rows = _rows(found)  # none of those that the reader reports, which are not in the arrays
    if a.segments is None or not len(rows):
        return a
    removed = np.zeros(len(a.ids), bool)
    removed[rows] = True
    return replace(a, segments=a.segments.without(removed))


def _clip(a: Annotations, by_kind: dict[str, list[Problem]], done: list[str]) -> Annotations:
    found = by_kind.get("box-over-border", [])
    if not found:
        return a
    rows = _rows(found)
    boxes, areas = a.boxes.copy(), a.areas.copy()
    limits = np.tile(a.sizes[a.image_index[rows]], 2).astype(np.float64)
    boxes[rows] = np.clip(boxes[rows], 0, limits)
    plain = rows if a.segments is None else rows[~_outlined(a.segments)[rows]]
    areas[plain] = np.prod(boxes[plain, 2:] - boxes[plain, :2], axis=1)
    done.append(f"clipped {len(rows)} boxes to their image, the first is {_name(found[0])}")
    return replace(a, boxes=boxes, areas=areas)


def _outlined(segments: Segments) -> NDArray[np.bool_]:
    return segments.has_polygons | segments.has_rle


def _renumber(a: Annotations, by_kind: dict[str, list[Problem]], done: list[str]) -> Annotations:
    found = by_kind.get("duplicate-object-id", [])
    if not found:
        return a
    rows = _rows(found)
    ids = a.ids.copy()
    first = int(ids.max()) + 1
    ids[rows] = np.arange(first, first + len(rows))
    done.append(f"gave {len(rows)} objects new ids from {first} on, the first is {_name(found[0])}")
    return replace(a, ids=ids)


def _leave_out(a: Annotations, by_kind: dict[str, list[Problem]], done: list[str]) -> Annotations:
    """Without the objects and images that cannot be used; entries of one image joined."""
    keep_images, keep_objects = np.ones(len(a), bool), np.ones(len(a.ids), bool)
    for kind, name in DROPPED_OBJECTS.items():
        found = by_kind.get(kind, [])
        rows = _rows(found)
        if found and kind == "unknown-category":  # the reader knows them by ids, which need not be unique
            rows = np.flatnonzero((a.labels < 0) | (a.labels >= len(a.categories)))
        keep_objects[rows] = False
        if len(rows):
            done.append(f"left out {len(rows)} {name}, the first is {_name(found[0])}")
    for kind, name in DROPPED_IMAGES.items():
        found = by_kind.get(kind, [])
        keep_images[[problem.image_index for problem in found]] = False
        if found:
            done.append(f"left out {len(found)} {name}, the first is {_name(found[0])}")
    target = _joined(a, by_kind.get("duplicate-path", []), keep_images, done)
    if keep_images.all() and keep_objects.all():
        return a
    return _keep(a, keep_images, keep_objects, target)


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
    if found:
        done.append(f"joined {len(found)} repeated entries of an image, the first is {_name(found[0])}")
    return target


def _keep(
    a: Annotations, keep_images: NDArray[np.bool_], keep_objects: NDArray[np.bool_], target: NDArray[Any]
) -> Annotations:
    image_of_object = target[a.image_index]
    rows = np.flatnonzero(keep_objects & keep_images[image_of_object])
    rows = rows[np.argsort(image_of_object[rows], kind="stable")]
    renumbered = np.cumsum(keep_images) - 1
    kept = a.take_objects(rows, renumbered[image_of_object[rows]])
    return replace(
        a,
        image_ids=a.image_ids[keep_images],
        paths=a.paths[keep_images],
        sizes=a.sizes[keep_images],
        label_files=None if a.label_files is None else a.label_files[keep_images],
        pack=take_rows(a.pack, keep_images),
        **kept,
    )
