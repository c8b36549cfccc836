"""The best linear layer on features that do not change: softmax regression, solved instead of trained.

The problem is convex: L-BFGS finds its one solution in seconds. The penalty on the weights is chosen by
cross-validation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PENALTIES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
ITERATIONS = 200


class SoftmaxRegression(NamedTuple):
    """A solution: logits are ``features @ weight.T + bias``."""

    weight: Tensor  # (K, C)
    bias: Tensor  # (K,)
    penalty: float  # the one that was used
    losses: dict[float, float]  # penalty -> mean cross-entropy on the features held out; empty without a choice


def fit_softmax_regression(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    penalties: Sequence[float] = PENALTIES,
    label_smoothing: float = 0.0,
    folds: int = 3,
    seed: int = 0,
) -> SoftmaxRegression:
    """The linear layer with the smallest penalised cross-entropy.

    It minimises ``mean(cross_entropy) + penalty / 2 * |weight|²`` of features brought to mean 0 and deviation 1, so
    that one penalty means the same for all of them; what is returned takes the features as they are.

    Args:
        features: (N, C), or (V, N, C) for V views of each of N images; finite.
        labels: (N,) int64 in 0..K-1.
        classes: K.
        penalties: to choose from, by the cross-entropy on held-out images (first view).
        label_smoothing: share of each target that is spread over all classes. It bounds the weights where classes can
            be told apart without a mistake, and no penalty but the weakest would be chosen.
        folds: images are split into so many parts, each held out once.
        seed: of that split.
    """
    views = features if features.ndim == 3 else features[None]
    count = views.shape[1]
    if views.ndim != 3 or labels.shape != (count,) or not count:
        raise ValueError(f"features {tuple(features.shape)} and labels {tuple(labels.shape)} do not fit together")
    if not bool(views.isfinite().all()):
        raise ValueError("a feature is NaN or infinite; look at the network and its weights")
    if not penalties or min(penalties) < 0:
        raise ValueError(f"penalties must be one or more numbers of at least 0, not {tuple(penalties)}")
    views = views.float()
    mean = views.mean((0, 1))
    spread = views.std((0, 1), correction=0)
    scale = torch.where(spread > 1e-6 * spread.max(), 1 / spread.clamp(min=1e-30), 0)  # constant: no information
    views = (views - mean) * scale
    losses: dict[float, float] = {}
    if len(penalties) > 1 and count >= folds > 1:
        losses = _held_out_losses(
            views[0], labels, classes, sorted(penalties, reverse=True), folds, seed, label_smoothing
        )
    best = min(losses, key=lambda penalty: losses[penalty]) if losses else penalties[0]
    weight, bias = _solve(views.flatten(0, 1), labels.repeat(len(views)), _zeros(views, classes), best, label_smoothing)
    weight = weight * scale
    return SoftmaxRegression(weight, bias - weight @ mean, best, losses)


def _held_out_losses(
    features: Tensor, labels: Tensor, classes: int, penalties: Sequence[float], folds: int, seed: int, smoothing: float
) -> dict[float, float]:
    """Mean cross-entropy on the images held out, by penalty; the strongest first, each starts from the one before."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    part = torch.empty_like(labels).scatter_(0, order, torch.arange(len(labels), device=labels.device) % folds)
    sums = dict.fromkeys(penalties, 0.0)
    for fold in range(folds):
        inside, outside = part != fold, part == fold
        state = _zeros(features, classes)
        for penalty in penalties:
            state = _solve(features[inside], labels[inside], state, penalty, smoothing)
            logits = features[outside] @ state[0].T + state[1]
            loss = F.cross_entropy(logits, labels[outside], reduction="sum", label_smoothing=smoothing)
            sums[penalty] += float(loss)
    return {penalty: total / len(labels) for penalty, total in sums.items()}


def _zeros(features: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    return features.new_zeros(classes, features.shape[-1]), features.new_zeros(classes)


def _solve(
    features: Tensor, labels: Tensor, start: tuple[Tensor, Tensor], penalty: float, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the smallest penalised loss."""
    with torch.enable_grad():
        weight, bias = (tensor.detach().clone().requires_grad_() for tensor in start)
        solver = torch.optim.LBFGS(
            [weight, bias], max_iter=ITERATIONS, history_size=20, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            solver.zero_grad()
            fit = F.cross_entropy(F.linear(features, weight, bias), labels, label_smoothing=smoothing)
            value = fit + penalty / 2 * weight.square().sum()
            value.backward()
            return value

        solver.step(loss)
    return weight.detach(), bias.detach()
