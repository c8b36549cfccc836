"""Instance masks as models give them, and in the pixels of an image.

A detector gives each object a small map of probabilities (h, w) and the region xyxy that the map lies over: its own box
(Mask R-CNN) or the whole input (YOLACT). `paste_masks` lays it into an image of any size, cut to the object's box.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

THRESHOLD = 0.5


def paste_masks(
    masks: Tensor, regions: Tensor, boxes: Tensor, size: Sequence[int], *, threshold: float = THRESHOLD
) -> Tensor:
    """Masks (D, H, W) bool in an image of (H, W) = `size`: where the probability is above the threshold.

    Each pixel takes the probability at its centre, bilinear between the centres of the map's cells and towards 0 beyond
    its border, without rounding boxes to pixels (as Wu et al. 2019, Detectron2; He et al. 2017 round).

    Args:
        masks: (D, h, w) probabilities, or bool.
        regions: (D, 4) xyxy in the image's pixels: what each map lies over.
        boxes: (D, 4) xyxy: pixels whose centre lies outside are not the object's.
    """
    height, width = (int(side) for side in size)
    result = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    first = (boxes - 0.5).ceil().clamp(min=0).long()  # the first pixel whose centre lies inside, and the first beyond
    for i, (x1, y1, x2, y2) in enumerate(first.tolist()):
        x2, y2 = min(x2, width), min(y2, height)
        if x1 < x2 and y1 < y2:  # one by one: hundreds of masks at the size of a photo need gigabytes
            result[i, y1:y2, x1:x2] = _sampled(masks[i], regions[i], (x1, y1, x2, y2)) > threshold
    return result


def _sampled(mask: Tensor, region: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """Probabilities at the centres of the pixels of a window x1, y1, x2, y2."""
    x1, y1, x2, y2 = window
    low, size = region[:2].float(), (region[2:] - region[:2]).float().clamp(min=1e-6)
    x = (torch.arange(x1, x2, device=mask.device) + 0.5 - low[0]) / size[0] * 2 - 1
    y = (torch.arange(y1, y2, device=mask.device) + 0.5 - low[1]) / size[1] * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    return F.grid_sample(mask[None, None].float(), grid[None], align_corners=False)[0, 0]
