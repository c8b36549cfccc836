"""Each detector stopped and resumed, and trained by two processes; what it draws at random included."""

import os
import signal

import pytest
import torch

from detseg.data.dataset import DetectionDataset
from detseg.models import load_model
from detseg.train.config import config_for
from detseg.train.runner import train
from tests.mask_set import write_mask_set
from tests.train.runs import differences, state_of
from tests.train.test_processes import launch

pytestmark = pytest.mark.slow

QUICK = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 3, "batch_size": 2}
RANDOM = {"mosaic": 0.3, "mixup": 0.3, "copy_paste": 0.5}
detectors = pytest.mark.parametrize("words", ["ssd", "faster_rcnn", "mask_rcnn", "yolo", "yolo masks"])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_mask_set(tmp_path_factory.mktemp("every") / "set", train=6)


@detectors
def test_stopped_and_resumed_is_the_same(words, data, tmp_path, monkeypatch):
    name, *flags = words.split()

    def config(**options):
        return config_for("detector", name)(**options)

    settings = QUICK | RANDOM | {"data": data, "precision": "fp32"} | dict.fromkeys(flags, True)
    train(config(output=tmp_path / "whole", **settings))
    take, taken = DetectionDataset.__getitem__, []

    def counted(self, index):
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # training has begun
            taken.append(index)
        if len(taken) == 12:  # in the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionDataset, "__getitem__", counted)
        assert train(config(output=tmp_path / "parts", **settings)).interrupted
    assert 1 <= state_of(tmp_path / "parts")["step"] < 9
    train(config(resume=tmp_path / "parts"))
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "parts")) == []
    saved = [dict(load_model(tmp_path / folder)[0].state_dict()) for folder in ("whole", "parts")]
    assert differences(*saved) == []


@detectors
def test_two_processes_end_with_the_same_weights(words, data, tmp_path):
    launch("-m", "tests.train.processes", data, tmp_path / "run", "detector", 0, *words.split())
    first, second = (torch.load(tmp_path / f"run-{rank}.pt", weights_only=False) for rank in (0, 1))
    assert first["step"] == second["step"] == 3
    assert differences(first["weights"], second["weights"]) == []
    assert differences(first["average"], second["average"]) == []
    assert second["predictions"] is None and len(first["predictions"]) == 5
