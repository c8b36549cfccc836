"""The region proposal network: boxes that may hold an object of any class (Ren et al. 2015, arXiv:1506.01497).

On the maps of a pyramid (Lin et al. 2017, arXiv:1612.03144): at each cell of each map, A anchors; for each an
objectness and four deltas (`detseg.detect.coder`). The best boxes of each map, and of those the best that do not
overlap much, are the proposals.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones.blocks import ResidualSeparable
from detseg.boxes import clip_boxes
from detseg.detect.coder import decode_deltas, encode_deltas
from detseg.detect.match import match
from detseg.detect.model import FlatTargets
from detseg.detect.nms import batched_nms
from detseg.detect.sample import sample
from detseg.together import divisor
from detseg.tracing import best_first

# Thresholds, counts and the loss's corner are those of the paper and of the implementations since (smooth L1 with
# beta = 1/9: Detectron); IoU 0.7 in non-max suppression keeps several proposals an object.
HIGH, LOW = 0.7, 0.3
SAMPLED, POSITIVE = 256, 0.5
BETA = 1 / 9
OVERLAP = 0.7
LEAST_SIDE = 1e-3


class ProposalHead(nn.Module):
    """From maps (N, C, H, W) to (N, P) objectness logits and (N, P, 4) deltas, P = Σ H·W·A, row by row.

    `published`: a dense convolution on each map, in place of a separable one.
    """

    def __init__(self, width: int, anchors: int, *, published: bool) -> None:
        super().__init__()
        dense = (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.body = nn.Sequential(*(dense if published else [ResidualSeparable(width, start_at_zero=False)]))
        self.objectness = nn.Conv2d(width, anchors, 1)
        self.boxes = nn.Conv2d(width, anchors * 4, 1)
        for layer in (*self.body, self.objectness, self.boxes):
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                layer.bias = nn.Parameter(torch.zeros(layer.out_channels))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See the class; float32."""
        objectness, deltas = [], []
        for x in map(self.body, maps):
            objectness.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.boxes(x).permute(0, 2, 3, 1).unflatten(3, (-1, 4)).flatten(1, 3))
        return torch.cat(objectness, 1).float(), torch.cat(deltas, 1).float()


def anchor_boxes(
    sizes: Sequence[tuple[int, int]], steps: Sequence[tuple[int, int]], anchors: Sequence[Tensor]
) -> list[Tensor]:
    """(H·W·A, 4) xyxy in pixels for each map: anchors centred on the top-left corner of each cell.

    Args:
        sizes: rows and columns of the maps.
        steps: pixels from cell to cell, down and across.
        anchors: (A, 2) widths and heights for each map.
    """
    result = []
    for (rows, columns), (down, across), level in zip(sizes, steps, anchors, strict=True):
        sides = (torch.arange(n, device=level.device) * step for n, step in ((rows, down), (columns, across)))
        y, x = torch.meshgrid(*sides, indexing="ij")
        corner = torch.stack([x, y], -1).view(-1, 1, 2)
        result.append(torch.cat([corner - level / 2, corner + level / 2], -1).reshape(-1, 4))
    return result


def published_anchors(sizes: Sequence[Sequence[float]], ratios: Sequence[float]) -> list[list[list[float]]]:
    """Widths and heights (levels, A, 2) of torchvision's anchors, ratio by ratio: half a side is a whole number.

    Args:
        sizes: for each level, roots of areas in pixels.
        ratios: of height to width.
    """
    shapes = torch.tensor([[ratio**-0.5, ratio**0.5] for ratio in ratios])[:, None]
    found: list[list[list[float]]] = [
        (2 * (shapes * torch.tensor(level)[:, None] / 2).round()).flatten(0, 1).tolist() for level in sizes
    ]
    return found


class Best(NamedTuple):
    """At most R of the P boxes of each of N images, best first."""

    places: Tensor  # (N, R) int64 positions among the P
    valid: Tensor  # (N, R) bool: there were so many


def keep_best(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    allowed: Tensor,
    count: int,
    iou_threshold: float,
    score_threshold: float | None = None,
) -> Best:
    """The R = min(`count`, P) best boxes of each image that non-max suppression within groups keeps.

    All images at once, into shapes that do not depend on how many there are.

    Args:
        boxes, scores: (N, P, 4) and (N, P).
        groups: (P,) int64 from 0 to P, such as classes: only boxes of one group suppress each other.
        allowed: (N, P) bool: others are left out, such as empty boxes, which suppress nothing before.
        count, iou_threshold, score_threshold: see `detseg.detect.nms.batched_nms`; `count` is an image's.
    """
    images, total = scores.shape
    apart = (groups + torch.arange(images, device=groups.device)[:, None] * (total + 1)).flatten()
    kept = batched_nms(boxes.flatten(0, 1), scores.flatten(), apart, iou_threshold, score_threshold=score_threshold)
    alive = torch.zeros(images * total, device=boxes.device).scatter(0, kept, 1.0)  # of bool no exporter can
    alive = (alive.view(images, total) > 0) & allowed
    index = best_first(scores.masked_fill(~alive, -torch.inf))[:, :count]
    return Best(index, alive.gather(1, index))


class Proposals(NamedTuple):
    """At most R proposals of each of N images, best first."""

    boxes: Tensor  # (N, R, 4) float32 xyxy, clipped to the image
    valid: Tensor  # (N, R) bool: there were so many


@torch.no_grad()
def propose(
    objectness: Tensor,
    deltas: Tensor,
    anchors: Sequence[Tensor],
    size: tuple[int, int],
    *,
    candidates: int,
    count: int,
    least: float,
) -> Proposals:
    """Proposals in images of `size` (height, width) from logits (N, P), deltas (N, P, 4) and the maps' anchors.

    Args:
        candidates: so many of each map's best boxes enter non-max suppression.
        count: so many of an image's boxes leave it.
        least: probability of an object below which a box is no proposal.
    """
    places, values = best_of_levels(objectness, [a.shape[0] for a in anchors], candidates)
    level = torch.cat([found.new_full(found.shape[1:], i) for i, found in enumerate(places)])
    index = torch.cat(places, 1)
    # Numbers of a network that diverges; its loss tells that, and which images it was.
    logits = torch.nan_to_num(torch.cat(values, 1), nan=-1e9)
    chosen = torch.nan_to_num(deltas.gather(1, index[..., None].expand(-1, -1, 4)))
    boxes = clip_boxes(decode_deltas(chosen, torch.cat(list(anchors))[index]), size)
    allowed = (boxes[..., 2:] - boxes[..., :2] >= LEAST_SIDE).all(-1) & (logits.sigmoid() >= least)
    found = keep_best(boxes, logits, level, allowed, count, OVERLAP)
    return Proposals(boxes.gather(1, found.places[..., None].expand(-1, -1, 4)), found.valid)


def best_of_levels(logits: Tensor, counts: Sequence[int], most: int) -> tuple[list[Tensor], list[Tensor]]:
    """Places among all P and values (N, C) of the best logits (N, P) of each level, of which there are `counts`."""
    places, values, start = [], [], 0
    for count in counts:
        level = logits[:, start : start + count]
        if torch.jit.is_tracing():  # for images so small, too, that a level has fewer: its last box fills up
            best = F.pad(level, (0, most), value=-1e9).topk(most, 1)
            index = torch.minimum(best.indices, torch.full_like(best.indices, 1) * (count - 1))
        else:
            best = level.topk(min(most, count), 1)
            index = best.indices
        places.append(index + start)
        values.append(best.values)
        start = start + count
    return places, values


def proposal_losses(objectness: Tensor, deltas: Tensor, anchors: Tensor, flat: FlatTargets) -> dict[str, Tensor]:
    """``loss_objectness`` and ``loss_proposal_box`` of logits (N, P) and deltas (N, P, 4), of anchors (P, 4).

    Of 256 anchors an image, half of them positive if there are so many: binary cross-entropy, its mean; smooth L1 of
    the positives' deltas, summed and divided by the number of all that were drawn.
    """
    matches = match(anchors, flat, len(objectness), high=HIGH, low=LOW, claim=True)
    index, chosen = sample(matches.positive, matches.negative, SAMPLED, POSITIVE)
    positive = matches.positive.gather(1, index) & chosen
    drawn = divisor(chosen.sum())
    entropy = F.binary_cross_entropy_with_logits(objectness.gather(1, index), positive.float(), reduction="none")
    at = deltas.gather(1, index[..., None].expand(-1, -1, 4))
    box = box_loss(at, anchors[index], matches.object.gather(1, index), positive, flat)
    return {"loss_objectness": (entropy * chosen).sum() / drawn, "loss_proposal_box": box / drawn}


def box_loss(
    deltas: Tensor,
    priors: Tensor,
    objects: Tensor,
    positive: Tensor,
    flat: FlatTargets,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """Sum of smooth L1 between deltas (N, S, 4) from priors (N, S, 4) and those of their objects, where positive.

    `objects` (N, S) are positions among the batch's objects.
    """
    unit = priors.new_tensor([0.0, 0.0, 1.0, 1.0])
    wanted = torch.cat([flat.boxes, unit[None]])[objects]  # with a last one, for a batch without objects
    # What is not learnt may have no area, whose logarithm times 0 would be no number.
    wanted, priors = (torch.where(positive[..., None], boxes, unit) for boxes in (wanted, priors))
    loss = F.smooth_l1_loss(deltas, encode_deltas(wanted, priors, weights), beta=BETA, reduction="none")
    return (loss.sum(-1) * positive).sum()
