"""Similarity of new images to those a network was trained on, from what its batch norms remember of those."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detseg.backbones.meta import hooked


class Similarity(NamedTuple):
    """What `measure_similarity` found."""

    value: float  # mean overlap of the distributions, 0 (apart) to 1 (the same)
    layers: tuple[float, ...]  # the same for each batch norm, in the order they run in
    images: int  # number of images looked at


@torch.no_grad()
def measure_similarity(model: Any, batches: Iterable[Tensor]) -> Similarity | None:
    """Similarity of images to those that the batch norms of a model have seen.

    For each channel of each batch norm's input, the overlap (Bhattacharyya coefficient) of two normal distributions,
    that of the new images and that which the layer remembers; its mean over channels, then over layers.

    Args:
        model: has `features(images)`, as `detseg.classify.Classifier`, with its batch norms not folded; it is left in
            evaluation mode.
        batches: of images (N, 3, H, W), at the size they are to be learnt at.

    None if the network has no batch norm that remembers, or there are no images.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    model.eval()
    if not norms:
        return None
    # Of how far each channel of what a layer gets is from the mean it remembers: number, sum and sum of squares.
    counts: Counter[nn.Module] = Counter()
    sums: dict[nn.Module, Tensor] = {}

    def note(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().float().transpose(0, 1).flatten(1) - norm.running_mean[:, None]
        # From batch to batch in float64, on the CPU: not every device has it.
        sums[norm] = sums.get(norm, 0) + torch.stack([x.sum(1), x.square().sum(1)]).cpu().double()
        counts[norm] += x.shape[1]

    count = 0
    with hooked(norms, before=note):
        for images in batches:
            model.features(images)
            count += len(images)
    layers = tuple(_overlap(norm, sums[norm] / counts[norm]) for norm in norms if counts[norm])
    if not layers or not count:
        return None
    return Similarity(sum(layers) / len(layers), layers, count)


def _overlap(norm: Any, moments: Tensor) -> float:
    """Mean over channels of the overlap of what a layer sees with what it remembers."""
    away, square = moments
    # eps, as the layer itself adds: channels that are always zero are alike.
    new = (square - away.square()).clamp(min=0) + norm.eps
    old = norm.running_var.cpu().double() + norm.eps
    total = new + old
    apart = away.square() / (4 * total)
    return float(((2 * (new * old).sqrt() / total).sqrt() * torch.exp(-apart)).mean())
