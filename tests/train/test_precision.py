"""Choosing a number format by measuring, where some crash."""

import json
import math
import subprocess
from io import StringIO

import pytest
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from detseg.backbones import Backbone
from detseg.backbones import create as registry
from detseg.backbones.normalise import ONE_VALUE
from detseg.train import precision
from detseg.train.config import TrainDetector
from detseg.train.precision import CANDIDATES, PREFERRED, Choice, Decision, choose, choose_again, decide, leader, usual
from detseg.train.process import Process

FP32, BF16 = PREFERRED


class Machine:
    """Stands in for the child process: seconds a candidate in each round, infinite where a loss is not finite; where
    there are none it dies."""

    def __init__(self, **times):
        self.times, self.asked = times, []

    def run(self, command, *, input, **_):
        lines, every = ["a warning on stdout"], []
        for number, (name, channels_last) in enumerate(json.loads(input)["candidates"]):
            self.asked.append(Choice(name, channels_last))
            lines.append(json.dumps({"trying": number}))
            seconds = self.times.get(f"{name}_{'last' if channels_last else 'first'}")
            if seconds is None:
                return subprocess.CompletedProcess(command, -11, "\n".join(lines), "Fatal\nSegmentation fault\n")
            every.append(seconds if isinstance(seconds, list) else [seconds] * 3)
        lines += [json.dumps({"round": row}) for row in zip(*every, strict=True)]
        return subprocess.CompletedProcess(command, 0, "\n".join(lines), "")


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
    assert choose(SPEC, "auto") == (best, {FP32: 1.0, BF16: bf16}, True)
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
    machine(fp32_last=1.0, bf16_last=[0.5, 0.5, math.inf])
    assert choose(SPEC, "auto") == (FP32, {FP32: 1.0}, True)


@pytest.fixture(params=[BF16, FP32], ids=["bf16", "fp32"])
def known(request, monkeypatch):
    """What is usually faster here."""
    has = {"avx2": True, "avx512_bf16": request.param == BF16, "amx_bf16": False}
    monkeypatch.setattr(precision.torch.cpu, "get_capabilities", lambda: has, raising=False)
    return request.param


def test_what_is_usually_faster(known, monkeypatch):
    assert usual(PREFERRED) == known
    assert usual([FP32]) == FP32 and usual([BF16]) == BF16
    assert usual(CANDIDATES[2:]) == Choice(known.precision, False)
    monkeypatch.delattr(precision.torch.cpu, "get_capabilities")
    assert usual(PREFERRED) == FP32


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], "a"),
        ([9.0, 5.0, 1.0], [9.1, 5.1, 1.1], "a"),  # the machine is busy, less and less
        ([1.0, 3.0, 1.0], [2.0, 2.0, 2.0], None),
        ([1.0, 3.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], "a"),  # one of four
        ([3.0, 3.0, 3.0, 3.0], [4.0, 4.0, 4.0, 2.0], None),  # the quickest of all is the other's
        ([1.0, math.inf, 1.0], [2.0, 2.0, 2.0], None),
        ([1.0], [2.0], "a"),
    ],
)
def test_a_leader_is_the_quickest_mostly_and_of_all(a, b, expected):
    assert leader({"a": a, "b": b}) == expected
    assert leader({"b": b, "a": a}) == expected
    assert leader({"a": a}) == "a"


def test_of_times_that_contradict_each_other_the_usually_faster_one_is_taken(known):
    assert decide({FP32: [1.0, 3.0, 1.0], BF16: [2.0, 2.0, 2.0]}) == (known, {FP32: 1.0, BF16: 2.0}, False)


def test_of_equal_ones_too_and_nothing_is_to_be_looked_at_again(known):
    assert decide({FP32: [1.0, 3.0, 1.0], BF16: [1.04, 2.0, 2.0]}) == (known, {FP32: 1.0, BF16: 1.04}, True)


def test_another_look_changes_the_choice_if_it_is_clear(machine, known):
    other = {BF16: FP32, FP32: BF16}[known]
    fake = machine(fp32_last=[1.0, 3.0, 1.0], bf16_last=2.0)
    assert choose_again(SPEC, other) == (other, {FP32: 1.0, BF16: 2.0}, False)
    assert fake.asked == [FP32, BF16]
    machine(fp32_last=1.0, bf16_last=2.0)
    assert choose_again(SPEC, other) == (FP32, {FP32: 1.0, BF16: 2.0}, True)
    fake = machine()
    assert choose_again(SPEC, Choice("bf16", False)) == (Choice("bf16", False), {}, False)
    assert fake.asked[0] == Choice("fp32", False), "the layout of a run stays"


def test_candidates_take_turns_until_one_leads(monkeypatch, capsys):
    """The child itself, on a network of one layer and a clock that goes by turns."""
    took = {"fp32": iter([1.0] * 4 + [5.0, 1.0] * 5), "bf16": iter([1.0] * 4 + [2.0, 2.0] * 5)}
    steps = []

    def step(model, device, bf16, count, size):
        name = "bf16" if bf16 else "fp32"
        steps.append((name, size))
        return next(took[name]), True

    monkeypatch.setattr(precision, "_step", step)
    architecture = {"kind": "classifier", "backbone": "test_resnet", "num_classes": 2}
    spec = {"freeze": 0, "norms_rest": False, "size": 96, "batch_size": 1, "device": "cpu", "threads": 1}
    precision._run({"architecture": architecture, "candidates": PREFERRED, **spec})
    assert steps == [(name, size) for size in [64] * 3 + [96] * 8 for name in ("fp32", "bf16")]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["round"] for line in lines if "round" in line] == [[5.0, 2.0], [1.0, 2.0]] * 3 + [[5.0, 2.0]]


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
    assert choose({"architecture": architecture, **spec}, "auto") == Decision(FP32, {})


def test_what_is_not_timed_is_named(monkeypatch):
    monkeypatch.setattr("detseg.train.process.choose", lambda spec, precision: Decision(FP32, {}))
    lines = StringIO()
    process = Process(TrainDetector(backbone="my_net"), Accelerator(), Console(file=lines), None, None, None)
    assert process.choose_precision({}, 0) == FP32
    assert "float32, channels_last; not timed, as yolo on my_net is registered by code of your own" in lines.getvalue()


def test_one_cell_of_one_image_is_told_with_its_remedy(monkeypatch):
    said = f"ValueError: {ONE_VALUE}, where a map is one cell of one image"
    failed = subprocess.CompletedProcess([], 1, '{"trying": 0}\n', f"Traceback\n{said}\n")
    monkeypatch.setattr(precision.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ValueError, match=r"--batch-size 1 at --size 32, .*take --batch-size 2, or a larger --size"):
        choose(SPEC | {"batch_size": 1, "size": 32}, "fp32")
