"""Losses and gradients that are not finite are reported with the right images."""

import pytest
import torch

from detseg.train.errors import TrainingError
from detseg.train.watch import FiniteWatch

NAMES = [f"image-{i}.jpg" for i in range(6)]
ONE, INF, NAN = (torch.tensor(value) for value in (1.0, torch.inf, torch.nan))


def watch(*entries, world=1, latest=10):
    made = FiniteWatch(NAMES, latest, world)
    for entry in entries:
        made.add(*entry)
    return made


def named(error):
    return [line.strip() for line in str(error.value).splitlines() if line.endswith(".jpg")]


def test_nothing_and_finite_values_pass():
    assert watch().check() is None
    assert watch(("loss", 1, [0], ONE), ("gradient", 1, [0], ONE)).check() is None


def test_the_first_is_reported_each_image_once():
    made = watch(("loss", 1, [0], ONE), ("loss", 2, [1, 1, 2], INF), ("loss", 3, [3], NAN))
    with pytest.raises(TrainingError, match="the loss became inf at step 2") as error:
        made.check()
    assert named(error) == ["image-1.jpg", "image-2.jpg"]


def test_only_the_latest_are_kept():
    entries = ("loss", 1, [0], NAN), ("loss", 2, [1], ONE)
    watch(*entries, latest=1).check()
    with pytest.raises(TrainingError):
        watch(*entries, latest=2).check()


@pytest.mark.parametrize(
    ("other", "message", "images"),
    [
        (("loss", 1, [4, 5], float("inf")), "the loss became inf at step 1", [4, 5]),
        (("gradient", 1, [4, 5], float("nan")), "the gradient became nan at step 1", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_of_several_processes_the_ones_whose_loss_it_was_are_named(monkeypatch, other, message, images):
    monkeypatch.setattr("detseg.train.watch.gather_object", lambda mine: [*mine, other])
    made = watch(("loss", 1, [0, 1, 2, 3], ONE), ("gradient", 1, [0, 1, 2, 3], NAN), world=2)
    with pytest.raises(TrainingError, match=message) as error:
        made.check()
    assert named(error) == [f"image-{i}.jpg" for i in images]


def test_a_loss_alone_asks_no_other_process(monkeypatch):
    """Others may have no reason to answer: where its gradient is finite, only one knows of it."""
    monkeypatch.setattr("detseg.train.watch.gather_object", lambda mine: pytest.fail("asked"))
    made = watch(("loss", 1, [2], INF), ("gradient", 1, [2], ONE), world=2)
    with pytest.raises(TrainingError, match=r"the loss became inf at step 1;.*\n  image-2\.jpg\n"):
        made.check()
