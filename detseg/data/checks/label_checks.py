"""Checks of images with one class each: classes to learn, and images that are there twice."""

from __future__ import annotations

from collections.abc import Iterator
from os.path import realpath

import numpy as np

from detseg.data.base import ImageSet
from detseg.data.checks.image_checks import (
    equal_files,
    id_problems,
    image_problem,
    image_problems,
    name_problems,
    sharing_problems,
)
from detseg.data.checks.problems import Problem
from detseg.data.labels import LabelledImages


def label_problems(images: LabelledImages, check_images: bool, other: ImageSet | None) -> list[Problem]:
    """Every problem of labelled images, see `validate`; classes that training has no images of are errors."""
    problems = [*images.read_problems, *_class_problems(images, other), *id_problems(images), *_repeats(images)]
    if check_images and images.pack is None:
        problems += [*image_problems(images), *_equal_images(images)]
    if other is not None:
        shared = sharing_problems(images, other, read_files=check_images)
        problems += [problem for problem in shared if problem.kind != "duplicate-image"]  # found above
    return problems


def _class_problems(images: LabelledImages, other: ImageSet | None) -> Iterator[Problem]:
    """Too few classes, classes without images, labels of no class, classes that training has none of."""
    classes = len(images.categories)
    for row in np.flatnonzero((images.labels < 0) | (images.labels >= classes)):
        what = f"label {images.labels[row]} is not among the {classes} classes"
        yield image_problem(images, int(row), what, "add the class or remove the image", "unknown-category")
    if classes < 2:
        what, remedy = f"a classifier needs at least two classes, there is {classes or 'none'}", "add another class"
        yield Problem(images.source, "", None, what, remedy, kind="one-class")
    yield from name_problems(images, "classes")
    there = dict(zip(other.names, other.counts.tolist(), strict=True)) if isinstance(other, LabelledImages) else None
    for name, count in zip(images.names, images.counts.tolist(), strict=True):
        if not count:
            remedy = "add images of it, or it can be neither learnt nor measured"
            yield Problem(images.source, "", None, f"there are no images of {name!r}", remedy, "warning", "no-images")
        elif there is not None and other is not None and not there.get(name):
            what = f"{count} images of {name!r}, of which {other.source} has none"
            yield Problem(images.source, "", None, what, "add it to both or remove it", kind="not-in-training")


def _repeats(images: LabelledImages) -> Iterator[Problem]:
    """Images listed twice."""
    first_of: dict[str, int] = {}
    # A packed set's paths are names only; what is not a file has no place to compare.
    for row, path in enumerate(images.paths.tolist()):
        first = first_of.setdefault(path if images.pack else realpath(path), row)
        if first != row:
            yield _same_image(images, first, row, "the image is listed twice", "duplicate-path")


def _equal_images(images: LabelledImages) -> Iterator[Problem]:
    """Different files with the same content."""
    paths = images.paths.tolist()
    for group in equal_files(paths):
        for row in group[1:]:
            if realpath(paths[row]) != realpath(paths[group[0]]):
                yield _same_image(images, group[0], row, f"the same image as {paths[group[0]]}", "duplicate-image")


def _same_image(images: LabelledImages, first: int, row: int, what: str, kind: str) -> Problem:
    """An image that is there twice: harmless with the same class, a contradiction with two."""
    a, b = int(images.labels[first]), int(images.labels[row])
    if a == b:
        return image_problem(images, row, what, "keep one of the two", kind, "warning")
    names = dict(enumerate(images.names))
    what += f", as {names.get(a, a)!r} and as {names.get(b, b)!r}"
    return image_problem(images, row, what, "keep the one that is right", "two-classes")
