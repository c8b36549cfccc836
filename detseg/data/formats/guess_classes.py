"""The classes of masks without a list: background and foreground, where the values in all files agree on that."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detseg.data.annotations import AnnotationError, Category
from detseg.data.formats.class_list import ClassList
from detseg.data.index_png import MaskError, index_values, open_mask
from detseg.data.mask_reading import MaskReading, colour_code, colour_codes, is_soft, soft_edges, white_pixels
from detseg.data.masks import BACKGROUND
from detseg.data.sample import IGNORE

FOREGROUND = Category(1, "foreground")
ONE = ClassList((Category(0, BACKGROUND), FOREGROUND))  # 255 is "ignore"
WHITE = ClassList((Category(0, BACKGROUND), FOREGROUND._replace(id=IGNORE)), ())
LOOKED_AT = 50  # masks beside a list of colours, until one tells
NOT_ZERO = ClassList((Category(0, BACKGROUND), FOREGROUND), (), MaskReading(binary=True))


class _Look(NamedTuple):
    """What a mask file holds: nothing, if it cannot be read."""

    path: str
    values: set[int]
    black_and_white: bool = False  # by the colours of its palette


def guess_classes(mask_paths: Iterable[str], place: Path, file_name: str) -> ClassList:
    """Background and foreground, if the masks hold two values, written as 0 and 1, 0 and 255, or in black and white.

    255 is "ignore" where a file has it beside 1. AnnotationError, for other values, says what to do.
    """
    with ThreadPoolExecutor() as pool:
        looks = list(pool.map(_look, mask_paths))
    numbers = [look for look in looks if not look.black_and_white]
    found = set().union(*(look.values for look in numbers))
    if not found <= {0, 1, IGNORE}:
        raise _unknown(looks, found, place, file_name)
    both = any({1, IGNORE} <= look.values for look in numbers)
    if any(look.black_and_white for look in looks) and both:
        first = next(look.path for look in looks if look.black_and_white)
        raise AnnotationError(
            f"{place}: some masks hold 0, 1 and {IGNORE}, others are palettes in black and white (the first is "
            f"{first}): it cannot be told what white is. Save all of them alike"
        )
    if both:
        return ONE
    if any(look.black_and_white for look in looks) or {1, IGNORE} <= found:
        return NOT_ZERO
    return WHITE if IGNORE in found else ONE


def _unknown(looks: list[_Look], found: set[int], place: Path, file_name: str) -> AnnotationError:
    soft = [look for look in looks if is_soft(look.values)]
    if soft and all(look in soft or look.values <= {0, 1, IGNORE} for look in looks):
        error = soft_edges(soft[0].path, len(soft[0].values - {0, IGNORE}))
        return AnnotationError(f"{error}{f'; {len(soft)} masks are so' if len(soft) > 1 else ''}")
    shown = ", ".join(map(str, sorted(found)[:12])) + (", ..." if len(found) > 12 else "")
    text = (
        f"{place}: the masks hold the values {shown}, and no file says what they mean. Write {file_name} with one "
        f"class name a line, the first for value 0, or with lines such as '4 bluebell'; {IGNORE} is 'ignore'"
    )
    if all(_counts(look.values) for look in looks):
        text += f". If they number the objects of each image, write into {file_name} the one class of them all, alone"
    return AnnotationError(text)


def _counts(values: set[int]) -> bool:
    """Whether these are 1, 2, ... without a gap, with or without 0."""
    return values - {0} == set(range(1, len(values - {0}) + 1))


def _look(path: str) -> _Look:
    try:
        mask = open_mask(path)
        values = index_values(mask, path)
    except MaskError:
        return _Look(path, set())  # validation reports it
    used = set(np.flatnonzero(np.bincount(values.ravel())).tolist())
    return _Look(path, used, len(used) > 0 and white_pixels(mask) is not None and not _plain(mask.palette, used))


def _plain(palette: np.ndarray | None, used: set[int]) -> bool:
    """Whether a palette's numbers say what its colours do: 0 is black, and white is 1 or 255."""
    assert palette is not None
    return all((value == 0) == (palette[value, 0] == 0) and value in (0, 1, IGNORE) for value in used)


def need_colours(mask_paths: Iterable[str]) -> bool:
    """Whether the first mask that can be read is an image of colours, which no list of numbers explains."""
    for path in mask_paths:
        try:
            mask = open_mask(path)
        except MaskError:
            continue
        try:
            index_values(mask, path)
        except MaskError as error:
            return error.kind == "colour-mask"
        return False
    return False


def in_colours(mask_paths: Iterable[str], reading: MaskReading) -> bool:
    """Whether masks beside a list of colours are in these colours; if not, they hold the numbers of its lines.

    The first mask that tells decides: grey values that are no listed colours, but few enough, are numbers of lines.
    """
    listed = np.array([colour_code(colour.rgb) for colour in reading.colours], np.uint32)
    looked = 0
    for path in mask_paths:
        try:
            mask = open_mask(path)
            codes = np.unique(colour_codes(path))
        except MaskError:
            continue
        if np.isin(codes, listed).all():
            if len(codes) > 1 or codes[0] != 0:  # black alone is background either way
                return True
        elif mask.pixels.ndim == 3 or mask.palette is not None:
            return True  # in colours, some of them unknown
        elif int(mask.pixels.max()) < len(listed):
            return False
        looked += 1
        if looked == LOOKED_AT:
            break
    return True
