"""Checks of objects and their boxes, polygons and categories; no image is opened."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from detseg.data.annotations import Annotations
from detseg.data.base import ImageSet
from detseg.data.checks.common_causes import tell_causes
from detseg.data.checks.image_checks import (
    id_problems,
    image_problem,
    image_problems,
    name_problems,
    repeated_paths,
    repeats,
    sharing_problems,
)
from detseg.data.checks.mask_place import mask_place_problems
from detseg.data.checks.problems import Problem, Severity

MIN_SIDE = 1e-3  # pixels; thinner boxes vanish in float32 and have no area to learn
ROUNDING = 0.02  # pixels; what two or six written digits put a box over the border is not worth a word
BORDER = 1.0 + 1e-6  # pixels; whole pixels and counting from 1 put boxes this far over the border


def annotation_problems(annotations: Annotations, check_images: bool, other: ImageSet | None) -> list[Problem]:
    """Every problem of annotated boxes, see `validate`."""
    problems = [
        *annotations.read_problems,
        *category_problems(annotations),
        *box_problems(annotations),
        *polygon_problems(annotations),
        *duplicate_problems(annotations),
    ]
    problems = [*tell_causes(annotations, problems), *mask_place_problems(annotations)]
    if check_images:
        problems += image_problems(annotations)
    problems += sharing_problems(annotations, other, read_files=check_images)
    if not len(annotations.image_index):
        what, remedy = f"{len(annotations)} images and not a single object", "check that this is the right file"
        problems.append(Problem(annotations.source, "", None, what, remedy, "warning", "empty"))
    return problems


def object_problem(
    annotations: Annotations, row: int, what: str, remedy: str, kind: str, severity: Severity = "error"
) -> Problem:
    """A problem of the object at `row`."""
    problem = image_problem(annotations, int(annotations.image_index[row]), what, remedy, kind, severity)
    return replace(problem, object=int(annotations.ids[row]), object_index=row)


def box_problems(a: Annotations) -> Iterator[Problem]:
    """Boxes that are not finite, reversed, empty, or not inside the image."""
    width, height = a.sizes[a.image_index].T.astype(np.float64)
    finite = np.asarray(np.isfinite(a.boxes).all(axis=1))
    x1, y1, x2, y2 = np.where(finite[:, None], a.boxes, 0).T
    reversed_ = finite & ((x2 < x1) | (y2 < y1))
    empty = finite & ~reversed_ & ((x2 - x1 < MIN_SIDE) | (y2 - y1 < MIN_SIDE))
    sound = finite & ~reversed_ & ~empty & (width > 0) & (height > 0)
    outside = sound & ((x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0))
    over = np.max([-x1, -y1, x2 - width, y2 - height], axis=0, initial=0, where=sound)
    crossing = sound & ~outside & (over > ROUNDING)

    for rows, what, remedy, kind in (
        (~finite, "the box {box} holds NaN or infinity", "correct or remove the object", "not-finite"),
        (reversed_, "the box {box} is reversed", "its x2 must be above x1, y2 above y1", "reversed-box"),
        (empty, "the box {box} has no area", "correct or remove the object", "zero-size-box"),
        (outside, "the box {box} lies outside the image of {size}", "remove the object", "box-outside"),
    ):
        for row in np.flatnonzero(rows):
            yield object_problem(a, int(row), _describe(a, row, what), remedy, kind)
    for row in np.flatnonzero(crossing):
        what = f"the box {{box}} reaches {over[row]:.4g} px over the border of the image of {{size}}"
        severity: Severity = "warning" if over[row] <= BORDER else "error"
        yield object_problem(a, int(row), _describe(a, row, what), "clip it to the image", "box-over-border", severity)


def _describe(a: Annotations, row: Any, what: str) -> str:
    width, height = a.sizes[a.image_index[row]]
    box = ", ".join(f"{value:.6g}" for value in a.boxes[row])
    return what.format(box=f"({box})", size=f"{width} x {height}")


def category_problems(a: Annotations) -> Iterator[Problem]:
    """Names used twice, and objects of unlisted categories that the reader did not report already."""
    reported = Counter(p.image for p in a.read_problems if p.kind == "unknown-category")
    for row in np.flatnonzero((a.labels < 0) | (a.labels >= len(a.categories))):
        image = str(a.paths[a.image_index[row]])
        reported[image] -= 1
        if reported[image] < 0:
            what = f"label {a.labels[row]} is not among the {len(a.categories)} categories"
            yield object_problem(a, int(row), what, "add the category or remove the object", "unknown-category")
    yield from name_problems(a, "categories")


def duplicate_problems(a: Annotations) -> Iterator[Problem]:
    """Objects, object ids, image ids and images that occur twice."""
    yield from id_problems(a)
    doubled_ids = set(repeats(a.image_ids))
    for row in repeated_paths(a):
        if row not in doubled_ids:
            what = "the image is listed twice, so each entry lacks the objects of the other"
            yield image_problem(a, row, what, "join the two entries", "duplicate-path")
    for row in repeats(a.ids):
        what = f"annotation id {a.ids[row]} is given to an earlier object too"
        yield object_problem(a, row, what, "give every object its own id", "duplicate-object-id", "warning")
    columns = np.column_stack([a.image_index, a.labels, a.boxes])
    order = np.lexsort(columns.T[::-1])  # stable: the first of several stays first
    ordered = columns[order]
    same = (ordered[1:] == ordered[:-1]).all(axis=1)
    for row in np.sort(order[1:][same]).tolist():
        what = _describe(a, row, "the same box {box} with the same category is listed twice in this image")
        yield object_problem(a, row, what, "remove one of the two", "duplicate-object", "warning")


def polygon_problems(a: Annotations) -> Iterator[Problem]:
    """Polygons that are not finite and masks of another size than the image."""
    if a.segments is None:
        return
    bad_points = np.flatnonzero(~np.isfinite(a.segments.points).all(axis=1))
    polygons = np.searchsorted(a.segments.point_offsets, bad_points, side="right") - 1
    for row in np.unique(np.searchsorted(a.segments.polygon_offsets, polygons, side="right") - 1):
        what, remedy = "a polygon of it holds NaN or infinity", "correct or remove the polygon"
        yield object_problem(a, int(row), what, remedy, "malformed-outline")
    sizes = a.sizes[a.image_index][:, ::-1]
    differs = a.segments.has_rle & (sizes > 0).all(axis=1) & (a.segments.rle_sizes != sizes).any(axis=1)
    for row in np.flatnonzero(differs):
        (mask_height, mask_width), (height, width) = a.segments.rle_sizes[row], sizes[row]
        what = f"its mask is {mask_width} x {mask_height}, the image {width} x {height}"
        yield object_problem(a, int(row), what, "correct or remove the mask", "mask-size")
