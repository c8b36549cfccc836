"""Calibrated scores: of detections with a score of 0.7, 70 % are right.

Logistic calibration (Platt 1999; of detectors Küppers et al. 2020, arXiv:2004.13546), fitted to validation images:

    calibrated = sigmoid(slope · logit(score) + shift)

A temperature (Guo et al. 2017) is a slope alone. Detectors need the shift too: a score is the product of two
probabilities, both of which are below 1. The map rises, so the order of detections and average precision stay.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Fewer right or false detections than this tell nothing.
FEWEST = 20
# Scores are kept so far from 0 and 1, whose logits are infinite.
MARGIN = 1e-9


class Calibration(NamedTuple):
    """See the page; `slope` is positive."""

    slope: float
    shift: float

    def __call__(self, scores: Tensor) -> Tensor:
        """Calibrated scores, computed in float64, of scores of any shape in [0, 1]."""
        logits = torch.logit(scores.double(), MARGIN)
        return torch.sigmoid(self.slope * logits + self.shift).to(scores.dtype)


def calibrated(model: Any, scores: Tensor) -> Tensor:
    """The scores of a model's detections, calibrated if the model is."""
    calibration: Calibration | None = getattr(model, "calibration", None)
    return scores if calibration is None else calibration(scores)


def fit_calibration(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Calibration | None:
    """The likeliest calibration of detections with scores (D,), right or not (D,); None where they tell none.

    By Newton's method, with Platt's targets, which keep the slope finite where scores separate right from false.
    """
    good, bad = int(right.sum()), int((~right).sum())
    if min(good, bad) < FEWEST:
        return None
    inside = np.clip(scores.astype(np.float64), MARGIN, 1 - MARGIN)
    x = np.stack([np.log(inside / (1 - inside)), np.ones(len(inside))], 1)
    target = np.where(right, (good + 1) / (good + 2), 1 / (bad + 2))

    def loss(at: NDArray[np.float64]) -> float:
        return float((np.logaddexp(0, x @ at) - target * (x @ at)).mean())

    found = np.array([1.0, 0.0])
    for _ in range(100):
        chance = 1 / (1 + np.exp(-np.clip(x @ found, -500, 500)))
        gradient = x.T @ (chance - target) / len(x)
        curvature = (x * (chance * (1 - chance))[:, None]).T @ x / len(x) + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while loss(found - step) > loss(found) and np.abs(step).max() > 1e-9:
            step /= 2
        found = found - step
        if np.abs(step).max() < 1e-8:
            break
    return Calibration(float(found[0]), float(found[1])) if found[0] > 0 else None
