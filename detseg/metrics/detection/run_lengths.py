"""Masks as COCO's compressed run lengths: made of bitmaps, laid end to end, and their areas.

A number is written 5 bits a character, from the lowest, plus 32 where more follow; bit 16 of its last character is the
sign. Runs 1, 3, 5, … of a mask are foreground, and from the fourth on a number is the difference from the run before
the last.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.run_lengths import RunLengths
from detseg.metrics.arrays import as_numpy
from detseg.metrics.detection.records import Rle

_BLOCK = 4096  # masks at a time; bounds the memory


def encode_masks(masks: Any, count: int, place: str) -> list[Rle]:
    """Compressed run lengths of M = `count` masks; raises ValueError where they are not as many, or of another form.

    `masks` are (M, H, W) bool or whole numbers, torch on any device or numpy, or M run lengths, compressed or not.
    """
    if len(masks) != count:
        raise ValueError(f"{place}: {len(masks)} masks for {count} labels")
    if count == 0:
        return []
    from pycocotools import mask as coco_mask

    if isinstance(masks, list | tuple) and isinstance(masks[0], Mapping):
        plain = [isinstance(mask["counts"], list) for mask in masks]
        return [dict(coco_mask.frPyObjects(m, *m["size"]) if p else m) for m, p in zip(masks, plain, strict=True)]
    array = np.stack([as_numpy(mask) for mask in masks]) if isinstance(masks, list | tuple) else as_numpy(masks)
    if array.ndim != 3 or array.dtype.kind not in "biu":
        raise ValueError(
            f"{place}: masks must be bool of shape (M, height, width), got {array.dtype} {array.shape}; cut "
            "probabilities at a threshold first, such as masks[:, 0] > 0.5"
        )
    return list(coco_mask.encode(np.asfortranarray((array != 0).astype(np.uint8).transpose(1, 2, 0))))


def joined(masks: Sequence[Rle]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The run lengths of n masks in one text, a character a byte, and where in it each mask begins and ends (n,)."""
    if isinstance(masks, RunLengths):
        return masks.texts, *np.ascontiguousarray(masks.spans.T)
    counts = [mask["counts"] for mask in masks]
    texts = [text.encode("ascii", "replace") if isinstance(text, str) else text for text in counts]
    start = np.concatenate([[0], np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))])
    # A bytearray, because an array over bytes is read-only, which to numba is another type.
    return np.frombuffer(bytearray(b"".join(texts)), np.uint8), start[:-1], start[1:]


def mask_areas(masks: Sequence[Rle]) -> NDArray[np.float64]:
    """(n,) square pixels; `pycocotools.mask.area` fails for more than 255 masks with NumPy 2."""
    blocks = [_areas(*joined(list(masks[first : first + _BLOCK]))) for first in range(0, len(masks), _BLOCK)]
    return np.concatenate([np.zeros(0), *blocks])


def _areas(texts: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.float64]:
    """Areas of masks whose run lengths follow each other; what damaged ones give is found out when they are compared.

    As numbers are differences, each counts once for each run of foreground from its own on.
    """
    masks, start = len(begin), np.concatenate([begin, end[-1:]])
    if not len(texts):
        return np.zeros(masks)
    bits = texts.astype(np.int64) - 48
    last = bits & 32 == 0
    last[start[1:][np.diff(start) > 0] - 1] = True
    ends = np.flatnonzero(last)
    begins = np.concatenate([[0], ends[:-1] + 1])
    shifts = 5 * np.minimum(np.arange(len(bits)) - np.repeat(begins, ends - begins + 1), 10)
    values = np.add.reduceat((bits & 31) << shifts, begins) - (((bits[ends] & 16) >> 4) << (shifts[ends] + 5))
    owner = np.searchsorted(start, begins, "right") - 1
    run = np.arange(len(begins)) - np.searchsorted(begins, start)[owner]
    times = (np.bincount(owner, minlength=masks)[owner] - run + 1) // 2
    foreground = run % 2 == 1
    areas: NDArray[np.float64] = np.bincount(owner[foreground], (values * times)[foreground], masks).astype(np.float64)
    return areas
