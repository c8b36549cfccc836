"""The default boxes of SSD: a few shapes at every cell of every map, small ones on the fine maps (Liu et al. 2016).

Section 2.2 of the paper, arXiv:1512.02325: the boxes of map k have the scale s_k, a share of the input's side, and the
aspect ratios a, so sides of s_k·√a and s_k/√a; a second square has the scale √(s_k·s_{k+1}).
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

Shapes = list[list[list[float]]]  # of each map, finest first, the (width, height) of its boxes in pixels


def even_scales(levels: int, lowest: float, highest: float) -> list[float]:
    """Scales of `levels` maps at equal distances (equation 4 of the paper), and 1 for one map more."""
    step = (highest - lowest) / max(1, levels - 1)
    return [lowest + step * level for level in range(levels)] + [1.0]


def default_shapes(scales: Sequence[float], ratios: Sequence[Sequence[float]], size: int) -> Shapes:
    """Widths and heights of the boxes of each map in pixels.

    Args:
        scales: of each map and, for its second square, of one more, as shares of `size`.
        ratios: aspect ratios of each map besides 1; each brings a wide and a high box.
        size: side of the input in pixels, which no box exceeds.

    Raises:
        ValueError: other than one more scale than there are ratios.
    """
    if len(scales) != len(ratios) + 1:
        raise ValueError(f"{len(ratios)} maps need {len(ratios) + 1} scales, got {len(scales)}")
    shapes = []
    for (scale, following), of_map in zip(itertools.pairwise(scales), ratios, strict=True):
        squares = [scale, math.sqrt(scale * following)]
        sides = [(side, side) for side in squares]
        for root in map(math.sqrt, of_map):
            sides += [(scale * root, scale / root), (scale / root, scale * root)]
        shapes.append([[min(1.0, side) * size for side in pair] for pair in sides])
    return shapes


def lay_out(
    shapes: Sequence[Tensor], maps: Sequence[Sequence[int]], size: Sequence[int], steps: Sequence[float] = ()
) -> Tensor:
    """Default boxes (P, 4) xyxy float32 in pixels, map by map, row by row, cell by cell.

    Args:
        shapes: of each map, (A, 2) widths and heights in pixels.
        maps: height and width of each, in cells.
        size: height and width of the image in pixels.
        steps: pixels from cell to cell on the first maps; the cells of the others divide the image evenly.
    """
    boxes = []
    for level, (sides, (rows, columns)) in enumerate(zip(shapes, maps, strict=True)):
        down, across = (steps[level],) * 2 if level < len(steps) else (size[0] / rows, size[1] / columns)
        y = (torch.arange(rows, device=sides.device) + 0.5) * down
        x = (torch.arange(columns, device=sides.device) + 0.5) * across
        grid = torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], -1)
        centres = grid.reshape(-1, 1, 2)
        boxes.append(torch.cat([centres - sides / 2, centres + sides / 2], -1).reshape(-1, 4))
    return torch.cat(boxes)
