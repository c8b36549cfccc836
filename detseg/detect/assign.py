"""Which predictions learn which object: task-aligned assignment among the cells round an object's centre.

An object may be learnt by the cells within `reach` of the one that holds its centre, on every level, with every
anchor. Among those candidates the `top_k` with the best alignment ``probability ** alpha * IoU ** beta`` between
what the network already says and the object are chosen (TOOD, Feng et al. 2021, arXiv:2108.07755). Only candidates
are looked at, so the cost grows with the number of objects and not with the size of the grid, and shapes depend on
the number of objects alone: nothing here waits for a GPU.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from detseg.boxes import paired_iou
from detseg.detect.grid import Grid


@dataclass(frozen=True)
class Assignment:
    """Pairs of M objects with up to k predictions each.

    Attributes:
        prediction: (M, k) int64 index into the flattened (N · P) predictions of the batch.
        quality: (M, k) float32 in [0, 1], the target of objectness and the weight in the losses; 0 = not a pair.
    """

    prediction: Tensor
    quality: Tensor


def candidates(grid: Grid, boxes: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """The predictions that may learn each object.

    Args:
        grid: the cells and anchors of all levels.
        boxes: (M, 4) xyxy.
        reach: how many cells to each side of the centre's cell take part.

    Returns:
        (M, C) int64 indices into the P predictions of one image and (M, C) bool: inside the grid.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    steps = torch.arange(-reach, reach + 1, device=boxes.device)
    indices, inside, first = [], [], 0
    for (height, width), stride, anchors in zip(grid.sizes, grid.strides, grid.anchors_per_level, strict=True):
        column = (centres[:, 0] / stride).long().clamp(0, width - 1)[:, None] + steps  # (M, 2r+1)
        row = (centres[:, 1] / stride).long().clamp(0, height - 1)[:, None] + steps
        valid = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None, :]
        cell = row.clamp(0, height - 1)[:, :, None] * width + column.clamp(0, width - 1)[:, None, :]
        anchor = torch.arange(anchors, device=boxes.device)
        indices.append((first + cell[..., None] * anchors + anchor).flatten(1))
        inside.append(valid[..., None].expand(*valid.shape, anchors).flatten(1))
        first += height * width * anchors
    return torch.cat(indices, 1), torch.cat(inside, 1)


@torch.no_grad()
def assign(
    grid: Grid,
    predicted: Tensor,
    probabilities: Tensor,
    boxes: Tensor,
    labels: Tensor,
    image: Tensor,
    usable: Tensor,
    *,
    reach: int = 1,
    top_k: int = 10,
    alpha: float = 0.5,
    beta: float = 4.0,
) -> Assignment:
    """Choose the predictions that learn each object.

    Args:
        grid: the cells and anchors of all levels, P predictions an image.
        predicted: (N, P, 4) float32 decoded boxes.
        probabilities: (N, P, K) float32, objectness times class probability.
        boxes: (M, 4) float32 xyxy, the objects of the whole batch.
        labels: (M,) int64.
        image: (M,) int64, each object's image in the batch.
        usable: (M,) bool; False (crowd regions) is never assigned.
        reach: cells to each side of the centre's cell that take part.
        top_k: at most this many predictions an object.
        alpha: weight of the probability in the alignment.
        beta: weight of the IoU in the alignment.

    A prediction that several objects choose goes to the one it is best aligned with (the first of equals).
    """
    objects, (total, per_image) = len(boxes), predicted.shape[:2]
    index, valid = candidates(grid, boxes, reach)
    flat = image[:, None] * per_image + index
    chosen = predicted.reshape(-1, 4)[flat]
    iou = paired_iou(chosen.reshape(-1, 4), boxes.repeat_interleave(index.shape[1], 0)).view_as(flat).clamp(min=0)
    probability = probabilities[image[:, None], index, labels[:, None]]
    # A tiny floor keeps an object assignable that no prediction overlaps yet.
    alignment = (probability.pow(alpha) * iou.pow(beta) + 1e-9) * (valid & usable[:, None])

    alignment, best = alignment.topk(min(top_k, index.shape[1]), 1)
    flat, iou = flat.gather(1, best), iou.gather(1, best)
    alignment = alignment * _is_best_claim(flat, alignment, total * per_image)

    # Scaled so that an object's best-aligned prediction aims at its best IoU (TOOD, section 3.3).
    strongest = alignment.amax(1, keepdim=True).clamp(min=1e-12)
    best_iou = (iou * (alignment > 0)).amax(1, keepdim=True)
    quality = alignment / strongest * best_iou.clamp(min=1e-3)
    return Assignment(flat.view(objects, -1), quality.view(objects, -1))


def _is_best_claim(flat: Tensor, alignment: Tensor, size: int) -> Tensor:
    """(M, k) bool: no other object claims this prediction with a better alignment (first of equals wins)."""
    claims, strength = flat.flatten(), alignment.flatten()
    strongest = strength.new_zeros(size).scatter_reduce(0, claims, strength, "amax")
    wins = (strength > 0) & (strength == strongest[claims])
    order = torch.arange(len(claims), device=flat.device)
    contender = torch.where(wins, order, len(claims))
    first = torch.full((size,), len(claims), device=flat.device).scatter_reduce(0, claims, contender, "amin")
    return (wins & (order == first[claims])).view_as(alignment)
