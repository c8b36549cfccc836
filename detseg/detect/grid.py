"""The coder of a YOLO-style head: the layout of its grid, logits to boxes, and boxes to logits.

For a cell with top-left corner (cx, cy), an anchor (aw, ah) and the logits (tx, ty, tw, th)::

    x = cx + stride * offset(tx)    w = aw * exp(tw)        offset(t) = (sigmoid(t) - 1/2) * 2 * reach + 1/2
    y = cy + stride * offset(ty)    h = ah * exp(th)

`reach` is how far, in cells, the centre of a box may lie from the centre of its cell. ``reach = 0.5`` gives the
logistic of YOLOv2 and v3 (Redmon & Farhadi, arXiv:1612.08242, 1804.02767): the centre stays inside the cell. With
the default of 1 the four cells nearest to a centre can all point at it.

A head may give each of the four numbers as a distribution over bins (Li et al. 2020, arXiv:2006.04388), which says more
than a number where an edge is doubtful. Its mean u, from -1 to 1, stands for::

    offset = u * reach + 1/2        w = aw * exp(u * SPAN)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# exp(4.135) = 62.5: a box 62 times its anchor is a diverging network, and exp of more overflows soon.
MAX_LOG_SCALE = math.log(1000 / 16)
# Bins reach from 0.14 to 7.4 times the anchor; the anchors are of the data.
SPAN = 2.0


@dataclass(frozen=True)
class Grid:
    """All P = Σ H·W·A predictions of an input size, level by level, row by row, anchor by anchor; float32 pixels."""

    corners: Tensor  # (P, 2) x and y of the cells' top-left corners
    stride: Tensor  # (P, 1)
    anchors: Tensor  # (P, 2) width and height
    levels: tuple[tuple[int, int, int, int], ...]  # rows, columns, stride and number of anchors of each

    def take(self, places: Tensor) -> "Grid":
        """The predictions at `places` (...), int64; without levels."""
        return Grid(self.corners[places], self.stride[places], self.anchors[places], ())


def make_grid(sizes: Sequence[tuple[int, int]], strides: Sequence[int], anchors: Sequence[Tensor]) -> Grid:
    """Lay out the cells for feature maps of the given (rows, columns); ``anchors`` holds (A, 2) for each level."""
    corners, stride, repeated, levels = [], [], [], []
    for (rows, columns), step, level in zip(sizes, strides, anchors, strict=True):
        sides = (torch.arange(count, device=level.device, dtype=torch.float32) for count in (rows, columns))
        y, x = torch.meshgrid(*sides, indexing="ij")
        cells = torch.stack((x, y), -1).view(-1, 1, 2) * step
        corners.append(cells.expand(-1, len(level), 2).reshape(-1, 2))
        repeated.append(level.float().expand(rows * columns, -1, 2).reshape(-1, 2))
        stride.append(torch.full_like(corners[-1][:, :1], step))
        levels.append((int(rows), int(columns), int(step), len(level)))
    return Grid(torch.cat(corners), torch.cat(stride), torch.cat(repeated), tuple(levels))


def decode(logits: Tensor, grid: Grid, reach: float) -> Tensor:
    """Logits (..., P, 4) of (tx, ty, tw, th), or (..., P, 4 * B) of their bins, to boxes (..., P, 4) xyxy in pixels.

    float32 whatever comes in.
    """
    logits = logits.float()
    if logits.shape[-1] == 4:
        offset = (logits[..., :2].sigmoid() - 0.5) * (2 * reach) + 0.5
        scale = logits[..., 2:].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp()
    else:
        chances = logits.unflatten(-1, (4, -1)).softmax(-1)
        means = chances @ torch.linspace(-1, 1, chances.shape[-1], device=logits.device)
        offset, scale = means[..., :2] * reach + 0.5, (means[..., 2:] * SPAN).exp()
    centre = grid.corners + grid.stride * offset
    half = grid.anchors * scale / 2
    return torch.cat((centre - half, centre + half), -1)


def encode(boxes: Tensor, grid: Grid, reach: float, eps: float = 1e-6) -> Tensor:
    """Inverse of `decode`, of boxes (..., P, 4) xyxy, one a prediction, whose centre the cell can reach.

    Offsets are kept `eps` from the ends of the logistic's range, where its inverse is infinite.
    """
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    offset = (centre - grid.corners) / grid.stride
    position = ((offset - 0.5) / (2 * reach) + 0.5).clamp(eps, 1 - eps)
    return torch.cat((torch.logit(position), torch.log(size / grid.anchors)), -1)


def means_of(boxes: Tensor, grid: Grid, reach: float) -> Tensor:
    """The means (..., P, 4), in -1..1, of the bins that stand for boxes (..., P, 4) xyxy, or come nearest to them."""
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    offset = (centre - grid.corners) / grid.stride
    return torch.cat(((offset - 0.5) / reach, torch.log(size / grid.anchors) / SPAN), -1).clamp(-1, 1)
