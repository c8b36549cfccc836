"""Choosing a number format by measuring, where some crash."""

import json
import subprocess
from io import StringIO

import pytest
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from detseg.backbones import Backbone
from detseg.backbones import create as registry
from detseg.train import precision
from detseg.train.config import TrainDetector
from detseg.train.precision import CANDIDATES, PREFERRED, Choice, choose
from detseg.train.process import Process

FP32, BF16 = PREFERRED


class Machine:
    """Stands in for the child process: seconds a candidate, None = not finite, "crash" = it dies there."""

    def __init__(self, **times):
        self.times, self.asked = times, []

    def run(self, command, *, input, **_):
        lines = []
        for name, channels_last in json.loads(input)["candidates"]:
            self.asked.append(Choice(name, channels_last))
            seconds = self.times.get(f"{name}_{'last' if channels_last else 'first'}", "crash")
            if seconds == "crash":
                return subprocess.CompletedProcess(command, -11, "\n".join(lines), "Fatal\nSegmentation fault\n")
            lines.append(json.dumps({"seconds": seconds}))
        return subprocess.CompletedProcess(command, 0, "a warning on stdout\n" + "\n".join(lines), "")


@pytest.fixture
def machine(monkeypatch):
    def install(**times):
        fake = Machine(**times)
        monkeypatch.setattr(precision.subprocess, "run", fake.run)
        return fake

    return install


SPEC = {"architecture": {"backbone": "some_net"}}


def test_the_preferred_ones_are_channels_last():
    assert PREFERRED == (Choice("fp32", True), Choice("bf16", True))
    assert set(CANDIDATES) == {Choice(p, c) for p in ("fp32", "bf16") for c in (True, False)}


@pytest.mark.parametrize(("bf16", "best"), [(0.5, BF16), (2.0, FP32)])
def test_auto_takes_the_faster(machine, bf16, best):
    fake = machine(fp32_last=1.0, bf16_last=bf16)
    assert choose(SPEC, "auto") == (best, {FP32: 1.0, BF16: bf16})
    assert fake.asked == [FP32, BF16]  # contiguous memory is not tried where it is not needed


@pytest.mark.parametrize(("times", "best"), [({"fp32_last": 1.0}, FP32), ({"bf16_last": 9.0}, BF16)])
def test_auto_takes_what_works_when_a_candidate_crashes(machine, caplog, times, best):
    machine(**times)
    assert choose(SPEC, "auto")[0] == best
    assert "does not work with this network here (Segmentation fault)" in caplog.text


def test_auto_falls_back_to_contiguous_memory(machine):
    machine(fp32_first=2.0, bf16_first=1.0)
    assert choose(SPEC, "auto")[0] == Choice("bf16", False)


def test_a_loss_that_is_not_finite_rules_a_candidate_out(machine):
    machine(fp32_last=1.0, bf16_last=None)
    assert choose(SPEC, "auto") == (FP32, {FP32: 1.0})


def test_a_wish_is_kept_to(machine):
    fake = machine(fp32_last=0.1, bf16_last=1.0, bf16_first=1.0)
    assert choose(SPEC, "bf16")[0] == BF16
    assert fake.asked == [BF16]
    assert choose(SPEC, "fp32")[0] == FP32


def test_a_wish_that_needs_contiguous_memory(machine):
    fake = machine(fp32_last=0.1, bf16_first=1.0)
    assert choose(SPEC, "bf16")[0] == Choice("bf16", False)
    assert FP32 not in fake.asked


def test_nothing_works(machine):
    machine()
    with pytest.raises(ValueError, match="some_net cannot be trained with --precision auto on this machine"):
        choose(SPEC, "auto")


@pytest.mark.slow
def test_a_backbone_of_the_users_own_is_not_timed(monkeypatch):
    monkeypatch.setattr(registry.BACKBONES, "_entries", dict(registry.BACKBONES._entries))

    @registry.register_backbone("registered_by_a_test")
    def tiny(*, strides, in_channels):
        net = nn.Sequential(nn.Conv2d(in_channels, 4, 32, stride=32))
        return Backbone(net, strides=strides, in_channels=in_channels, name="registered_by_a_test")

    architecture = {"kind": "classifier", "backbone": "registered_by_a_test", "num_classes": 2}
    spec = {"freeze": 0, "norms_rest": False, "size": 64, "batch_size": 1, "device": "cpu"}
    assert choose({"architecture": architecture, **spec}, "auto") == (FP32, {})


def test_what_is_not_timed_is_named(monkeypatch):
    monkeypatch.setattr("detseg.train.process.choose", lambda spec, precision: (FP32, {}))
    lines = StringIO()
    process = Process(TrainDetector(backbone="my_net"), Accelerator(), Console(file=lines), None, None, None)
    assert process.choose_precision({}, 0) == FP32
    assert "float32, channels_last; not timed, as yolo on my_net is registered by code of your own" in lines.getvalue()
