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
# The curve is averaged over neighbours on both sides, by a Gaussian of so many decades of the rate. Its suggestion is
# where so much of the fall is made: before that little is learnt, after it the loss soon rises. Both were chosen by the
# draws of tests/train/test_finder.py and by losses of real batches.
WIDTH, MADE = 0.25, 0.8
# Steps at the beginning, whose rates teach nothing, that tell the loss before the fall; and how many standard errors a
# fall must be larger than.
FIRST, SIGNIFICANT = 0.25, 4.0


class RateCurve(NamedTuple):
    """What a test showed.

    Attributes:
        rates: (S,) highest learning rate of each step.
        losses: (S,) its loss.
        smooth: (S,) the same, averaged over neighbouring rates.
        suggestion: the rate at which the smoothed loss has made most of its fall.
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
        TrainingError: the losses do not tell a rate, see `read_curve`.
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
    """The curve and its suggestion: where the smoothed loss has made `MADE` of its fall.

    Not where it falls fastest: that is a difference of neighbours, and noise.

    Raises:
        TrainingError: it never falls, or by no more than its noise explains; the message says what to look at.
    """
    rates, losses = (values[np.isfinite(losses)] for values in (rates, losses))
    smooth, shares = averaged(rates, losses)
    if not len(losses) or smooth.argmin() < 2:
        raise TrainingError(
            "the learning-rate test found no rate at which the loss falls; give a lower --lr to begin with, or look "
            "at the data"
        )
    first = max(1, int(FIRST * len(losses)))
    before = losses[:first].mean()
    # Second differences of neighbours: whatever the loss does slowly is not in them. Their variance is 6 times that of
    # the noise; 0.6745 is the median of a standard normal's absolute values.
    noise = np.median(np.abs(np.diff(losses, 2))) / (0.6745 * math.sqrt(6))
    least = SIGNIFICANT * noise * np.sqrt(1 / first + np.square(shares).sum(1))
    lowest = _lowest(smooth, before, least)
    fall = before - smooth[lowest]
    if fall <= least[lowest]:
        raise TrainingError(
            f"the learning-rate test tells nothing: the loss falls by {max(fall, 0):.2g}, and that of single batches "
            f"varies by {noise:.2g}; larger batches vary less"
        )
    above = np.flatnonzero(smooth[:lowest] > before - MADE * fall)
    return RateCurve(rates, losses, smooth, float(rates[above[-1] + 1 if len(above) else 0]))


def _lowest(smooth: NDArray[np.float64], before: float, least: NDArray[np.float64]) -> int:
    """Where a smoothed loss is lowest until it rises by half of its fall: what follows is a network that is breaking.

    `before` is the loss to begin with; falls by up to `least` (S,) are noise, and no fall.
    """
    lowest = 0
    for step, loss in enumerate(smooth):
        fall = before - smooth[lowest]
        if loss < smooth[lowest]:
            lowest = step
        elif fall > least[lowest] and loss - smooth[lowest] > fall / 2:
            break
    return lowest


def averaged(
    rates: NDArray[np.float64], losses: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses (S,) averaged over neighbouring rates, and (S, S) the share of each in each average."""
    decades = np.log10(rates)
    shares = np.exp(-np.square((decades[:, None] - decades) / WIDTH) / 2)
    shares /= shares.sum(1, keepdims=True)
    return shares @ losses, shares


def smoothed(losses: list[float]) -> NDArray[np.float64]:
    """Exponential moving average, without the bias of its start."""
    average, values = 0.0, []
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        values.append(average / (1 - SMOOTHING**count))
    return np.array(values)
