"""Letterboxing inside of an exported detector: images of any size in, boxes in their own pixels out.

Resizing is two products with matrices of weights, one for rows and one for columns, so it is what
`detseg.data.letterbox` does with OpenCV (areas where it shrinks, bilinear where it enlarges) in every engine.
"""

from typing import Any

import torch
from torch import Tensor, nn

from detseg.backbones.normalise import unit_images
from detseg.data.sample import PADDING


class Letterboxed(nn.Module):
    """A module with the outputs of `Final`, for images (N, C, H, W) of any size, uint8 or float in [0, 1]."""

    def __init__(self, final: Any, size: int) -> None:
        super().__init__()
        self.final, self.size = final, size

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        sides = torch._shape_as_tensor(images)[2:].double()
        fitted = (sides * (self.size / sides.max())).round().clamp(min=1)
        before = torch.div(self.size - fitted, 2, rounding_mode="floor")
        shrinks = sides.max() > self.size
        (rows, down), (columns, across) = (
            weights(images.shape[2 + i], sides[i], fitted[i], before[i], self.size, shrinks) for i in (0, 1)
        )
        inside = rows @ unit_images(images, torch.float32) @ columns.T
        covered = down[:, None] * across
        # Rounded as pixels are: the network was trained on those.
        square = ((inside * 255).round() + PADDING * (1 - covered)) / 255
        number, boxes, scores, labels, *masks = self.final(square)
        shift, scale = before[[1, 0, 1, 0]].float(), (fitted / sides)[[1, 0, 1, 0]].float()
        limit = sides[[1, 0, 1, 0]].float()
        boxes = torch.minimum(((boxes - shift) / scale).clamp(min=0), limit)
        if not masks:
            return number, boxes, scores, labels
        return number, boxes, scores, labels, masks[0], (masks[1] - shift) / scale


def weights(
    count: int, side: Tensor, fitted: Tensor, before: Tensor, size: int, shrinks: Tensor
) -> tuple[Tensor, Tensor]:
    """How much of each of `count` pixels of a side of an image each of `size` pixels of the square sees.

    Args:
        count, side: pixels of the image's side, as a number and as a tensor.
        fitted, before: pixels of it in the square, and those in front.
        shrinks: bool; areas are averaged then, else it is bilinear.

    Returns:
        (size, count) float32, rows of zeros outside of the image, and (size,) which rows are inside, as 0 and 1.
    """
    place, pixel = torch.arange(size).double() - before, torch.arange(count).double()
    step = side / fitted
    first, last = place[:, None] * step, (place[:, None] + 1) * step
    area = (torch.minimum(last, pixel + 1) - torch.maximum(first, pixel)).clamp(min=0) / step
    centre = torch.minimum(((place + 0.5) * step - 0.5).clamp(min=0), side - 1)
    linear = (1 - (centre[:, None] - pixel).abs()).clamp(min=0)
    inside = ((place >= 0) & (place < fitted)).float()
    return torch.where(shrinks, area, linear).float() * inside[:, None], inside
