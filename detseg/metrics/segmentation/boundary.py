"""Where the boundaries of label maps are, for Boundary IoU (Cheng et al., "Boundary IoU: Improving Object-Centric
Image Segmentation Evaluation", CVPR 2021, arXiv:2103.16562).

The boundary region of a class in a label map are its pixels that have a pixel of another class, or the edge of the
image, at most d pixels away; d is 2 % of the image's diagonal, and distances count diagonal steps as one, as in
the authors' program. Boundary IoU is the IoU of this region in truth and of the one in the prediction.

Ignored pixels are of no class: they are no boundary and make none, neither in truth nor in the prediction. The
boundary between two classes with a band of ignored pixels between them counts on both sides of the band, as far
as d reaches across it; where the band is wider than d, there is no boundary.
"""

import math

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.segmentation.label_maps import MOST_CLASSES, LabelMap, count_pairs

DILATION_RATIO = 0.02  # of the diagonal, as in the paper


def boundary_distance(height: int, width: int) -> int:
    """d in pixels, at least 1."""
    return max(1, round(DILATION_RATIO * math.hypot(height, width)))


def boundary_counts(target: LabelMap, prediction: LabelMap, classes: int) -> NDArray[np.int64]:
    """(3, K) pixels in the boundary region of each class: in truth, in the prediction, in both.

    Both maps are (H, W) with 0..K-1, the target also with `MOST_CLASSES` for ignored pixels.
    """
    ignored = target == MOST_CLASSES
    if not ignored.any():
        ignored = None
    true_edge, found_edge = (boundary_region(labels, ignored) for labels in (target, prediction))
    # Beside the boundary a pixel is of no class: row 255, column K. One more pair count then gives all three.
    table = count_pairs(
        np.where(true_edge, target, np.uint8(MOST_CLASSES)),
        np.where(found_edge, prediction, np.uint8(classes)),
        classes + 1,
    )
    return np.stack([table[:classes].sum(axis=1), table[:, :classes].sum(axis=0), np.diagonal(table)[:classes]])


def boundary_region(labels: LabelMap, ignored: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """(H, W) which pixels belong to the boundary region of their class, for all classes at once.

    They are those in whose window of 2 d + 1 pixels there is a smaller or a greater label, or the outside. The
    authors erode the mask of one class after the other, which finds the same. `ignored` (H, W) are of no class.
    """
    import cv2

    if not labels.size:
        return np.zeros(labels.shape, bool)
    distance = boundary_distance(*labels.shape)
    window = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    low = labels if ignored is None else np.where(ignored, np.uint8(255), labels)
    high = labels if ignored is None else np.where(ignored, np.uint8(0), labels)
    # What lies outside is not seen by either: the edge comes below, whatever the labels there.
    region: NDArray[np.bool_] = (cv2.erode(low, window) != labels) | (cv2.dilate(high, window) != labels)
    region[:distance] = region[-distance:] = True
    region[:, :distance] = region[:, -distance:] = True
    if ignored is not None:
        region &= ~ignored
    return region
