"""The learning-rate test: which rate to train with, from the losses of a few dozen steps with rising rates.

Smith 2017, "Cyclical learning rates for training neural networks", arXiv:1506.01186.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detseg.train.errors import TrainingError
from detseg.train.resume import random_states, restore_random_states

STEPS = 60
# Where the test begins and ends, as factors on the rates it starts from.
LOWEST, HIGHEST = 1e-3, 1e2
# The test is over when the smoothed loss is so many times the lowest: it has run away.
RUN_AWAY = 2.0
SMOOTHING = 0.9


class RateCurve(NamedTuple):
    """What a test showed.

    Attributes:
        rates: (S,) highest learning rate of each step.
        losses: (S,) its loss.
        smooth: (S,) the same, averaged over the steps before.
        suggestion: the rate at which the smoothed loss falls fastest.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smooth: NDArray[np.float64]
    suggestion: float

    def scaled(self, factor: float) -> RateCurve:
        """The same curve over rates that are so many times those of the test, as those of other parameters are."""
        return self._replace(rates=self.rates * factor, suggestion=self.suggestion * factor)


def find_rate(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Callable[[], Tensor]],
    *,
    steps: int = STEPS,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
) -> RateCurve:
    """Test rising learning rates; model, optimiser and random states are what they were, afterwards.

    Args:
        model: in training mode.
        optimizer: of its parameters; the rates of its groups rise together, each from `lowest` to `highest` times its
            ``initial_lr``.
        losses: one for each step: called, it gives the loss of a batch.
        steps: number of steps.
        lowest, highest: see above.

    Raises:
        TrainingError: the loss never fell; the message says what to look at.
    """
    device = next(model.parameters()).device
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict())), random_states(device)
    base = max(group["initial_lr"] for group in optimizer.param_groups)
    factors = np.geomspace(lowest, highest, steps)
    found: list[float] = []
    try:
        for factor, loss_of in zip(factors, losses, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            loss = loss_of()
            found.append(float(loss.detach()))
            if not math.isfinite(found[-1]) or smoothed(found)[-1] > RUN_AWAY * smoothed(found).min():
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    finally:
        optimizer.zero_grad()
        (weights, settings), random = before
        model.load_state_dict(weights)
        optimizer.load_state_dict(settings)
        restore_random_states(random, device)
    return read_curve(base * factors[: len(found)], np.array(found))


def read_curve(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> RateCurve:
    """The curve and its suggestion: where the smoothed loss falls fastest over the logarithm of the rate.

    Raises:
        TrainingError: it never falls.
    """
    rates, losses = (values[np.isfinite(losses)] for values in (rates, losses))
    smooth = smoothed(losses.tolist())
    lowest = int(smooth.argmin()) if len(smooth) else 0
    if lowest < 2:
        raise TrainingError(
            "the learning-rate test found no rate at which the loss falls; give a lower --lr to begin with, or look "
            "at the data"
        )
    slope = np.gradient(smooth[: lowest + 1], np.log(rates[: lowest + 1]))
    return RateCurve(rates, losses, smooth, float(rates[int(slope.argmin())]))


def smoothed(losses: list[float]) -> NDArray[np.float64]:
    """Exponential moving average, without the bias of its start."""
    average, values = 0.0, []
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        values.append(average / (1 - SMOOTHING**count))
    return np.array(values)
