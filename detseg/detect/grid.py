"""The coder of a YOLO-style head: the layout of its grid, logits to boxes, and boxes to logits.

For a cell with top-left corner (cx, cy), an anchor (aw, ah) and the logits (tx, ty, tw, th)::

    x = cx + stride * offset(tx)    w = aw * exp(tw)        offset(t) = (sigmoid(t) - 1/2) * 2 * reach + 1/2
    y = cy + stride * offset(ty)    h = ah * exp(th)

`reach` is how far, in cells, the centre of a box may lie from the centre of its cell. ``reach = 0.5`` gives the
logistic of YOLOv2 and v3 (Redmon & Farhadi, arXiv:1612.08242, 1804.02767): the centre stays inside the cell. With
the default of 1 the four cells nearest to a centre can all point at it, so that an object has several cells to be
learnt by, and none has to push its logit to infinity for a centre on its border.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# exp(4.135) = 62.5: a box 62 times its anchor is a diverging network, and exp of more overflows soon.
MAX_LOG_SCALE = math.log(1000 / 16)


@dataclass(frozen=True)
class Grid:
    """All P = Σ H·W·A predictions of an input size, level by level, row by row, anchor by anchor.

    Attributes:
        corners: (P, 2) float32, the cells' top-left corners (x, y) in pixels.
        stride: (P, 1) float32.
        anchors: (P, 2) float32, width and height in pixels.
        sizes: (rows, columns) of each level.
        strides: stride of each level.
        anchors_per_level: number of anchors of each level.
    """

    corners: Tensor
    stride: Tensor
    anchors: Tensor
    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    anchors_per_level: tuple[int, ...]


def make_grid(sizes: Sequence[tuple[int, int]], strides: Sequence[int], anchors: Sequence[Tensor]) -> Grid:
    """Lay out the cells for feature maps of the given (rows, columns); ``anchors`` holds (A, 2) for each level."""
    corners, stride, repeated = [], [], []
    for (rows, columns), step, level in zip(sizes, strides, anchors, strict=True):
        y, x = torch.meshgrid(
            torch.arange(rows, device=level.device, dtype=torch.float32),
            torch.arange(columns, device=level.device, dtype=torch.float32),
            indexing="ij",
        )
        cells = torch.stack((x, y), -1).view(-1, 1, 2) * step
        corners.append(cells.expand(-1, len(level), 2).reshape(-1, 2))
        repeated.append(level.float().expand(rows * columns, -1, 2).reshape(-1, 2))
        stride.append(torch.full_like(corners[-1][:, :1], step))
    return Grid(
        torch.cat(corners),
        torch.cat(stride),
        torch.cat(repeated),
        tuple((int(r), int(c)) for r, c in sizes),
        tuple(int(s) for s in strides),
        tuple(len(a) for a in anchors),
    )


def decode(logits: Tensor, grid: Grid, reach: float) -> Tensor:
    """Logits (..., P, 4) of (tx, ty, tw, th) to boxes (..., P, 4) xyxy in pixels; float32 whatever comes in."""
    logits = logits.float()
    offset = (logits[..., :2].sigmoid() - 0.5) * (2 * reach) + 0.5
    centre = grid.corners + grid.stride * offset
    half = grid.anchors * logits[..., 2:].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp() / 2
    return torch.cat((centre - half, centre + half), -1)


def encode(boxes: Tensor, grid: Grid, reach: float, eps: float = 1e-6) -> Tensor:
    """Inverse of `decode`: ``decode(encode(b)) == b`` for boxes whose centre the cell can reach.

    Args:
        boxes: (..., P, 4) xyxy, one for each prediction of the grid.
        grid: the layout.
        reach: as in `decode`.
        eps: offsets are kept this far from the ends of the logistic's range, where its inverse is infinite.
    """
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    offset = (centre - grid.corners) / grid.stride
    position = ((offset - 0.5) / (2 * reach) + 0.5).clamp(eps, 1 - eps)
    return torch.cat((torch.logit(position), torch.log(size / grid.anchors)), -1)
