"""Calibrated scores: the fit against a search, laws, edges, and where they are applied."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from detseg.detect.calibration import Calibration, calibrated, fit_calibration
from detseg.metrics.detection.reliability import reliability
from detseg.predict import detect


def drawn(slope, shift, count, seed=0):
    """Scores, and whether each is right: as often as its calibrated score says."""
    generator = np.random.default_rng(seed)
    scores = generator.random(count)
    chance = Calibration(slope, shift)(torch.from_numpy(scores)).numpy()
    return scores, generator.random(count) < chance


@pytest.mark.parametrize(("slope", "shift"), [(1, 0), (3, 1), (0.5, -2)])
def test_the_map_that_the_data_follow_is_found(slope, shift):
    scores, right = drawn(slope, shift, 50_000)
    found = fit_calibration(scores, right)
    assert found == pytest.approx((slope, shift), rel=0.1, abs=0.1)
    after = reliability(found(torch.from_numpy(scores)).numpy(), right).error
    assert after < 0.02 and (slope == 1 or after < reliability(scores, right).error / 4)


def test_none_near_it_is_likelier():
    scores, right = drawn(2, 0.5, 200)
    found = fit_calibration(scores, right)
    good = right.sum()
    target = np.where(right, (good + 1) / (good + 2), 1 / (len(right) - good + 2))

    def loss(slope, shift):
        chance = Calibration(slope, shift)(torch.from_numpy(scores)).numpy()
        return -(target * np.log(chance) + (1 - target) * np.log(1 - chance)).mean()

    around = [loss(found[0] + a, found[1] + b) for a, b in itertools.product((-0.05, 0, 0.05), repeat=2)]
    assert np.argmin(around) == 4


def test_what_tells_nothing():
    scores = np.linspace(0.05, 0.95, 100)
    assert fit_calibration(scores, scores > 0.9) is None, "few are right"
    assert fit_calibration(scores, scores > 0.1) is None, "few are false"
    assert fit_calibration(scores, scores < 0.5) is None, "the surest are false"
    assert fit_calibration(np.zeros(0), np.zeros(0, bool)) is None
    found = fit_calibration(scores, scores > 0.5)
    assert found is not None and 1 < found.slope < 1000, "apart, but not beyond all bounds"
    assert fit_calibration(np.repeat([0.0, 1.0], 50), np.arange(100) >= 40) is not None


def test_the_order_stays():
    scores = torch.cat([torch.tensor([0.0, 1.0]), torch.logspace(-4, -0.01, 500)]).sort().values
    for slope, shift in [(3.0, 1.0), (0.2, -1.0)]:
        after = Calibration(slope, shift)(scores)
        assert after.dtype == torch.float32 and (after.diff() >= 0).all()
        assert ((0 <= after) & (after <= 1)).all()
    torch.testing.assert_close(Calibration(1.0, 0.0)(scores), scores, rtol=1e-5, atol=1e-8)


class Finds(nn.Module):
    """One box of score 0.5 in every image."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        found = {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "scores": torch.tensor([0.5]), "labels": torch.tensor([0])}
        return [found] * len(images)


def test_predictions_are_calibrated_and_the_network_is_not():
    model, images = Finds(), [(np.zeros((32, 32, 3), np.uint8), (32, 32))]
    assert calibrated(model, torch.tensor([0.5])) == 0.5
    model.calibration = Calibration(2.0, 1.0)
    wanted = 1 / (1 + np.exp(-1.0))
    for tta in (False, True):
        (found,) = detect(model, images, 32, tta=tta)
        assert (found["scores"][0] <= wanted + 1e-6) if tta else found["scores"] == pytest.approx([wanted])
    assert model(torch.zeros(1, 3, 32, 32))[0]["scores"] == 0.5
    assert not next(iter(detect(model, images, 32, score_threshold=0.74)))["scores"].numel(), "thresholds are of these"
