"""Checks of a set of masks: files that can be used, values that are classes, classes that are there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from detseg.data.base import ImageSet
from detseg.data.checks.annotation_checks import annotation_problems
from detseg.data.checks.image_checks import (
    image_problem,
    image_problems,
    in_threads,
    name_problems,
    repeated_paths,
    sharing_problems,
)
from detseg.data.checks.problems import Problem
from detseg.data.index_png import MaskError
from detseg.data.masks import SemanticMasks
from detseg.data.sample import IGNORE


def mask_problems(masks: SemanticMasks, check_images: bool, other: ImageSet | None) -> list[Problem]:
    """Every problem of a set of masks, see `validate`."""
    if masks.objects is not None:
        problems = [*annotation_problems(masks.objects, check_images, other), *_polygon_problems(masks)]
    else:
        problems = [*masks.read_problems, *_list_problems(masks)]
        if check_images:
            problems += [*image_problems(masks), *_mask_file_problems(masks)]
        problems += sharing_problems(masks, other, read_files=check_images)
    return [*problems, *name_problems(masks, "classes")]


def _list_problems(masks: SemanticMasks) -> Iterator[Problem]:
    if not len(masks):
        remedy = "check that this is the right folder"
        yield Problem(masks.source, "", None, "there is not a single image", remedy, "warning", "empty")
    for row in repeated_paths(masks):
        yield image_problem(masks, row, "the image is listed twice", "remove one of the two", "duplicate-path")


def _mask_file_problems(masks: SemanticMasks) -> Iterator[Problem]:
    """Mask files that cannot be used, and classes that none of them has."""
    if masks.pack is not None:  # checked when packed
        return

    def count(position: int) -> NDArray[np.int64] | MaskError:
        try:
            return np.bincount(masks.mask(position).ravel(), minlength=IGNORE + 1)
        except MaskError as error:
            return error

    pixels, sound = np.zeros(IGNORE + 1, np.int64), 0
    for row, found in enumerate(in_threads(count, range(len(masks)))):
        if isinstance(found, MaskError):
            yield image_problem(masks, row, found.what, found.remedy, found.kind)
        else:
            pixels += found
            sound += 1
    absent = [name for name, count in zip(masks.names, pixels.tolist(), strict=False) if not count]
    if sound:
        yield from _absent(masks, absent, ignored=int(pixels[IGNORE]))


def _absent(masks: SemanticMasks, absent: list[str], ignored: int = 0) -> Iterator[Problem]:
    if not absent:
        return
    shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
    what = f"no pixel of {len(absent)} of the {len(masks.categories)} classes ({shown}) in {len(masks)} images"
    remedy = "nothing is learnt or measured of them here"
    if ignored and len(masks.categories) - len(absent) <= 1:
        values = ", ".join(map(str, masks.ignore_values))
        remedy = f"value {values} is taken as 'ignore'; if it is a class, give it a line in the list of classes"
    yield Problem(masks.source, "", None, what, remedy, "warning", "absent-class")


def _polygon_problems(masks: SemanticMasks) -> Iterator[Problem]:
    """Objects of which only a box is known, and classes without a drawn object."""
    objects = masks.objects
    assert objects is not None
    drawn = objects.drawn
    bare = int((~drawn).sum())
    if bare:
        what = f"{bare} of {len(drawn)} objects have no polygon: their boxes are ignored, neither object nor background"
        yield Problem(objects.source, "", None, what, "draw polygons if they matter", "warning", "no-polygon")
    present = set(objects.labels[drawn & ~objects.iscrowd].tolist())
    if len(objects.names) == len(masks.names):  # its first category is the background, which no object needs
        present.add(0)
    yield from _absent(masks, [name for label, name in enumerate(objects.names) if label not in present])
