"""Instance masks from prototypes and coefficients (Bolya et al. 2019, YOLACT, arXiv:1904.02689).

A branch on the finest feature map gives Q prototype maps for the whole image, and each prediction Q coefficients. The
mask of a detection is where ``Σ coefficient · prototype > 0``, cut to its box: one product of matrices, whatever the
number of objects.

In training each object is taught through the few predictions that find it best, at places spread evenly over its box,
as many for large objects as for small ones, by the bilinear logit and the pixel there: what is learnt is what is drawn.
Cost and memory follow from the number of objects, some 100 MB for 100 in each of 8 images; nothing waits for a GPU.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones.blocks import ResidualSeparable
from detseg.detect.assign import Assignment
from detseg.detect.model import FlatTargets, Targets
from detseg.together import divisor

PROTOTYPES = 32
# Pixels of the input that a cell of a prototype covers, where the backbone's strides allow it.
STRIDE = 4
# Places in a row and in a column of a box at which its mask is learnt, and about how many a batch has: where objects
# are many, each needs fewer.
FEWEST, MOST, PLACES = 14, 32, 50_000
# Predictions of an object that learn its mask.
LEARNERS = 4
# Logits beyond this say no more.
SURE = 8.0
# Relative weight beside the losses of the grid head.
MASK = 1.0


def prototype_stride(stride: int) -> int:
    """Stride of prototypes that are made of a map of `stride`: the least divisor of that of at least `STRIDE`."""
    return next((s for s in range(STRIDE, stride) if stride % s == 0), stride)


class PrototypeBranch(nn.Module):
    """From the finest pyramid map (N, C, H, W) to prototypes (N, Q, f · H, f · W), f = `factor`."""

    def __init__(self, width: int, factor: int, count: int = PROTOTYPES, depth: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(*(ResidualSeparable(width, start_at_zero=False) for _ in range(depth)))
        # All that the finer cells of a cell need lies in its features: no convolution has to run at the finer stride.
        self.prototypes = nn.Conv2d(width, count * factor**2, 1)
        self.finer = nn.PixelShuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, Q, f · H, f · W)."""
        out: Tensor = self.finer(self.prototypes(self.body(x)))
        return out


def assemble(coefficients: Tensor, prototypes: Tensor) -> Tensor:
    """Masks (D, h, w) in [0, 1], of coefficients (D, Q) and the prototypes (Q, h, w) of their image; float32.

    They are above 0.5 where the logit is above 0, and linear in it up to ±`SURE`: so the border of an object lies where
    bilinear logits have it. Between cells of which one is sure and the other is not, probabilities put it elsewhere.
    """
    flat = prototypes.float().flatten(1)
    masks = torch.addmm(flat.new_full((1,), 0.5), coefficients.float() / (2 * SURE), flat)
    return masks.clamp_(0, 1).unflatten(1, prototypes.shape[1:])


def assemble_in(coefficients: Tensor, prototypes: Tensor, image: Tensor) -> Tensor:
    """What `assemble` gives, of coefficients (D, Q) in several images (D,) with prototypes (N, Q, h, w)."""
    # Of every image, though one is wanted: prototypes laid out for each detection would be hundreds of megabytes.
    every = torch.einsum("dq,nqp->dnp", coefficients.float() / (2 * SURE), prototypes.float().flatten(2))
    masks = (every[torch.arange(every.shape[0], device=image.device), image] + 0.5).clamp(0, 1)
    return masks.unflatten(1, prototypes.shape[2:])


def framed(prototypes: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Prototypes (..., Q, h, w) with their outermost cells repeated, and (4,) xyxy, what they lie over then.

    A mask is bilinear between the centres of cells and fades beyond the last one: not so at the border of the image.
    """
    sides = torch._shape_as_tensor(prototypes)[[-1, -2]].to(prototypes.device)  # also where the call is traced
    region = torch.cat([-torch.ones_like(sides), sides + 1]).float() * stride
    return F.pad(prototypes, (1, 1, 1, 1), mode="replicate"), region


def places_in(boxes: Tensor) -> Tensor:
    """(M, S, 2) x and y, in pixels, of places spread evenly over each of the boxes (M, 4) xyxy."""
    side = max(FEWEST, min(MOST, math.isqrt(PLACES // max(1, len(boxes)))))
    share = (torch.arange(side, device=boxes.device) + 0.5) / side
    x, y = (boxes[:, None, i] + (boxes[:, None, i + 2] - boxes[:, None, i]) * share for i in (0, 1))
    return torch.stack([x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1).flatten(1, 2)


def masks_at(targets: Targets, places: Tensor) -> Tensor:
    """(M, S) float32: 1 where the places (M, S, 2) of the batch's objects lie in their masks.

    Raises:
        ValueError: a target has objects, but no mask for each.
    """
    counts = [len(target["labels"]) for target in targets]
    result = [places.new_zeros(0, places.shape[1])]
    for i, (target, own) in enumerate(zip(targets, places.split(counts), strict=True)):
        if counts[i] == 0:
            continue
        masks = target.get("masks")
        if masks is None or masks.ndim != 3 or len(masks) != counts[i]:
            shape = "no masks" if masks is None else f"masks of shape {tuple(masks.shape)}"
            raise ValueError(f"target {i} has {counts[i]} objects and {shape}; masks must be (M, H, W), one each")
        x, y = (own[..., k].long().clamp(0, masks.shape[2 - k] - 1) for k in (0, 1))
        result.append(masks.flatten(1).gather(1, y * masks.shape[2] + x).float())
    return torch.cat(result)


def sampled(prototypes: Tensor, image: Tensor, places: Tensor, stride: int) -> Tensor:
    """Prototypes (M, S, Q) at places (M, S, 2) of the images `image` (M,), of (N, Q, h, w).

    Bilinear between the centres of cells, and constant beyond the outermost.
    """
    height, width = prototypes.shape[2:]
    cells = places / stride - 0.5
    first = cells.floor()
    parts = (cells - first).unbind(2)
    numbers = [
        torch.stack([low, low + 1], -1).long().clamp(0, count - 1)
        for low, count in zip(first.unbind(2), (width, height), strict=True)
    ]
    across, down = (torch.stack([1 - part, part], -1) for part in parts)
    corners = image[:, None, None, None] * (height * width) + numbers[1][..., None] * width + numbers[0][..., None, :]
    weights = down[..., None] * across[..., None, :]
    flat = prototypes.permute(0, 2, 3, 1).flatten(0, 2)  # (N · h · w, Q)
    values = F.embedding_bag(
        corners.flatten(2).flatten(0, 1), flat, per_sample_weights=weights.flatten(2).flatten(0, 1), mode="sum"
    )
    return values.view(*places.shape[:2], flat.shape[1])


def mask_loss(
    coefficients: Tensor,
    prototypes: Tensor,
    assignment: Assignment,
    fit: Tensor,
    objects: FlatTargets,
    targets: Targets,
    stride: int,
) -> Tensor:
    """Mean binary cross-entropy of the masks within the objects' boxes.

    Args:
        coefficients, prototypes: (N, P, Q) and (N, Q, h, w), float32.
        assignment: pairs of the M objects and their C candidate predictions.
        fit: (M, C): the `LEARNERS` chosen pairs of an object with the highest ones learn its mask.
        objects, targets: the M objects in two forms, the second with `masks`; those that are crowds or cover nothing
            teach no mask.
        stride: of the prototypes.
    """
    best, learner = fit.masked_fill(~assignment.chosen, -1).topk(min(LEARNERS, fit.shape[1]), 1)
    places = places_in(objects.boxes)
    wanted = masks_at(targets, places)
    learns = (best >= 0) & ((wanted.amax(1) > 0) & ~objects.iscrowd)[:, None]
    own = F.embedding(assignment.prediction.gather(1, learner), coefficients.flatten(0, 1))  # (M, T, Q)
    logits = own @ sampled(prototypes, objects.image, places, stride).mT  # (M, T, S)
    loss = F.binary_cross_entropy_with_logits(logits, wanted[:, None].expand_as(logits), reduction="none").mean(2)
    return MASK * (loss * learns).sum() / divisor(learns.sum())
