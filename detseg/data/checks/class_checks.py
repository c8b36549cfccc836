"""Checks of sets with a class for every pixel (masks) or for every image (labels)."""

from collections.abc import Iterator
from os.path import realpath

import numpy as np
from numpy.typing import NDArray

from detseg.data.base import ImageSet
from detseg.data.checks.annotation_checks import annotation_problems
from detseg.data.checks.image_checks import (
    equal_files,
    id_problems,
    image_problem,
    image_problems,
    in_threads,
    name_problems,
    repeated_paths,
    sharing_problems,
)
from detseg.data.checks.problems import Problem
from detseg.data.index_png import MaskError, palette_of
from detseg.data.labels import LabelledImages
from detseg.data.mask_reading import STORED
from detseg.data.masks import SemanticMasks
from detseg.data.sample import IGNORE

# ------------------------------------------------------------------ masks


def mask_problems(masks: SemanticMasks, check_images: bool, other: ImageSet | None) -> list[Problem]:
    """Every problem of a set of masks, see `validate`."""
    if masks.objects is not None:
        problems = [*annotation_problems(masks.objects, check_images, other), *_polygon_problems(masks)]
    else:
        problems = list(masks.read_problems)
        if not len(masks):
            what, remedy = "there is not a single image", "check that this is the right folder"
            problems.append(Problem(masks.source, "", None, what, remedy, "warning", "empty"))
        for row in repeated_paths(masks):
            what = "the image is listed twice"
            problems.append(image_problem(masks, row, what, "remove one of the two", "duplicate-path"))
        if check_images:
            problems += [*image_problems(masks), *_mask_file_problems(masks)]
        problems += sharing_problems(masks, other, read_files=check_images)
    return [*problems, *name_problems(masks, "classes")]


def _mask_file_problems(masks: SemanticMasks) -> Iterator[Problem]:
    """Mask files that cannot be used, and classes that none of them has."""
    if masks.pack is not None:  # checked when packed
        return

    def count(position: int) -> NDArray[np.int64] | MaskError:
        try:
            return np.bincount(masks.mask(position).ravel(), minlength=IGNORE + 1)
        except MaskError as error:
            return error

    pixels, sound = np.zeros(IGNORE + 1, np.int64), {}
    for row, found in enumerate(in_threads(count, range(len(masks)))):
        if isinstance(found, MaskError):
            yield image_problem(masks, row, found.what, found.remedy, found.kind)
        else:
            pixels += found
            sound[row] = found > 0
    if masks.reading == STORED:
        yield from _different_palettes(masks, sound)
        yield from _different_whites(masks, sound)
    absent = [name for name, count in zip(masks.names, pixels.tolist(), strict=False) if not count]
    if sound:
        yield from _absent(masks, absent, ignored=int(pixels[IGNORE]))


def _different_palettes(masks: SemanticMasks, sound: dict[int, NDArray[np.bool_]]) -> Iterator[Problem]:
    """Masks with palettes in which a class has another colour than in the first: its number may be another's there.

    `sound` has which labels (256,) each mask that can be read has.
    """
    assert masks.mask_paths is not None
    palettes = in_threads(palette_of, masks.mask_paths[list(sound)].tolist())
    first: dict[int, tuple[str, tuple[int, ...]]] = {}  # label -> a mask and the colour it has there
    for (row, there), palette in zip(sound.items(), palettes, strict=True):
        for label, category in enumerate(masks.categories) if palette is not None else ():
            if not there[label] or category.id >= len(palette):
                continue
            colour = tuple(palette[category.id].tolist())
            path, other = first.setdefault(label, (str(masks.mask_paths[row]), colour))
            if colour != other:
                what = f"value {category.id} has the colour {colour} in its palette, and {other} in {path}"
                remedy = "save all masks with one palette, or give a list of colours (labelmap.txt) to go by them"
                yield image_problem(masks, row, what, remedy, "palette-differs")
                break


def _different_whites(masks: SemanticMasks, sound: dict[int, NDArray[np.bool_]]) -> Iterator[Problem]:
    """Masks of two classes in which 255 is "ignore" in some where others have the second class, never both."""
    if len(masks.categories) != 2 or masks.ignore_values != (IGNORE,):
        return
    ignoring = [row for row, there in sound.items() if there[IGNORE]]
    if not ignoring or any(sound[row][1] for row in ignoring) or not any(there[1] for there in sound.values()):
        return
    second = masks.categories[1]
    what = (
        f"{len(ignoring)} of {len(sound)} masks hold {IGNORE}, which is ignored, and no {second.id} "
        f"({second.name!r}), the first is {masks.file_of(ignoring[0])}; the others have it the other way round"
    )
    remedy = f"if {IGNORE} is {second.name!r} there, write it as {second.id}, or leave the list of classes out"
    yield Problem(masks.source, "", None, what, remedy, "warning", "white-differs")


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


# ------------------------------------------------------------------ labels


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
