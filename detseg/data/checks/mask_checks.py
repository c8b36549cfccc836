"""Finds everything that is wrong with a set of masks before it wastes a training run, and leaves out what is broken."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Problem
from detseg.data.checks.annotation_checks import image_problem, image_problems, in_threads, repeats, sharing_problems
from detseg.data.checks.validate import repair, validate
from detseg.data.index_png import MaskError
from detseg.data.masks import SemanticMasks
from detseg.data.sample import IGNORE

DROPPED = {
    "missing-image": "images that do not exist",
    "damaged-image": "damaged images",
    "missing-mask": "images without a mask",
    "damaged-mask": "images with a damaged mask",
    "duplicate-path": "images listed twice",
    "in-both-splits": "images that are in the other split too",
}


def validate_masks(
    masks: SemanticMasks, check_images: bool = True, other: SemanticMasks | None = None
) -> list[Problem]:
    """Every problem of a set of masks, errors first.

    Args:
        masks: the set.
        check_images: also open every image and every mask file: it exists, is complete, has the size of its
            image and holds classes only; and find equal images. Without it no file is touched.
        other: the other split; images that are in both are errors.
    """
    if masks.objects is not None:
        problems = [*validate(masks.objects, check_images, other), *_outline_problems(masks)]
    else:
        problems = [*_list_problems(masks)]
        if check_images:
            problems += image_problems(masks)
            problems += _mask_problems(masks)
        problems += sharing_problems(masks, other, read_files=check_images)
    names = list(masks.names)
    for name in sorted({name for name in names if names.count(name) > 1}):
        what = f"{names.count(name)} classes are named {name!r}"
        problems.append(Problem(masks.source, "", None, what, "give each its own name", "warning", "category"))
    return sorted(problems, key=lambda problem: problem.severity != "error")


def _list_problems(masks: SemanticMasks) -> Iterator[Problem]:
    if not len(masks):
        remedy = "check that this is the right folder"
        yield Problem(masks.source, "", None, "there is not a single image", remedy, "warning", "empty")
    for row in repeats(np.array([os.path.normpath(path) for path in masks.paths.tolist()])):
        yield image_problem(masks, row, "the image is listed twice", "remove one of the two", "duplicate-path")


def _mask_problems(masks: SemanticMasks) -> Iterator[Problem]:
    """Mask files that cannot be used, and classes that none of them has. Packed ones were checked when packed."""
    if masks.pack is not None:
        return

    def count(position: str) -> NDArray[np.int64] | MaskError:
        try:
            return np.bincount(masks.mask(int(position)).ravel(), minlength=IGNORE + 1)
        except MaskError as error:
            return error

    pixels, sound = np.zeros(IGNORE + 1, np.int64), 0
    for row, found in enumerate(in_threads(count, [str(row) for row in range(len(masks))])):
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


def _outline_problems(masks: SemanticMasks) -> Iterator[Problem]:
    """Objects of which only a box is known, and classes without an outlined object."""
    objects = masks.objects
    assert objects is not None
    segments = objects.segments
    outlined = np.zeros(len(objects.ids), bool) if segments is None else segments.has_polygons | segments.has_rle
    bare = int((~outlined).sum())
    if bare:
        what = (
            f"{bare} of {len(outlined)} objects have no outline: their boxes are ignored, neither object nor background"
        )
        yield Problem(objects.source, "", None, what, "outline them if they matter", "warning", "no-outline")
    present = set(objects.labels[outlined & ~objects.iscrowd].tolist())
    if len(objects.names) == len(masks.names):  # its first category is the background, which no object needs
        present.add(0)
    yield from _absent(masks, [name for label, name in enumerate(objects.names) if label not in present])


def repair_masks(masks: SemanticMasks, problems: Iterable[Problem]) -> tuple[SemanticMasks, list[str]]:
    """Mend the problems that `validate_masks` found in this set, as far as that is safe.

    Masks that are drawn from outlines: as `detseg.data.repair` does. Mask files are not changed: images that
    have none, a damaged one, or are themselves missing, damaged or listed elsewhere are left out.

    Returns:
        The mended set, and one sentence for each kind of change.
    """
    found = list(problems)
    if masks.objects is not None:
        objects, done = repair(masks.objects, found)
        changed: dict[str, Any] = {"image_ids": objects.image_ids, "paths": objects.paths, "sizes": objects.sizes}
        return replace(masks, objects=objects, **changed), done
    done = []
    keep = np.ones(len(masks), bool)
    for kind, name in DROPPED.items():
        of_kind = [problem for problem in found if problem.kind == kind]
        keep[[problem.image_index for problem in of_kind]] = False
        if of_kind:
            done.append(f"left out {len(of_kind)} {name}, the first is {of_kind[0].image}")
    return (masks if keep.all() else masks.subset(keep)), done
