"""Hard negative mining: of the many priors that are background, only the worst classified learn (Liu et al. 2016)."""

import torch
from torch import Tensor


@torch.no_grad()
def hard_negatives(loss: Tensor, positive: Tensor, negative: Tensor, *, ratio: int = 3, least: int = 0) -> Tensor:
    """The `ratio` times as many background priors as an image has positive ones, those with the highest loss.

    For example, an image with one positive prior, ratio 3 and losses of 5, 1, 4, 2 for four background priors: the
    first, third and fourth learn.

    Args:
        loss: (N, P) classification losses.
        positive, negative: (N, P) bool, which priors learn an object and which may learn background; others are none.
        ratio: negatives for each positive.
        least: negatives of an image with fewer positives, so that images without objects teach too.

    Returns:
        (N, P) bool; of equal losses any are taken, never more than an image has background priors.
    """
    order = loss.masked_fill(~negative, -torch.inf).argsort(1, descending=True)
    wanted = (ratio * positive.sum(1, keepdim=True)).clamp(min=least)
    first = torch.arange(loss.shape[1], device=loss.device) < wanted
    return torch.zeros_like(negative).scatter(1, order, first) & negative
