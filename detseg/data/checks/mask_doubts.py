"""Doubtful masks: with one class only, with specks, and classes with few pixels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.base import Track
from detseg.data.checks.doubts import Box, Doubt, Kind
from detseg.data.crops import map_images
from detseg.data.index_png import is_background
from detseg.data.masks import SemanticMasks
from detseg.data.sample import IGNORE

SPECK = 8  # pixels
COMMON = 0.2  # of the masks; where more have specks, they are told as one
FEW_PIXELS = 1e-3  # of all pixels

KINDS = {
    "empty-mask": Kind("masks with one class only", "every pixel of one class, or ignored: is that meant?"),
    "specks": Kind(
        "masks with specks",
        f"areas of a class of up to {SPECK} pixels, apart from its others and from ignored pixels; one line, if "
        f"{COMMON:.0%} of the masks have them; score: how many",
    ),
    "few-pixels": Kind("classes with few pixels", f"less than {FEW_PIXELS:.1%} of the pixels of a split"),
}


class _Content(NamedTuple):
    pixels: NDArray[np.int64]  # (K,)
    ignored: int
    specks: list[Box]  # around each


def mask_doubts(
    splits: Mapping[str, SemanticMasks], track: Track | None = None
) -> tuple[list[Doubt], dict[str, dict[str, int]]]:
    """Everything doubtful about the masks of all splits, which are all read, and the images that each class is in."""
    doubts: list[Doubt] = []
    images: dict[str, dict[str, int]] = {}
    for split, data in splits.items():
        found = map_images(lambda image, data=data: _content(data, image), len(data), track)  # type: ignore[misc]
        total, seen = np.zeros((2, len(data.categories)), np.int64)
        for image, content in enumerate(found):
            if content is not None:
                total += content.pixels
                seen += content.pixels > 0
                doubts += _of_mask(split, data, image, content)
        doubts += _specks_of(split, found)
        images[split] = dict(zip(data.names, seen.tolist(), strict=True))
        for name, count in zip(data.names, total.tolist(), strict=True):
            share = count / max(1, int(total.sum()))
            if 0 < share < FEW_PIXELS:
                doubts.append(Doubt("few-pixels", f"{name}: {share:.3%} of the pixels", FEW_PIXELS - share, split))
    return doubts, images


def _content(data: SemanticMasks, image: int) -> _Content | None:
    """What is in a mask; None if it cannot be read, which is a problem already."""
    try:
        mask = data.mask(image)
    except (ValueError, OSError):
        return None
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    boxes = []
    for label in np.flatnonzero(counts[:IGNORE]).tolist():
        if not is_background(data.names[label]):  # holes are common
            boxes += _specks(mask, label)
    return _Content(counts[: len(data.categories)].astype(np.int64), int(counts[IGNORE]), boxes)


def _specks(mask: NDArray[np.uint8], label: int) -> list[Box]:
    """Boxes of connected areas of at most SPECK pixels, where the class has larger ones too."""
    area = ((mask == label) | (mask == IGNORE)).astype(np.uint8)
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(area, connectivity=8)
    own = np.bincount(numbers[mask == label], minlength=len(stats)) > 0
    small = own & (stats[:, cv2.CC_STAT_AREA] <= SPECK)
    if (small == own).all():
        return []
    return [(float(x), float(y), float(x + w), float(y + h)) for x, y, w, h, _ in stats[small].tolist()]


def _of_mask(split: str, data: SemanticMasks, image: int, content: _Content) -> Iterator[Doubt]:
    used = np.flatnonzero(content.pixels)
    if len(used) <= 1:
        name = data.names[used[0]] if len(used) else ""
        rest = " or ignored" if content.ignored and name else ""
        yield Doubt("empty-mask", f"every pixel is {name or 'ignored'}{rest}", 1.0, split, image)


def _specks_of(split: str, found: Sequence[_Content | None]) -> Iterator[Doubt]:
    with_specks = {image: content.specks for image, content in enumerate(found) if content and content.specks}
    if len(with_specks) > max(1, COMMON * len(found)):
        total = sum(map(len, with_specks.values()))
        yield Doubt("specks", f"{len(with_specks)} of {len(found)} masks have {total} specks", float(total), split)
        return
    for image, specks in with_specks.items():
        what = f"{len(specks)} speck{'s' if len(specks) > 1 else ''}"
        yield Doubt("specks", what, float(len(specks)), split, image, boxes=tuple(specks[:10]))
