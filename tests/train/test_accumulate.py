"""Gradients of several batches added up: the same as one large batch, and a resumed run is the same to the last bit."""

import pytest
import torch
from torch import nn

from detseg.train.optim import create_optimizer
from detseg.train.sampler import SizeSchedule, groups_of
from tests.train.runs import EPOCHS, IMAGES, PER_EPOCH, differences, resumed, state_of, stop_at, tiny_trainer

# Together the two images a step of the other tests; a norm needs more than one cell of a single image.
HALVES = {"batch_size": 1, "accumulate": 2}
SIZES = SizeSchedule(96, 64, hold=2, mosaic=0.5, seed=5)


class Mean(nn.Module):
    """A loss that is a mean over images, without norms."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Linear(3, 1)

    def forward(self, images, targets):
        wanted = torch.stack([t["labels"].float() for t in targets])
        return {"loss": (self.backbone(images.float().mean((2, 3)) / 255) - wanted).square().mean()}


@pytest.mark.parametrize(("batch_size", "accumulate"), [(3, 2), (2, 3), (1, 6)])
def test_it_learns_like_one_large_batch(tmp_path, batch_size, accumulate):
    def trained(folder, **settings):
        model = Mean()
        optimizer = create_optimizer("sgd", [{"params": list(model.parameters()), "lr": 0.1, "weight_decay": 0.0}])
        trainer = tiny_trainer(
            tmp_path / folder, model=model, optimizer=optimizer, steps=4, sizes=SizeSchedule(64, 64), **settings
        )
        trainer.job.folder.mkdir()
        trainer.run()
        return trainer

    whole = trained("whole", batch_size=6)
    parts = trained("parts", batch_size=batch_size, accumulate=accumulate)
    assert torch.allclose(whole.model.backbone.weight, parts.model.backbone.weight, atol=1e-6)
    assert not torch.allclose(Mean().backbone.weight, parts.model.backbone.weight, atol=1e-3)
    rows = [{"loss": row["loss"], "step": row["step"], "epoch": row["epoch"]} for row in whole.log.rows]
    assert rows == [pytest.approx({name: row[name] for name in rows[0]}) for row in parts.log.rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    tiny_trainer(folder, sizes=SIZES, **HALVES).run()
    return folder


@pytest.mark.parametrize("step", [4, pytest.param(6, marks=pytest.mark.slow)])
def test_stopped_and_resumed_is_the_same_to_the_last_bit(whole, tmp_path, step):
    stop_at(tmp_path, step, sizes=SIZES, **HALVES).run()
    assert state_of(tmp_path)["step"] == step
    resumed(tmp_path, sizes=SIZES, **HALVES)
    assert differences(state_of(whole), state_of(tmp_path)) == []
    assert state_of(whole)["step"] == EPOCHS * PER_EPOCH


def test_every_image_is_seen_once_an_epoch(tmp_path):
    seen = []
    trainer = tiny_trainer(tmp_path, at=seen.append, sizes=SizeSchedule(64, 64), model=Mean(), **HALVES)
    trainer.run()
    epochs = [sorted(seen[i : i + IMAGES]) for i in range(0, IMAGES * EPOCHS, IMAGES)]
    assert epochs == [list(range(IMAGES))] * EPOCHS


def test_groups():
    assert list(groups_of(2, iter("abcde"))) == [["a", "b"], ["c", "d"]]
    assert list(groups_of(1, iter("ab"))) == [["a"], ["b"]]
    assert list(groups_of(3, iter(""))) == []
