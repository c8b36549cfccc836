"""Random samples of priors to learn from, so that background does not outweigh objects (Girshick 2015, section 2.3)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """At most S of the P priors of each of N images; those that are positive come first."""

    places: Tensor  # (N, S) int64 positions among the P
    chosen: Tensor  # (N, S) bool: there were so many


@torch.no_grad()
def sample(positive: Tensor, negative: Tensor, count: int, share: float) -> Sample:
    """Draw S = min(`count`, P) of each image's priors with torch's generator, each as likely as any other of its kind.

    Args:
        positive, negative: (N, P) bool; what is neither is not drawn.
        count: how many, fewer where there are not so many.
        share: at most this part of `count` is positive.
    """
    count = min(count, positive.shape[1])
    keys = torch.rand(positive.shape, device=positive.device)
    most = min(int(count * share), positive.shape[1])
    found, places = keys.masked_fill(~positive, -1.0).topk(most, 1)
    order = keys.masked_fill(~negative, -1.0)
    # Keys of the drawn positives are 2 to 3, of the negatives 0 to 1, of all others -1.
    order = order.scatter(1, places, torch.where(found >= 0, found + 2, order.gather(1, places)))
    best, index = order.topk(count, 1)
    return Sample(index, best >= 0)
