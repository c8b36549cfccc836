"""Groups, schedules, freezing and the average of the weights."""

import copy
import math

import pytest
import torch
from torch import nn

from detseg.train.optim import (
    averaged,
    create_optimizer,
    freeze_stages,
    learning_rate_factor,
    norms,
    parameter_groups,
    train_mode,
)
from tests.train.runs import tiny_model


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 2, 1), nn.GroupNorm(1, 2))


def test_groups_by_part_and_decay():
    model = Small()
    model.backbone[0].weight.requires_grad_(False)
    groups = parameter_groups(model, lr=0.1, weight_decay=0.5, backbone_lr=0.2)
    described = {(round(g["lr"], 6), g["weight_decay"]): {id(p) for p in g["params"]} for g in groups}
    conv, norm = model.head
    assert described == {
        (0.02, 0.0): {id(p) for p in (model.backbone[0].bias, *model.backbone[1].parameters())},
        (0.1, 0.5): {id(conv.weight)},
        (0.1, 0.0): {id(p) for p in (conv.bias, *norm.parameters())},
    }


def test_every_learning_parameter_is_in_one_group():
    model = tiny_model()
    freeze_stages(model.backbone.stages, 1)
    grouped = [id(p) for g in parameter_groups(model, lr=1, weight_decay=1) for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimizers_remember_their_rates(name):
    optimizer = create_optimizer(name, parameter_groups(Small(), lr=0.1, weight_decay=0, backbone_lr=0.5))
    assert [g["initial_lr"] for g in optimizer.param_groups] == [g["lr"] for g in optimizer.param_groups]
    assert {g["initial_lr"] for g in optimizer.param_groups} == {0.1, 0.05}


@pytest.mark.parametrize(
    ("name", "plain"),
    [("adamw", torch.optim.AdamW), ("sgd", lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True))],
)
def test_one_pass_over_the_weights_steps_as_several_do(name, plain):
    models = [Small(), Small()]
    models[1].load_state_dict(models[0].state_dict())
    groups = [parameter_groups(model, lr=0.1, weight_decay=0.05, backbone_lr=0.5) for model in models]
    for model, optimizer in zip(models, (create_optimizer(name, groups[0]), plain(groups[1])), strict=True):
        torch.manual_seed(0)
        for _ in range(5):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="adamw or sgd"):
        create_optimizer("adam", [])
    with pytest.raises(ValueError, match="cosine or onecycle"):
        learning_rate_factor("step", 0, 0, 1)


def test_cosine_warms_up_and_falls_to_a_hundredth():
    assert [learning_rate_factor("cosine", 0, step, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert learning_rate_factor("cosine", 0.5, 99, 4) == pytest.approx(0.505)
    assert learning_rate_factor("cosine", 1, 99, 4) == pytest.approx(0.01)
    assert learning_rate_factor("cosine", 0, 0, 0) == 1  # no warm-up at all
    assert learning_rate_factor("cosine", 0.1, 2, 100) > 0.95  # a short run is warm after a tenth of it


def test_onecycle_rises_and_falls():
    values = [learning_rate_factor("onecycle", f / 100, 0, 100) for f in range(101)]
    assert values[0] == pytest.approx(0.04)
    assert values[30] == 1 == max(values)
    assert values[100] == pytest.approx(1e-4)
    assert values[:31] == sorted(values[:31])
    assert values[30:] == sorted(values[30:], reverse=True)


def test_freezing_stops_the_first_stages():
    stages = [[nn.Linear(1, 1)], [nn.Linear(1, 1), nn.Linear(1, 1)], [nn.Linear(1, 1)]]
    assert freeze_stages(stages, 2) == [*stages[0], *stages[1]]
    assert [m.weight.requires_grad for stage in stages for m in stage] == [False, False, False, True]
    assert freeze_stages(stages, 0) == []
    for count in (-1, 4):
        with pytest.raises(ValueError, match=f"has 3 stages, {count} cannot"):
            freeze_stages(stages, count)


def test_train_mode_leaves_some_modules_resting():
    model = Small().eval()
    train_mode(model, norms(model.backbone))
    assert model.training
    assert model.head[1].training
    assert model.backbone[0].training
    assert not model.backbone[1].training
    assert norms(model) == [model.backbone[1], model.head[1]]


def test_the_average_keeps_its_law():
    """a <- a + (1 - d) (w - a) with d = decay (1 - exp(-updates / 200)), for weights and statistics."""
    model, decay, step = Small().double(), 0.9, 0
    average = averaged(model, decay, lambda: step)
    expected = None
    for step in range(1, 6):
        with torch.no_grad():
            for tensor in (*model.parameters(), model.backbone[1].running_mean):
                tensor.normal_()
            model.backbone[1].num_batches_tracked += 3
        average.update_parameters(model)
        now = {k: v.clone() for k, v in model.state_dict().items()}
        weight = 1 - decay * (1 - math.exp(-step / 200))
        expected = now if expected is None else {k: (1 - weight) * v + weight * now[k] for k, v in expected.items()}
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])
    assert average.module.backbone[1].num_batches_tracked == 15


def test_the_average_of_weights_that_stand_still_is_those_weights():
    model = Small()
    average = averaged(copy.deepcopy(model), 0.999, lambda: 10_000)
    for _ in range(3):
        average.update_parameters(model)
    for a, b in zip(average.module.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_average_does_not_share_memory_with_the_model():
    model = Small()
    average = averaged(model, 0.9, lambda: 1)
    average.update_parameters(model)
    before = average.module.head[0].weight.clone()
    with torch.no_grad():
        model.head[0].weight += 1
    assert torch.equal(average.module.head[0].weight, before)
