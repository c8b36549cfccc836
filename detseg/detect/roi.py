"""Regions of interest: the part of a pyramid's maps under a box, brought to one size (He et al. 2017, section 3)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detseg.tracing import is_traced

# A box of this side is cut from the map of stride 16, half as large ones from that of stride 8, and so on (Lin et al.
# 2017, equation 1): ImageNet's pretraining sees images of 224 pixels.
CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4


def level_of(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """(R,) int64 which of the maps each box (R, 4) xyxy is cut from; strides are powers of two, the finest first."""
    first, last = (int(math.log2(strides[i])) for i in (0, -1))
    side = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    level = (CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIDE) + 1e-6).floor()
    return level.clamp(first, last).long() - first


def align(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, image: Tensor, size: int, *, sampling: int = 2
) -> Tensor:
    """Features (R, C, `size`, `size`) under boxes (R, 4) xyxy in pixels, of images (R,), by RoIAlign; float32.

    Args:
        maps: (N, C, H, W) of each stride, finest first.
        strides: in pixels.
        boxes, image: R regions, and whose.
        size: cells a side.
        sampling: bilinear samples a side of a cell, averaged.
    """
    with torch.autocast(boxes.device.type, enabled=False):
        level, maps = level_of(boxes, strides), [x.float() for x in maps]
        if boxes.device.type == "cpu" and not is_traced(boxes):
            from detseg.detect.roi_on_cpu import AlignOnCpu  # here: it loads numba, half a second

            found: Tensor = AlignOnCpu.apply(boxes, image, level, strides, size, sampling, *maps)
            return found
        return _by_torchvision(maps, strides, boxes, image, level, size, sampling)


def _by_torchvision(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    size: int,
    sampling: int,
) -> Tensor:
    """`align` by torchvision's operator: on GPUs, and where torch traces the call."""
    from torchvision.ops import roi_align  # here: it takes seconds to load

    regions = torch.cat([image[:, None].to(boxes.dtype), boxes], 1)
    result = boxes.new_zeros(boxes.shape[0], maps[0].shape[1], size, size)
    for i, (x, stride) in enumerate(zip(maps, strides, strict=True)):
        (here,) = torch.where(level == i)
        found = roi_align(x, regions[here], (size, size), 1 / stride, sampling)
        result = result.index_copy(0, here, found)
    return result
