"""Losses of the grid head: hand-computed, laws, torchvision as oracle."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss, sigmoid_focal_loss

from detseg.detect.assign import Assignment
from detseg.detect.losses import (
    BOX,
    CLASS,
    DISTRIBUTION,
    OBJECTNESS,
    distribution_focal,
    distribution_loss,
    grid_losses,
    quality_focal,
)


def test_quality_focal_by_hand() -> None:
    logits, quality = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 0.5])
    p = 1 / (1 + math.exp(-2))
    expected = [0.25 * math.log(2), 0.25 * math.log(2), (p - 0.5) ** 2 * -(0.5 * math.log(p) + 0.5 * math.log(1 - p))]
    assert quality_focal(logits, quality).tolist() == pytest.approx(expected, rel=1e-5)


def test_quality_focal_is_the_focal_loss_for_hard_targets() -> None:
    logits = torch.randn(100, generator=torch.Generator().manual_seed(0)) * 3
    target = (torch.arange(100) % 3 == 0).float()
    oracle = sigmoid_focal_loss(logits, target, alpha=-1, gamma=2)
    torch.testing.assert_close(quality_focal(logits, target), oracle)


def batch(chosen: list[list[bool]]) -> dict:
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(2, 3, 2, generator=generator) * 40
    found = torch.cat((corner, corner + 5 + torch.rand(2, 3, 2, generator=generator) * 30), -1)
    prediction = torch.tensor([[0, 3, 4], [6, 7, 9]])
    return {
        "found": found.requires_grad_(),
        "objectness": torch.randn(2, 5, generator=generator).requires_grad_(),
        "class_logits": torch.randn(2, 5, 3, generator=generator).requires_grad_(),
        "assignment": Assignment(prediction, torch.tensor(chosen)),
        "boxes": torch.tensor([[5.0, 5.0, 30.0, 40.0], [10.0, 20.0, 50.0, 45.0]]),
        "labels": torch.tensor([2, 0]),
        "ignore": torch.zeros(2, 5, dtype=torch.bool),
    }


def test_equals_plain_sums_over_the_pairs() -> None:
    given = batch([[True, False, True], [False, True, False]])
    losses = grid_losses(**given)
    objects, candidates = torch.tensor([(0, 0), (0, 2), (1, 1)]).T
    predictions = given["assignment"].prediction[objects, candidates]
    found = given["found"].detach()[objects, candidates]
    box = complete_box_iou_loss(found, given["boxes"][objects], reduction="sum") / 3
    entropy = F.cross_entropy(
        given["class_logits"].reshape(-1, 3)[predictions], given["labels"][objects], reduction="sum"
    )
    losses = {name: value.detach() for name, value in losses.items()}
    assert float(losses["loss_box"]) == pytest.approx(BOX * float(box.detach()), rel=1e-5)
    assert float(losses["loss_class"]) == pytest.approx(CLASS * float(entropy.detach()) / 3, rel=1e-5)


def test_all_losses_are_positive_with_an_object_and_reach_their_inputs() -> None:
    given = batch([[True, True, False], [True, False, False]])
    losses = grid_losses(**given)
    assert all(float(value) > 0 for value in losses.values())
    sum(losses.values()).backward()
    for name in ("found", "objectness", "class_logits"):
        gradient = given[name].grad
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_nothing_chosen_gives_exactly_zero_box_and_class_loss() -> None:
    given = batch([[False] * 3, [False] * 3])
    losses = grid_losses(**given)
    assert float(losses["loss_box"]) == float(losses["loss_class"]) == 0.0
    background = quality_focal(given["objectness"], torch.zeros(2, 5)).sum()
    assert float(losses["loss_objectness"]) == pytest.approx(OBJECTNESS * float(background))
    sum(losses.values()).backward()
    assert given["found"].grad.abs().sum() == 0


def test_crowd_regions_teach_neither_object_nor_background() -> None:
    given = batch([[True, False, False], [False] * 3])
    given["ignore"][0, :] = True
    losses = grid_losses(**given)
    losses["loss_objectness"].backward()
    gradient = given["objectness"].grad
    assert gradient[0, 0] != 0, "an object inside the region is still learnt"
    assert gradient[0, 1:].abs().sum() == 0
    assert (gradient[1] != 0).all()


@pytest.mark.parametrize("bins", [2, 3, 16])
def test_distribution_focal_is_the_mean_cross_entropy_of_the_bins_on_either_side(bins: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, bins, generator=generator)
    means = torch.rand(7, 4, generator=generator) * 2 - 1
    means[0], means[1] = -1, 1
    values = [-1 + 2 * i / (bins - 1) for i in range(bins)]
    wanted = []
    for row, four in zip(logits, means.tolist(), strict=True):
        costs = []
        for bin_logits, mean in zip(row, four, strict=True):
            shares = [max(0.0, 1 - abs(mean - value) * (bins - 1) / 2) for value in values]
            costs.append(float(F.cross_entropy(bin_logits, torch.tensor(shares))))
        wanted.append(sum(costs) / 4)
    assert distribution_focal(logits.flatten(1), means).tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_distribution_loss_is_a_mean_over_pairs_and_zero_without() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, means = torch.randn(2, 3, 32, generator=generator), torch.rand(2, 3, 4, generator=generator)
    chosen = torch.tensor([[True, False, True], [False, False, True]])
    mean = DISTRIBUTION * float(distribution_focal(logits[chosen], means[chosen]).mean())
    assert float(distribution_loss(logits, means, chosen)) == pytest.approx(mean, rel=1e-5)
    assert float(distribution_loss(logits, means, ~chosen & chosen)) == 0
    assert float(distribution_loss(logits[:0], means[:0], chosen[:0])) == 0
