"""Instance masks from prototypes and coefficients (Bolya et al. 2019, YOLACT, arXiv:1904.02689).

A branch on the finest feature map gives Q prototype maps for the whole image, and each prediction Q coefficients. The
mask of a detection is ``sigmoid(Σ coefficient · prototype)``, cut to its box: one product of matrices, whatever the
number of objects.

In training each object is taught through the few predictions that find it best, at `WINDOW` x `WINDOW` places of its
box, as many for large objects as for small ones. So cost and memory grow with the number of objects alone: 100 in each
of 8 images take some 200 MB, and nothing waits for a GPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones.blocks import ResidualSeparable
from detseg.detect.assign import Assignment
from detseg.detect.model import FlatTargets, Targets

PROTOTYPES = 32
# Pixels of the input that a cell of a prototype covers; finer ones made the masks no better (docs/results.md).
STRIDE = 4
# Places in a row and in a column of a box at which its mask is learnt.
WINDOW = 24
# Predictions of an object that learn its mask.
LEARNERS = 4
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
    """Mask probabilities (D, h, w) of coefficients (D, Q) and the prototypes (Q, h, w) of their image; float32."""
    return torch.einsum("dq,qhw->dhw", coefficients.float(), prototypes.float()).sigmoid()


def framed(prototypes: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Prototypes (Q, h, w) of one image with their outermost cells repeated, and (4,) xyxy, what they lie over then.

    A mask is bilinear between the centres of cells and fades beyond the last one: not so at the border of the image.
    """
    height, width = prototypes.shape[-2:]
    region = torch.tensor([-1.0, -1.0, width + 1, height + 1], device=prototypes.device) * stride
    return F.pad(prototypes, (1, 1, 1, 1), mode="replicate"), region


def shrunk_masks(targets: Targets, size: Sequence[int], stride: int) -> Tensor:
    """Masks (M, h, w) float32 of all objects of a batch at the size of the prototypes: covered share of each cell.

    Raises:
        ValueError: a target has objects, but no mask for each.
    """
    height, width = (int(side) for side in size)
    parts = []
    for i, target in enumerate(targets):  # one image at a time: all of them in float32 are 16 times the result
        masks, objects = target.get("masks"), len(target["labels"])
        if objects == 0:
            parts.append(torch.zeros(0, height, width, device=target["labels"].device))
            continue
        if masks is None or masks.ndim != 3 or len(masks) != objects:
            shape = "no masks" if masks is None else f"masks of shape {tuple(masks.shape)}"
            raise ValueError(f"target {i} has {objects} objects and {shape}; masks must be (M, H, W), one each")
        beyond = width * stride - masks.shape[2], height * stride - masks.shape[1]
        parts.append(F.avg_pool2d(F.pad(masks.float(), (0, beyond[0], 0, beyond[1])), stride))
    return torch.cat(parts)


def mask_loss(
    coefficients: Tensor,
    prototypes: Tensor,
    assignment: Assignment,
    fit: Tensor,
    objects: FlatTargets,
    masks: Tensor,
    stride: int,
) -> Tensor:
    """Mean binary cross-entropy of the masks within the objects' boxes.

    Args:
        coefficients, prototypes: (N, P, Q) and (N, Q, h, w), float32.
        assignment: pairs of the M objects and their C candidate predictions.
        fit: (M, C): the `LEARNERS` chosen pairs of an object with the highest ones learn its mask.
        objects, masks: the M objects, and the share (M, h, w) of each cell that they cover; those that are crowds or
            cover nothing teach no mask.
        stride: of the prototypes.
    """
    best, learner = fit.masked_fill(~assignment.chosen, -1).topk(min(LEARNERS, fit.shape[1]), 1)
    prediction = assignment.prediction.gather(1, learner)
    cells = window_cells(objects.boxes, masks.shape[1:], stride)  # (M, S)
    wanted = masks.flatten(1).gather(1, cells)
    learns = (best >= 0) & ((wanted.amax(1) > 0) & ~objects.iscrowd)[:, None]

    size = masks.shape[1] * masks.shape[2]
    places = prototypes.permute(0, 2, 3, 1).flatten(0, 2)  # (N · h · w, Q)
    values = F.embedding(cells + objects.image[:, None] * size, places)  # (M, S, Q)
    own = F.embedding(prediction, coefficients.flatten(0, 1))  # (M, T, Q)
    logits = own @ values.mT
    loss = F.binary_cross_entropy_with_logits(logits, wanted[:, None].expand_as(logits), reduction="none").mean(2)
    return MASK * (loss * learns).sum() / learns.sum().clamp(min=1)


def window_cells(boxes: Tensor, size: Sequence[int], stride: int) -> Tensor:
    """(M, `WINDOW`²) int64: the cells, of h · w, nearest to places spread evenly over each of the boxes (M, 4)."""
    height, width = size
    share = (torch.arange(WINDOW, device=boxes.device) + 0.5) / WINDOW
    places = boxes[:, None, :2] + (boxes[:, 2:] - boxes[:, :2])[:, None] * share[:, None]  # (M, WINDOW, 2)
    x, y = (places / stride).long().unbind(2)
    return (y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None]).flatten(1)
