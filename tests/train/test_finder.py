"""The learning-rate test: a curve read by hand, a problem whose best rate is known, nothing left changed."""

from contextlib import suppress
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from detseg.train.config import TrainDetector
from detseg.train.errors import TrainingError
from detseg.train.finder import HIGHEST, LOWEST, STEPS, RateCurve, find_rate, read_curve, smoothed
from detseg.train.optim import create_optimizer
from detseg.train.process import Process
from detseg.train.runner import find_rates
from tests.train.runs import differences, tiny_trainer


def quadratic(curvature=4.0):
    """A loss of one number: plain descent converges below a rate of 2 / curvature and runs away above."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)

    def loss():
        return curvature / 2 * model.weight.square().sum()

    return model, loss


def plain(model, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for group in optimizer.param_groups:
        group["initial_lr"] = lr
    return optimizer


@pytest.mark.parametrize("curvature", [0.4, 4.0, 40.0])
def test_the_suggestion_lies_below_where_it_runs_away_and_not_far(curvature):
    model, loss = quadratic(curvature)
    curve = find_rate(model, plain(model), [loss] * 100, steps=100, lowest=1e-4, highest=1e3)
    assert 0.01 / curvature < curve.suggestion < 2 / curvature
    assert len(curve.rates) == len(curve.losses) == len(curve.smooth)
    assert (np.diff(curve.rates) > 0).all()


def test_it_stops_when_the_loss_runs_away():
    model, loss = quadratic()
    called = []
    find_rate(model, plain(model), [lambda: called.append(1) or loss()] * 200, steps=200, lowest=1e-3, highest=1e6)
    assert len(called) < 190


def test_everything_is_left_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = create_optimizer("adamw", [{"params": list(model.parameters()), "lr": 1e-3, "weight_decay": 0.1}])
    x = torch.randn(16, 4)

    def loss():
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    loss().backward()
    optimizer.step()  # its state is not empty
    before = [{k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()]
    settings = {k: v.clone() for k, v in optimizer.state_dict()["state"][0].items()}
    with suppress(TrainingError):  # losses under dropout may tell nothing
        find_rate(model, optimizer, [loss] * 20, steps=20)
    after = [dict(model.state_dict()), torch.get_rng_state()]
    assert differences(before, after) == []
    assert differences(settings, optimizer.state_dict()["state"][0]) == []
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_a_trainer_that_was_tested_trains_the_same(tmp_path):
    plainly, tested = (tiny_trainer(tmp_path / name, steps=2) for name in ("a", "b"))
    curve = tested.test_rates()
    assert len(curve.rates) > 10
    for trainer in (plainly, tested):
        torch.manual_seed(3)
        trainer.job.folder.mkdir(exist_ok=True)
        trainer.run()
    assert differences(dict(plainly.model.state_dict()), dict(tested.model.state_dict())) == []


@pytest.mark.parametrize("factor", [0.1, 4.0])
def test_the_found_rate_is_that_of_lr_though_the_backbone_learns_faster(tmp_path, monkeypatch, factor):
    trainer, lines = tiny_trainer(tmp_path), StringIO()
    config = TrainDetector(data=tmp_path, lr=0.01, backbone_lr=factor)
    for group, rate in zip(trainer.optimizer.param_groups, (0.01, 0.01 * factor), strict=False):
        group["initial_lr"] = rate
    highest = max(group["initial_lr"] for group in trainer.optimizer.param_groups)
    curve = RateCurve(highest * np.array([1.0, 2, 4]), np.ones(3), np.ones(3), 2 * highest)  # twice what it begins with
    monkeypatch.setattr(trainer, "test_rates", lambda: curve)
    assert find_rates(Process(config, trainer.accelerator, Console(file=lines), None, None, None), trainer) is not None
    assert "learning rate: 0.02, where" in lines.getvalue()
    rates = [group["initial_lr"] for group in trainer.optimizer.param_groups[:2]]
    assert rates == pytest.approx([0.02, 0.02 * factor])


def test_a_curve_by_hand():
    rates = np.geomspace(1e-4, 1, 41)
    # Half of the fall is made at 1e-2; it is lowest at 1e-1.
    losses = 2 - 1 / (1 + np.exp(-3 * (np.log10(rates) + 2))) + np.maximum(0, np.log10(rates) + 1) * 3
    curve = read_curve(rates, losses)
    assert 1e-2 < curve.suggestion < 5e-2


def drawn(noise, fall=1.3, draws=200):
    """Suggestions for a loss that is flat below a rate of 3e-4, falls up to 1e-2 and runs away above 3e-2."""
    rates = 1e-3 * np.geomspace(LOWEST, HIGHEST, STEPS)
    x, generator = np.log10(rates), np.random.default_rng(0)
    losses = 5.6 - fall * np.clip((x + 3.5) / 1.5, 0, 1) + np.clip(x + 1.5, 0, None) * 4
    for _ in range(draws):
        try:
            yield read_curve(rates, losses + generator.normal(0, noise, STEPS)).suggestion
        except TrainingError as error:
            assert "tells nothing: the loss falls by" in str(error) or "no rate at which the loss falls" in str(error)
            yield np.nan


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.2, 0.3])
def test_noise_does_not_make_a_suggestion(noise):
    found = np.array(list(drawn(noise)))
    assert ((found > 3e-4) & (found < 1e-2)).all()


def test_noise_alone_tells_nothing():
    assert np.isnan(list(drawn(0.3, fall=0))).mean() > 0.95
    assert np.isnan(list(drawn(0.02, fall=0))).mean() > 0.95


def test_losses_that_are_not_finite_are_left_out():
    curve = read_curve(np.geomspace(1e-3, 1, 6), np.array([3, 2, 1, 0.5, np.nan, np.inf]))
    assert len(curve.rates) == 4


@pytest.mark.parametrize("losses", [[1, 2, 3, 4], [np.nan], []])
def test_a_loss_that_never_falls(losses):
    with pytest.raises(TrainingError, match="no rate at which the loss falls"):
        read_curve(np.geomspace(1e-3, 1, len(losses)) if losses else np.zeros(0), np.array(losses, np.float64))


def test_the_average_has_no_bias_at_its_start():
    assert smoothed([5.0, 5.0, 5.0]) == pytest.approx([5, 5, 5])
