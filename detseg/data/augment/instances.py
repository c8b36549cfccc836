"""Instance masks in augmentation: warped with the image, and the rule for objects of which a part is no longer visible.

Where an object has a mask, the mask says how much of it is visible and where its box ends; without one its box does. A
mask without any pixel is unknown.
"""

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.sample import Sample


class ObjectMasks:
    """The instance masks of a sample, and the windows that they are in."""

    def __init__(self, masks: NDArray[np.uint8], windows: NDArray[np.int64] | None = None) -> None:
        self.masks = masks  # (M, H, W)
        if windows is None:
            windows = np.array([window_of(mask) for mask in masks], np.int64).reshape(-1, 4)
        self.windows = windows  # (M, 4)

    def hulls(
        self, boxes: NDArray[np.floating], warped: NDArray[np.float64], linear: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The boxes (M, 4) xyxy that the masks have after a map x' = linear @ (x, y); those of `warped` without a mask.

        A mask counts as if it filled its box of `boxes` (M, 4), which is finer than its pixels.
        """
        from detseg.data.mask_loops import warp_hulls  # here: numba takes half a second to load

        hulls = warped.copy()
        warp_hulls(self.masks, self.windows, boxes.astype(np.float64), linear, hulls)
        return hulls

    def warped(
        self, rows: NDArray[np.int64], matrix: NDArray[np.float64], size: tuple[int, int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The masks (K, h, w) of some objects through x' = matrix @ (x, y, 1) into `size` = (width, height), and areas.

        Each pixel takes the value of the pixel that its centre comes from, 0 outside.
        """
        from detseg.data.mask_loops import warp

        warped, areas = np.zeros((len(rows), size[1], size[0]), np.uint8), np.zeros(len(rows), np.int64)
        warp(self.masks, rows, self.windows, matrix, warped, areas)
        return warped, areas

    def area(self, row: int) -> int:
        """The number of pixels of a mask."""
        x1, y1, x2, y2 = self.windows[row].tolist()
        return int(np.count_nonzero(self.masks[row, y1:y2, x1:x2]))


def window_of(mask: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """The hull xyxy of a mask (H, W), whole pixels, half-open; zeros where it is empty."""
    x, y, width, height = cv2.boundingRect(mask)
    return x, y, x + width, y + height


def keep_visible(
    sample: Sample, shares: NDArray[np.float64], iscrowd: NDArray[np.bool_], *, min_visible: float, min_side: float
) -> Sample:
    """Of objects that were cut, keep what can still be learnt; see `clip_and_filter`, whose rule this is.

    Boxes are drawn in to what is visible of their masks: a side that lies more than a pixel outside moves onto it.

    Args:
        sample: with the masks as they are now, and boxes as they were, clipped to the image.
        shares: (M,) how much of each object is visible; objects of which all is are left alone.
        iscrowd: (M,) what was a crowd before anything was cut; these keep their boxes.
    """
    assert sample.masks is not None
    boxes, crowd, kept = sample.boxes.copy(), sample.iscrowd.copy(), np.ones(len(shares), bool)
    for i in np.flatnonzero((shares < 1) & ~iscrowd):
        hull = np.array(window_of(sample.masks[i]), np.float32)
        if hull.any():
            boxes[i] = np.where(np.abs(hull - boxes[i]) > 1, hull, boxes[i])
        # 1e-6: as for boxes, all of an object must pass min_visible = 1 in spite of rounding.
        crowd[i] = shares[i] < min_visible - 1e-6 or (boxes[i, 2:] - boxes[i, :2]).min() < min_side
        kept[i] = shares[i] > 0
    if kept.all():
        return replace(sample, boxes=boxes, iscrowd=crowd)
    return replace(sample, boxes=boxes[kept], labels=sample.labels[kept], iscrowd=crowd[kept], masks=sample.masks[kept])
