"""RoIAlign on CPUs, compiled by numba: what torchvision's operator computes, with all channels of a cell at a time.

On maps that hold a cell's channels together it is several times as fast, forward and backward, as the operator, which
goes channel by channel. Samples of one cell of the result that lie between the same cells of the map are added first.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.kernels import compiled, helper


class AlignOnCpu(torch.autograd.Function):
    """``apply(boxes, image, level, strides, size, sampling, *maps)``, see `detseg.detect.roi.align`; all float32.

    `level` (R,) says from which of the maps (N, C, H, W) each box is cut. The result (R, C, size, size) is
    channels_last.
    """

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, image: Tensor, level: Tensor, *rest: Any) -> Tensor:  # noqa: D102
        strides, size, sampling, *maps = rest
        ctx.save_for_backward(boxes, image, level)
        ctx.strides, ctx.sampling, ctx.shapes = strides, sampling, [x.shape for x in maps]
        result = torch.empty(len(boxes), size, size, maps[0].shape[1])
        rows = [x.detach().permute(0, 2, 3, 1).contiguous().numpy() for x in maps]
        _each_level(_cut, rows, (boxes, image, level), strides, sampling, result.numpy())
        return result.permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        given = gradient.float().permute(0, 2, 3, 1).contiguous().numpy()
        to_maps = [torch.zeros(n, height, width, channels) for n, channels, height, width in ctx.shapes]
        _each_level(_add, [x.numpy() for x in to_maps], ctx.saved_tensors, ctx.strides, ctx.sampling, given)
        return *([None] * 6), *(x.permute(0, 3, 1, 2) for x in to_maps)


def _each_level(
    kernel: Any,
    maps: Sequence[NDArray[np.float32]],
    regions: Sequence[Tensor],
    strides: Sequence[int],
    sampling: int,
    cells: NDArray[np.float32],
) -> None:
    """Run a kernel on the boxes of each map (N, H, W, C); `cells` (R, S, S, C) are of all boxes."""
    boxes, image, level = (part.detach().numpy() for part in regions)
    boxes = np.ascontiguousarray(boxes, np.float32)
    room = (2, cells.shape[1], 2 * sampling)
    places, weights = np.empty(room, np.int64), np.empty(room, np.float32)
    for i, (x, stride) in enumerate(zip(maps, strides, strict=True)):
        kernel(x, boxes, image, np.flatnonzero(level == i), np.float32(1 / stride), sampling, places, weights, cells)


@helper
def _samples(low, high, count, sampling, places, weights):
    """Which cells of an axis of `count` cells each of S parts of low to high is made of, and how much of each.

    `places` and `weights` (S, 2·sampling); a place may have the weight 0.
    """
    parts = len(places)
    part = max(high - low, np.float32(1)) / np.float32(parts)
    share = np.float32(1) / np.float32(sampling)
    for p in range(parts):
        for k in range(sampling):
            at = low + np.float32(p) * part + (np.float32(k) + np.float32(0.5)) * part / np.float32(sampling)
            inside = share if -1 <= at <= count else np.float32(0)
            at = min(max(at, np.float32(0)), np.float32(count - 1))
            first = int(at)
            second = min(first + 1, count - 1)
            beyond = at - np.float32(first)
            places[p, 2 * k], places[p, 2 * k + 1] = first, second
            weights[p, 2 * k], weights[p, 2 * k + 1] = (1 - beyond) * inside, beyond * inside
        for k in range(1, 2 * sampling):  # cells named twice are looked at once
            for j in range(k):
                if places[p, j] == places[p, k]:
                    weights[p, j] += weights[p, k]
                    weights[p, k] = 0
                    break


@compiled
def _cut(maps, boxes, image, rows, scale, sampling, places, weights, cells):
    """Fill `cells[r]` for the boxes r in `rows` from a map (N, H, W, C)."""
    for r in rows:
        x = maps[image[r]]
        _samples(boxes[r, 1] * scale, boxes[r, 3] * scale, x.shape[0], sampling, places[0], weights[0])
        _samples(boxes[r, 0] * scale, boxes[r, 2] * scale, x.shape[1], sampling, places[1], weights[1])
        for p in range(cells.shape[1]):
            for q in range(cells.shape[2]):
                cell = cells[r, p, q]
                cell[:] = 0
                for i in range(2 * sampling):
                    for j in range(2 * sampling):
                        weight = weights[0, p, i] * weights[1, q, j]
                        if weight != 0:
                            row = x[places[0, p, i], places[1, q, j]]
                            for c in range(len(cell)):
                                cell[c] += weight * row[c]


@compiled
def _add(maps, boxes, image, rows, scale, sampling, places, weights, cells):
    """Add to a map's gradient (N, H, W, C) what `cells[r]`, that of the result, says of the boxes r in `rows`."""
    for r in rows:
        x = maps[image[r]]
        _samples(boxes[r, 1] * scale, boxes[r, 3] * scale, x.shape[0], sampling, places[0], weights[0])
        _samples(boxes[r, 0] * scale, boxes[r, 2] * scale, x.shape[1], sampling, places[1], weights[1])
        for p in range(cells.shape[1]):
            for q in range(cells.shape[2]):
                cell = cells[r, p, q]
                for i in range(2 * sampling):
                    for j in range(2 * sampling):
                        weight = weights[0, p, i] * weights[1, q, j]
                        if weight != 0:
                            row = x[places[0, p, i], places[1, q, j]]
                            for c in range(len(cell)):
                                row[c] += weight * cell[c]
