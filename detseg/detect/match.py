"""Which priors (anchors, default boxes, proposals) learn which object, by IoU (Ren et al. 2015, section 3.1.2).

A prior learns the object it overlaps most, if by at least `high`; overlapping none by `low` it is background, in
between it is neither. With `claim`, each object also takes the prior that overlaps it most, so that none goes unlearnt
(the bipartite step of SSD, Liu et al. 2016, section 2.2). Priors that lie in crowd regions are no background.

All images of a batch at once; shapes follow from the number of objects alone: nothing here waits for a GPU.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from detseg.boxes import box_iou
from detseg.detect.model import FlatTargets

# A prior with this share of its own area in a crowd region is no background. The share follows from the IoU, so that it
# is known to some rounding.
IN_CROWD, ROUNDING = 0.5, 1e-5


class Matches(NamedTuple):
    """What each of P priors of N images learns."""

    object: Tensor  # (N, P) int64, position among the batch's M objects; means something where `positive`
    positive: Tensor  # (N, P) bool: learns the object
    negative: Tensor  # (N, P) bool: background


@torch.no_grad()
def match(
    priors: Tensor, objects: FlatTargets, images: int, *, high: float, low: float, claim: bool = False
) -> Matches:
    """Match the priors of N = `images` images with the M objects of the batch.

    Args:
        priors: (P, 4) xyxy, the same for all images, or (N, P, 4).
        objects: of the batch; crowds are matched to nothing.
        high, low: IoU from which a prior is positive, and below which it is background.
        claim: each object takes its best prior in any case, if they overlap; of several that want one prior, the one
            with the highest IoU gets it, of equals the first.
    """
    count, total = priors.shape[-2], len(objects.boxes)
    of_object = priors if priors.ndim == 2 else priors[objects.image]
    iou = box_iou(objects.boxes, of_object)  # (M, P)
    in_crowd = _share(iou, objects.boxes, of_object) >= IN_CROWD - ROUNDING
    iou = iou.masked_fill(objects.iscrowd[:, None], -1.0)
    rows = torch.arange(total, device=iou.device)[:, None].expand_as(iou)
    image = objects.image[:, None].expand_as(iou)

    best = iou.new_full((images, count), -1.0).scatter_reduce(0, image, iou, "amax")
    wanted = torch.where(iou == best[objects.image], rows, total)
    chosen = rows.new_full((images, count), total).scatter_reduce(0, image, wanted, "amin")
    positive = best >= high
    negative = best < low
    if total:
        crowd = (in_crowd & objects.iscrowd[:, None]).float()
        negative &= torch.zeros_like(best).scatter_reduce(0, image, crowd, "amax") == 0
    if claim and total and count:
        claimed = _claims(iou, objects.image, images)
        taken = claimed < total
        chosen, positive = torch.where(taken, claimed, chosen), positive | taken
    return Matches(chosen.clamp(max=max(0, total - 1)), positive, negative & ~positive)


def _claims(iou: Tensor, image: Tensor, images: int) -> Tensor:
    """(N, P) the object that takes a prior because no other overlaps it more; M where there is none."""
    total, count = iou.shape
    quality, prior = iou.max(1)
    place = image * count + prior
    highest = iou.new_zeros(images * count).scatter_reduce(0, place, quality, "amax")
    wins = (quality > 0) & (quality == highest[place])
    rows = torch.arange(total, device=iou.device)
    claimed = rows.new_full((images * count,), total)
    return claimed.scatter_reduce(0, place, torch.where(wins, rows, total), "amin").view(images, count)


def _share(iou: Tensor, boxes: Tensor, priors: Tensor) -> Tensor:
    """(M, P) share of each prior's area in each box, from their IoU."""
    areas = [(side[..., 2:] - side[..., :2]).prod(-1) for side in (boxes[:, None], priors)]
    return iou / (1 + iou) * (areas[0] + areas[1]) / areas[1].clamp(min=1e-9)
