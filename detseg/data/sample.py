"""One image with its objects, and the rule that decides which objects survive a crop."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PADDING = 114
"""Grey level (all channels) of everything outside the image: near the mean of natural images."""

IGNORE = 255
"""Label of pixels that count neither for nor against any class: unlabelled ones, and all outside the image."""


@dataclass(slots=True)
class Sample:
    """An image and its objects, the unit that the dataset gives and every transform returns."""

    image: NDArray[np.uint8]  # (H, W, 3), RGB, contiguous
    boxes: NDArray[np.float32]  # (M, 4), xyxy in pixels of `image`, half-open
    labels: NDArray[np.int64]  # (M,), 0..K-1
    iscrowd: NDArray[np.bool_]  # (M,), True means "ignore here", neither object nor background
    mask: NDArray[np.uint8] | None = None  # (H, W), the class of every pixel, 255 where it is not known
    masks: NDArray[np.uint8] | None = None  # (M, H, W), 1 where an object is, one for each box; empty: not known
    windows: NDArray[np.int64] | None = None  # (M, 4), xyxy, outside of which `masks` have nothing, where that is known
    image_labels: NDArray[np.int64] | None = None  # (L,), classes known of the image alone; it has no boxes then

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the image."""
        return self.image.shape[1], self.image.shape[0]


class Kept(NamedTuple):
    """What `clip_and_filter` left of M objects."""

    boxes: NDArray[np.float32]  # (k, 4)
    labels: NDArray[np.int64]  # (k,)
    iscrowd: NDArray[np.bool_]  # (k,)
    rows: NDArray[np.int64]  # (k,) their positions before


def clip_and_filter(
    boxes: NDArray[np.floating],
    labels: NDArray[np.int64],
    iscrowd: NDArray[np.bool_],
    size: tuple[int, int],
    *,
    min_visible: float = 0.3,
    min_side: float = 2.0,
) -> Kept:
    """Clip boxes (M, 4) to a window and ignore what can no longer be learnt; order is kept, arrays are new.

    Boxes are xyxy in the pixels of the window, whose corner is (0, 0) and `size` (width, height). The visible share
    of a box is its area inside the window over its whole area.

    - share >= `min_visible` and both clipped sides >= `min_side` pixels: stays an object;
    - smaller share or a shorter side: stays as `iscrowd`. Its pixels are still in the image, so it must not be
      taught as background, but too little is left to ask a detector for its box;
    - crowd boxes stay what they are, since they must stay ignored;
    - dropped is only that of which nothing is visible.
    """
    if len(boxes) == 0:
        return Kept(np.zeros((0, 4), np.float32), labels[:0].copy(), iscrowd[:0].copy(), np.zeros(0, np.int64))
    corner = np.array([*size, *size], boxes.dtype)
    clipped = np.clip(boxes, 0, corner)
    sides = clipped[:, 2:] - clipped[:, :2]
    full = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
    share = sides.prod(axis=1) / np.maximum(full, np.finfo(np.float32).tiny)
    shortest = sides.min(axis=1)
    rows = np.flatnonzero(shortest > 0)
    # 1e-6: an uncropped box must pass min_visible=1 in spite of rounding.
    crowd = iscrowd | (share < min_visible - 1e-6) | (shortest < min_side)
    return Kept(clipped[rows].astype(np.float32), labels[rows], crowd[rows], rows)
