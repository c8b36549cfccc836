"""Boxes from masks: connected components of each class become objects, so a segmenter is evaluated as a detector."""

import cv2
import numpy as np
import torch
from torch import Tensor

from detseg.segment.losses import IGNORE_INDEX


def masks_to_boxes(
    labels: Tensor, probabilities: Tensor | None = None, *, background: int | None = 0, min_area: int = 1
) -> dict[str, Tensor]:
    """The bounding box of every connected component of every class of one image.

    Pixels that touch by a side or a corner are connected, so touching objects of one class are one component.

    Args:
        labels: (H, W) class of each pixel, integers; `IGNORE_INDEX` belongs to no component.
        probabilities: (K, H, W) probability of each class, or None.
        background: a class without objects; None if there is none.
        min_area: components of fewer pixels are left out.

    Returns:
        ``boxes`` (M, 4) float32 xyxy in pixels, half-open; ``labels`` (M,) int64; ``scores`` (M,) float32, the mean
        probability of its class in the component, 1 without `probabilities`; ``areas`` (M,) int64 pixels. Best score
        first, larger areas first among equals. On the device of `labels`.

    Raises:
        ValueError: shapes or types that are none of these, a negative class, or a class without probabilities.
    """
    _check(labels, probabilities, min_area)
    classes = labels.cpu().numpy()  # OpenCV knows host memory only
    chances = None if probabilities is None else probabilities.detach().float().cpu().numpy()
    present = [int(k) for k in np.unique(classes) if k not in (background, IGNORE_INDEX)]
    if present and present[0] < 0:
        raise ValueError(
            f"labels hold {present[0]}, which is no class; mark pixels that count for nothing with {IGNORE_INDEX}"
        )
    if chances is not None and present and present[-1] >= len(chances):
        raise ValueError(f"probabilities are those of {len(chances)} classes, labels hold {present}")
    parts = [_components(classes == k, k, None if chances is None else chances[k], min_area) for k in present]
    boxes, classes_found, scores, areas = (np.concatenate(column) for column in zip(_NONE, *parts, strict=True))
    order = np.lexsort((-areas, -scores))  # stable: then by class, then from top to bottom
    found = {"boxes": boxes[order], "labels": classes_found[order], "scores": scores[order], "areas": areas[order]}
    return {name: torch.from_numpy(array).to(labels.device) for name, array in found.items()}


# Boxes, labels, scores and areas; of no components.
Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
_NONE: Columns = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64))


def _components(mask: np.ndarray, label: int, chances: np.ndarray | None, min_area: int) -> Columns:
    """Boxes, labels, scores and areas of the components of (H, W) `mask`."""
    count, index, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA].astype(np.int64)  # 0 is what is not in the mask
    corner, size = stats[1:, [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP]], stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    boxes = np.concatenate((corner, corner + size), 1).astype(np.float32)
    scores = np.ones(count - 1, np.float32)
    if chances is not None:
        totals = np.bincount(index.ravel(), chances.ravel(), minlength=count)[1:]
        scores = (totals / areas).astype(np.float32)
    keep = areas >= min_area
    return boxes[keep], np.full(int(keep.sum()), label, np.int64), scores[keep], areas[keep]


def _check(labels: Tensor, probabilities: Tensor | None, min_area: int) -> None:
    if not all(isinstance(given, Tensor) for given in (labels, probabilities) if given is not None):
        raise ValueError(
            f"labels and probabilities must be torch tensors, got {type(labels).__name__}: torch.from_numpy"
        )
    if labels.ndim != 2 or labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise ValueError(f"labels must be (H, W) integers, got {labels.dtype} {tuple(labels.shape)}")
    if probabilities is not None and (probabilities.ndim != 3 or probabilities.shape[1:] != labels.shape):
        raise ValueError(
            f"probabilities must be (K, H, W) with (H, W) = {tuple(labels.shape)}, got {tuple(probabilities.shape)}"
        )
    if min_area < 1:
        raise ValueError(f"min_area must be at least 1 pixel, got {min_area}")
