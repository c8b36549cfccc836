"""Losses of semantic segmentation: cross-entropy, focal, soft Dice, and their weighted sum.

All ignore the pixels marked `IGNORE_INDEX`; a batch of nothing else has a loss of exactly zero, with a gradient.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from detseg.together import divisor, sums

# What masks on disk, PASCAL VOC's too, mark as "ignore this pixel".
IGNORE_INDEX = 255

# How strongly focal loss disregards what is right already (Lin et al. 2017, arXiv:1708.02002).
GAMMA = 2.0
# Keeps a quotient finite where its denominator is zero, too small to matter where not: a denominator is a count of
# pixels or a sum of class weights.
TINY = 1e-6


def parse_loss(loss: str | Mapping[str, float]) -> dict[str, float]:
    """``"ce+dice"`` or ``{"ce": 1.0, "dice": 0.5}`` as weights by name; ValueError unless known and positive."""
    weights = {name.strip(): 1.0 for name in loss.split("+")} if isinstance(loss, str) else dict(loss)
    unknown = [name for name in weights if name not in LOSSES]
    if unknown or not weights:
        raise ValueError(f"unknown loss {', '.join(unknown) or loss!r}; choose from {', '.join(LOSSES)}, joined by '+'")
    if wrong := {name: weight for name, weight in weights.items() if not weight > 0}:
        raise ValueError(f"weights of losses must be positive, got {wrong}; leave out what should not count")
    return {name: float(weight) for name, weight in weights.items()}


def segmentation_losses(
    logits: Tensor, targets: Tensor, weights: Mapping[str, float], class_weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Each of the losses named in `weights`, times its weight.

    Args:
        logits: (N, K, H, W).
        targets: (N, H, W) integers, 0..K-1 or `IGNORE_INDEX`.
        weights: see `parse_loss`.
        class_weights: (K,) weight of each class; None for equal ones.

    Returns:
        Float32 scalars ``loss_ce``, ``loss_focal``, ``loss_dice``:

        - ce: cross-entropy, averaged over the pixels by the weight of their class;
        - focal: the same with each pixel's term times (1 - p)², p the probability of its class;
        - dice: 1 - 2·|P∩T| / (|P| + |T|) of probabilities and truth over the whole batch, averaged over the classes
          that are there, by their weights (Milletari et al. 2016, arXiv:1606.04797, with sums instead of squares).

    Raises:
        ValueError: shapes that do not go together, or targets that are no integers.
        IndexError, RuntimeError: torch's, for other targets.
    """
    if targets.shape != (len(logits), *logits.shape[2:]):
        raise ValueError(
            f"targets must have the shape {(len(logits), *logits.shape[2:])} for logits {tuple(logits.shape)}, "
            f"got {tuple(targets.shape)}"
        )
    if targets.dtype.is_floating_point or targets.dtype == torch.bool:
        raise ValueError(f"targets must be integers, class indices and {IGNORE_INDEX} for ignore, got {targets.dtype}")
    with torch.autocast(logits.device.type, enabled=False):
        log_probabilities = F.log_softmax(logits.float(), 1)
        targets = targets.long()
        if class_weights is not None:
            # Only their ratios count: in shares of the largest, no sum of small ones comes near `TINY`.
            class_weights = class_weights.float()
            class_weights = class_weights / class_weights.max().clamp(min=torch.finfo(torch.float32).tiny)
        return {
            f"loss_{name}": weights[name] * loss(log_probabilities, targets, class_weights)
            for name, loss in LOSSES.items()
            if name in weights
        }


def cross_entropy(log_probabilities: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean negative log probability of (N, K, H, W) float32; targets (N, H, W) int64, weights (K,) or None."""
    total = F.nll_loss(log_probabilities, targets, class_weights, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / divisor(_pixel_weights(targets, class_weights).sum(), TINY)


def focal(log_probabilities: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean of (1 - p)^GAMMA times the negative log probability; arguments as for `cross_entropy`."""
    # Without class weights here: the probability is read off the entropy.
    entropy = F.nll_loss(log_probabilities, targets, ignore_index=IGNORE_INDEX, reduction="none")
    weights = _pixel_weights(targets, class_weights)
    terms = (1 - (-entropy).exp()).pow(GAMMA) * entropy * weights
    return terms.sum() / divisor(weights.sum(), TINY)


def soft_dice(log_probabilities: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """1 - Dice of probabilities and truth, averaged over the classes in `targets`; arguments as before."""
    images, classes, height, _ = log_probabilities.shape
    probabilities = log_probabilities.exp()
    valid = targets != IGNORE_INDEX
    index = targets.where(valid, 0)
    chosen = probabilities.gather(1, index[:, None])[:, 0] * valid
    # Row by row first: one float32 sum over all pixels, one after the other, would be off by percents.
    zeros = probabilities.new_zeros(images, height, classes)
    overlap = zeros.scatter_add(2, index, chosen).sum((0, 1))
    truth = zeros.scatter_add(2, index, valid.to(zeros.dtype)).sum((0, 1))
    # A matrix product, so that no masked copy of all probabilities is made.
    predicted = (probabilities.flatten(2) @ valid.flatten(1).to(zeros.dtype)[..., None]).sum((0, 2))
    overlap, predicted, truth = sums(torch.stack([overlap, predicted, truth])).unbind()
    dice = 2 * overlap / (predicted + truth).clamp(min=TINY)
    present = (truth > 0).to(zeros.dtype)
    counted = present if class_weights is None else present * class_weights
    return ((1 - dice) * counted).sum() / counted.sum().clamp(min=TINY)


LOSSES = {"ce": cross_entropy, "focal": focal, "dice": soft_dice}


def _pixel_weights(targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """(N, H, W) weight of each pixel's class, 0 where it is ignored; True and False without weights."""
    valid = targets != IGNORE_INDEX
    return valid if class_weights is None else class_weights[targets.where(valid, 0)] * valid
