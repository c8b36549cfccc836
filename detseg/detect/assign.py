"""Target assignment: which predictions of the grid head learn which object.

An object is learnt by the cells whose centre lies within `reach` cells of its own (the four nearest for the
default of 1, as in YOLOv5; the one that holds it for 0.5, as in YOLOv2 and v3), on every level, by the anchors
whose shape has an IoU of at least `shape_iou` with it, and by its best anchor in any case. For example, with one
level of stride 8 and anchors of 16 x 16 and 64 x 64 px, an object of 20 x 16 px centred at (33, 30) lies in column 4
and row 3. The four cells nearest to its centre are columns 3 and 4, rows 3 and 4; the small anchor has a shape IoU of
0.8 and the large one 0.08, so the small anchors of these four cells learn it.

The choice depends on the objects alone, not on what the network predicts yet: every candidate is taught from the first
step on; a task-aligned assignment taught less in short runs. Shapes depend on the number of objects alone: nothing here
waits for a GPU.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detseg.detect.grid import Grid


@dataclass(frozen=True)
class Assignment:
    """Pairs of M objects with C candidate predictions each."""

    prediction: Tensor  # (M, C) int64 index into the flattened (N · P) predictions of the batch
    chosen: Tensor  # (M, C) bool: the prediction learns the object; no prediction learns two


def candidates(grid: Grid, boxes: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """The predictions in the cells round the centre of each of the boxes (M, 4) xyxy.

    (M, C) int64 index into the P predictions of one image, and (M, C) bool: in the grid, and the cell's centre within
    `reach` (at least 0.5) cells. The cell that holds the object's centre (or is nearest to it) always is.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    far = math.ceil(reach - 0.5)
    steps = torch.arange(-far, far + 1, device=boxes.device)
    indices, inside, first = [], [], 0
    for height, width, stride, anchors in grid.levels:
        near, cells = [], []
        for position, count in zip((centres / stride).unbind(1), (width, height), strict=True):
            cell = position.long().clamp(0, count - 1)[:, None] + steps  # (M, 2 · far + 1)
            distance = (position[:, None] - (cell + 0.5)).abs()
            near.append(((distance < reach) & (cell >= 0) & (cell < count)) | (steps == 0))
            cells.append(cell.clamp(0, count - 1))
        valid = near[1][:, :, None] & near[0][:, None, :]  # (M, rows, columns)
        cell = cells[1][:, :, None] * width + cells[0][:, None, :]
        anchor = torch.arange(anchors, device=boxes.device)
        indices.append((first + cell[..., None] * anchors + anchor).flatten(1))
        inside.append(valid[..., None].expand(*valid.shape, anchors).flatten(1))
        first += height * width * anchors
    return torch.cat(indices, 1), torch.cat(inside, 1)


@torch.no_grad()
def assign(
    grid: Grid,
    boxes: Tensor,
    image: Tensor,
    usable: Tensor,
    images: int,
    *,
    reach: float = 1.0,
    shape_iou: float = 0.4,
) -> Assignment:
    """Choose the predictions that learn each object.

    A prediction that several objects choose goes to the one whose shape fits best (the first of equals).

    Args:
        boxes, image: (M, 4) float32 xyxy of the batch's objects, and (M,) int64, their image among N = `images`.
        usable: (M,) bool; False (crowd regions) is never assigned.
        shape_iou: least IoU of a box and an anchor laid on the same centre.
    """
    index, near = candidates(grid, boxes, reach)
    fit = _shape_iou(boxes[:, 2:] - boxes[:, :2], grid.anchors[index])
    suits = (fit >= shape_iou) | (fit >= fit.amax(1, keepdim=True))
    flat = image[:, None] * len(grid.corners) + index
    quality = fit * (near & suits & usable[:, None])
    return Assignment(flat, _best_of_prediction(flat, quality, images * len(grid.corners)))


def _shape_iou(sizes: Tensor, anchors: Tensor) -> Tensor:
    """IoU (M, C) of boxes with sizes (M, 2) and anchors (M, C, 2) laid on the same centre."""
    overlap = torch.minimum(sizes[:, None], anchors).prod(-1)
    return overlap / (sizes.prod(-1)[:, None] + anchors.prod(-1) - overlap)


def _best_of_prediction(flat: Tensor, quality: Tensor, size: int) -> Tensor:
    """(M, C) bool: the pairs with the highest quality above 0 of their prediction; of equals the first."""
    predictions, values = flat.flatten(), quality.flatten()
    highest = values.new_zeros(size).scatter_reduce(0, predictions, values, "amax")
    is_best = (values > 0) & (values == highest[predictions])
    order = torch.arange(len(values), device=flat.device)
    position = torch.where(is_best, order, len(values))
    first = torch.full((size,), len(values), device=flat.device).scatter_reduce(0, predictions, position, "amin")
    return (is_best & (order == first[predictions])).view_as(quality)
