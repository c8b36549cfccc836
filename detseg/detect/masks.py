"""Instance masks as models give them, and in the pixels of an image.

A detector gives each object a small map of probabilities (h, w) and the region xyxy that the map lies over: its own box
(Mask R-CNN) or the whole input (YOLACT). `paste_masks` lays it into an image of any size, cut to the object's box.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

THRESHOLD = 0.5


def paste_masks(
    masks: Sequence[Tensor] | Tensor,
    regions: Tensor,
    boxes: Tensor,
    size: Sequence[int],
    *,
    threshold: float = THRESHOLD,
) -> Tensor:
    """Masks (D, H, W) bool in an image of (H, W) = `size`: where the probability is above the threshold.

    Each pixel takes the probability at its centre, bilinear between the centres of the map's cells and towards 0 beyond
    its border, without rounding boxes to pixels (as Wu et al. 2019, Detectron2; He et al. 2017 round).

    Args:
        masks: (D, h, w) probabilities, or bool; or D maps (h, w) of different sizes.
        regions: (D, 4) xyxy in the image's pixels: what each map lies over.
        boxes: (D, 4) xyxy: pixels whose centre lies outside are not the object's.
    """
    height, width = (int(side) for side in size)
    result = torch.zeros(len(masks), height, width, dtype=torch.bool, device=boxes.device)
    for whole, (x, y, part) in zip(result, _windows(masks, regions, boxes, (height, width), threshold), strict=True):
        whole[y : y + part.shape[0], x : x + part.shape[1]] = part
    return result


def encode_masks(
    masks: Sequence[Tensor] | Tensor,
    regions: Tensor,
    boxes: Tensor,
    size: Sequence[int],
    *,
    threshold: float = THRESHOLD,
) -> list[dict[str, Any]]:
    """What `paste_masks` gives as D compressed COCO run lengths, in time and memory that grow with the boxes alone."""
    from pycocotools import mask as coco

    height, width = (int(side) for side in size)
    plain = [
        {"size": [height, width], "counts": _counts(x, y, part.cpu().numpy(), (height, width))}
        for x, y, part in _windows(masks, regions, boxes, (height, width), threshold)
    ]
    return [dict(code) for code in coco.frPyObjects(plain, height, width)] if plain else []


def _counts(x: int, y: int, part: np.ndarray, size: tuple[int, int]) -> list[int]:
    """Run lengths, down the columns, of a mask of (H, W) = `size` that is `part` (h, w) at x, y."""
    height, width = size
    padded = np.pad(part, ((1, 1), (0, 0)))
    column, row = np.nonzero((padded[1:] != padded[:-1]).T)
    edges = (column + x) * height + row + y
    # A run to the end of a column and one from the start of the next are one.
    joined = np.flatnonzero(edges[1:] == edges[:-1])
    edges = np.delete(edges, np.concatenate([joined, joined + 1]))
    counts: list[int] = np.diff(edges, prepend=0, append=height * width).tolist()
    return counts if counts[-1] else counts[:-1]


def _windows(
    masks: Sequence[Tensor] | Tensor, regions: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float
) -> Iterator[tuple[int, int, Tensor]]:
    """Of each mask x, y and the part (h, w) bool of the image there that holds all of it; one after another.

    Hundreds of masks at the size of a photo need gigabytes.
    """
    height, width = size
    first = (boxes - 0.5).ceil().clamp(min=0).long()  # the first pixel whose centre lies inside, and the first beyond
    for mask, region, (x1, y1, x2, y2) in zip(masks, regions, first.tolist(), strict=True):
        x2, y2 = min(x2, width), min(y2, height)
        if x1 < x2 and y1 < y2:
            yield x1, y1, _sampled(mask, region, (x1, y1, x2, y2)) > threshold
        else:
            yield 0, 0, torch.zeros(0, 0, dtype=torch.bool, device=boxes.device)


def _sampled(mask: Tensor, region: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """Probabilities at the centres of the pixels of a window x1, y1, x2, y2.

    Rows and columns are interpolated one after the other, as products with matrices: much faster than `grid_sample`.
    """
    x1, y1, x2, y2 = window
    left, top, right, bottom = region.float()
    across = _weights(x1, x2, left, right, mask.shape[1])
    return _weights(y1, y2, top, bottom, mask.shape[0]) @ mask.float() @ across.T


def _weights(first: int, end: int, low: Tensor, high: Tensor, cells: int) -> Tensor:
    """(end - first, cells) how much each cell from `low` to `high` counts at the centre of each pixel."""
    pixels = torch.arange(first, end, device=low.device) + 0.5
    place = (pixels - low) / (high - low).clamp(min=1e-6) * cells - 0.5
    return (1 - (place[:, None] - torch.arange(cells, device=low.device)).abs()).clamp(min=0)
