"""Instance masks as models give them, and in the pixels of an image.

A detector gives each object a small map of probabilities (h, w) and the region xyxy that the map lies over: its own box
(Mask R-CNN) or the whole input (YOLACT). `paste_masks` lays it into an image of any size, cut to the object's box.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

THRESHOLD = 0.5
Maps = Tensor | Sequence[Tensor]
"""(D, h, w) probabilities, or D of (h, w), each of a size of its own."""


def paste_masks(
    masks: Maps, regions: Tensor, boxes: Tensor, size: Sequence[int], *, threshold: float = THRESHOLD
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
    result = np.zeros((len(masks), height, width), bool)
    for part, (x, y, columns) in zip(result, _windows(masks, regions, boxes, (height, width), threshold), strict=True):
        part[y : y + columns.shape[1], x : x + columns.shape[0]] = columns.T
    return torch.from_numpy(result).to(boxes.device)


def paste_run_lengths(
    masks: Maps, regions: Tensor, boxes: Tensor, size: Sequence[int], *, threshold: float = THRESHOLD
) -> list[dict[str, Any]]:
    """What `paste_masks` gives as COCO's compressed run lengths: a few kilobytes each, however large the image."""
    from detseg.detect.mask_loops import write_runs

    height, width = (int(side) for side in size)
    result = []
    for x, y, columns in _windows(masks, regions, boxes, (height, width), threshold):
        text = np.empty(7 * (columns.size + len(columns) + 1), np.uint8)
        end = write_runs(columns, x, y, height, height * width, text)
        result.append({"size": [height, width], "counts": text[:end].tobytes()})
    return result


def _windows(
    masks: Maps, regions: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float
) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Left and top of the pixels whose centres are in each box, and where in them its mask is, (width, height).

    One by one: hundreds of masks at the size of a photo need gigabytes.
    """
    from detseg.detect.mask_loops import draw_window

    height, width = size
    maps = (mask.detach().cpu().float().contiguous().numpy() for mask in masks)
    # The first pixel whose centre lies inside, and the first beyond.
    corners = (boxes.detach().cpu().double().numpy() - 0.5).clip(0, None)
    windows = np.minimum(np.ceil(corners), [width, height] * 2).astype(np.int64)
    for mask, region, window in zip(maps, regions.detach().cpu().double().numpy(), windows, strict=True):
        columns = np.zeros((window[2:] - window[:2]).clip(0), bool)
        if columns.size:
            draw_window(mask, region, window, threshold, columns)
        yield int(window[0]), int(window[1]), columns
