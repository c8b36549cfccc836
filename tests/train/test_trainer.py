"""The loop: what it promises about stopping, resuming, checkpoints, clocks and bad losses."""

import itertools
import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from detseg.reading import FileError
from detseg.train.errors import TrainingError
from detseg.train.optim import freeze_stages, norms
from detseg.train.precision import Choice
from detseg.train.resume import RESUME, load_state
from detseg.train.sampler import SizeSchedule, TrainingSamples
from tests.train.runs import (
    BATCH,
    EPOCHS,
    IMAGES,
    PER_EPOCH,
    Drawn,
    differences,
    resumed,
    state_of,
    stop_at,
    tiny_model,
    tiny_trainer,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four epochs at once: the folder and the log."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = tiny_trainer(folder)
    trainer.run()
    return folder, trainer.log


def test_a_run_ends_after_its_steps_with_a_validation(whole):
    folder, log = whole
    assert [row["step"] for row in log.rows] == [PER_EPOCH * n for n in range(1, EPOCHS + 1)]
    assert log.rows[-1]["epoch"] == EPOCHS
    assert log.rows[0]["loss"] == pytest.approx(sum(v for k, v in log.rows[0].items() if k.startswith("loss_")))
    assert state_of(folder)["step"] == PER_EPOCH * EPOCHS


def test_the_test_of_equality_sees_one_bit(whole, tmp_path):
    """What the tests below stand on: another seed of the dropout, or one bit, would not go unnoticed."""
    state = state_of(whole[0])
    other = state_of(whole[0])
    weight = other["average"]["module.head.box.bias"]
    weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    assert differences(state, other) == ["/average/module.head.box.bias"]
    own = state["processes"][0]
    own = own | {"random": own["random"] | {"host": torch.zeros(3)}}
    assert differences(state, state | {"processes": [own]}) == ["/processes/0/random/host"]
    assert len(state["optimizer"]["state"]) > 10


# 6: at the end of an epoch, where a validation is due; 4 and 5: in the midst of one.
@pytest.mark.parametrize("step", [4, pytest.param(5, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)])
def test_stopped_and_resumed_is_the_same_to_the_last_bit(whole, tmp_path, step):
    first = stop_at(tmp_path, step)
    first.run()
    assert first.interrupted
    assert state_of(tmp_path)["step"] == step
    second = resumed(tmp_path)
    assert second.log.rewound == [PER_EPOCH], "the validation of step 6 is yet to come"
    assert differences(state_of(whole[0]), state_of(tmp_path)) == []
    # The same validations, and the same losses in them, as without the stop.
    rows = first.log.rows + second.log.rows
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in whole[1].rows]


@pytest.mark.slow
def test_stopped_twice_and_resumed_with_worker_processes(whole, tmp_path):
    stop_at(tmp_path, 2).run()
    second = stop_at(tmp_path, 7)
    second.run(load_state(tmp_path / RESUME))
    assert second.interrupted
    resumed(tmp_path, workers=2)
    assert differences(state_of(whole[0]), state_of(tmp_path)) == []


@pytest.mark.parametrize("looked", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_resumed_run_keeps_the_number_format_that_another_look_has_given(tmp_path, monkeypatch, looked):
    """It is before the third step; the process stops before it, or dies right after it."""
    monkeypatch.setattr("detseg.train.loop.CHOOSE_AGAIN", 0.4)
    looks = []

    def look():
        looks.append(trainer.progress.step)
        return Choice("bf16", True)

    def step(*given):
        if trainer.choice.precision == "bf16":
            raise KeyError
        type(trainer).step(trainer, *given)

    trainer = tiny_trainer(tmp_path / "whole", steps=5, choose_again=look)
    trainer.run()
    trainer = stop_at(tmp_path / "parts", 3 if looked else 2, steps=5, choose_again=look)
    trainer.step = step
    with pytest.raises(KeyError) if looked else nullcontext():
        trainer.run()
    state = load_state(tmp_path / "parts" / RESUME)
    assert (state["step"], state["choice"], state["unsure"]) == (2, ["bf16" if looked else "fp32", True], not looked)
    again = look if state["unsure"] else None
    trainer = tiny_trainer(tmp_path / "parts", steps=5, choice=Choice(*state["choice"]), choose_again=again)
    trainer.run(state)
    assert looks == [2, 2]
    whole, parts = (state_of(tmp_path / name) for name in ("whole", "parts"))
    assert whole["choice"] == ["bf16", True]
    assert differences(whole, parts) == []


@pytest.mark.slow
def test_killed_in_the_midst_of_an_epoch_and_resumed(whole, tmp_path):
    child = run_child(tmp_path, "kill")
    assert child.wait(1800) == -signal.SIGKILL, child.stderr.read()
    assert state_of(tmp_path)["step"] == PER_EPOCH + 1
    resumed(tmp_path)
    assert differences(state_of(whole[0]), state_of(tmp_path)) == []


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint(tmp_path):
    child = run_child(tmp_path, "wait")
    assert child.stdout.readline() == "begun\n", child.stderr.read()
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=1800)
    assert child.returncode == 0, errors
    step = state_of(tmp_path)["step"]
    assert output.splitlines()[-1] == f"interrupted: True, steps: {step}"
    assert step >= 4


def run_child(folder, what):
    command = [sys.executable, "-m", "tests.train.runs", str(folder), what]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_resuming_a_finished_run_changes_nothing(whole, tmp_path):
    tiny_trainer(tmp_path, steps=2).run()
    before = state_of(tmp_path)
    again = resumed(tmp_path, steps=2)
    assert again.log.rows == []
    assert differences(before, state_of(tmp_path)) == []


@pytest.mark.slow
def test_a_run_can_be_resumed_from_its_first_moment_on(whole, tmp_path):
    trainer = tiny_trainer(tmp_path, at=lambda index: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    resumed(tmp_path)
    assert differences(state_of(whole[0]), state_of(tmp_path)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"world": 2}, "started with 2 processes"),
        (
            {"fingerprint": {"annotations": "other"}},
            "the annotations have changed since this run was started; put them back",
        ),
    ],
)
def test_what_cannot_be_resumed_is_refused(whole, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        tiny_trainer(tmp_path).run(load_state(whole[0] / RESUME) | change)


def damaged(state, *path, value):
    """A copy of a state with another value at a place."""
    first, *rest = path
    return {**state, first: damaged(state[first], *rest, value=value) if rest else value}


@pytest.mark.slow
def test_a_state_of_another_model_or_optimizer_is_refused_by_the_entry(whole, tmp_path):
    state = load_state(whole[0] / RESUME)
    name, tensor = next(iter(state["model"].items()))
    moment = state["optimizer"]["state"][0]["exp_avg"]
    for path, value, message in (
        (("model", name), tensor[None], f"model: {name}: is float32"),
        (("model", name), tensor.double(), f"model: {name}: is float64"),
        (("model", name), tensor * float("nan"), f"model: {name}: has values that are not finite"),
        (("average", "x"), tensor, "average: 'x' is unknown"),
        (("step",), 10**12, "step: is 1,000,000,000,000, after the run's last, "),
        (("average",), {}, "average: 'module."),
        (("optimizer", "state", 0, "exp_avg"), moment[None], "optimizer: state: 0: exp_avg: is float32"),
        (("optimizer", "state", 0, "exp_avg"), None, "optimizer: state: 0: exp_avg: is no tensor"),
        (("optimizer", "state", 0, "step"), torch.tensor(-1.0), "optimizer: state: 0: step: is below zero"),
        (("model", name), torch.nested.nested_tensor([tensor]), f"model: {name}: is no plain tensor"),
        (("model", name), tensor * 0 + 1e30, f"model: {name}: has values that are not finite, or beyond 1e+18"),
        (("optimizer", "state", 0), {}, "optimizer: state: 0: 'exp_avg' is missing"),
        (("optimizer", "state", 9999), {}, "optimizer: state: 9999: there are "),
        (("optimizer", "param_groups"), [], "optimizer: param_groups: hold other parameters"),
    ):
        with pytest.raises(FileError) as error:
            tiny_trainer(tmp_path)._restore(damaged(state, *path, value=value))
        assert str(error.value).startswith(f"{tmp_path / RESUME}: {message}"), path


def test_tensors_of_a_state_that_share_memory_become_the_optimizers_own(whole, tmp_path):
    state = load_state(whole[0] / RESUME)
    every = state["optimizer"]["state"]
    one = {number: torch.zeros(()).expand(values["exp_avg"].shape) for number, values in every.items()}
    shared = {n: values | {"exp_avg": one[n], "exp_avg_sq": one[n]} for n, values in every.items()}
    trainer = tiny_trainer(tmp_path)
    trainer._restore(damaged(state, "optimizer", "state", value=shared))
    held = [values[name] for values in trainer.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert all(moment.stride() == moment.clone().stride() for moment in held)
    assert len({moment.data_ptr() for moment in held}) == len(held) > 10


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("format", torch.zeros(2), "format tensor"),
        ("format", 3.5, "format 3.5"),
        ("numpy", None, "processes: 0: random"),
        ("numpy", ("MT19937", [1] * 624, 2**31 - 1, 0, 0.0), "numpy: the place is not in 0..624"),
        ("python", (3, (*range(624), 624), "x"), "processes: 0: random"),
    ],
)
def test_a_state_whose_generators_or_version_are_damaged_is_refused(whole, tmp_path, entry, value, message):
    state = torch.load(whole[0] / RESUME, weights_only=True)
    if entry == "format":
        state["format"] = value
    else:
        state["processes"][0]["random"][entry] = value
    torch.save(state, tmp_path / RESUME)
    with pytest.raises(FileError) as error:
        load_state(tmp_path / RESUME)
    assert str(error.value).startswith(f"{tmp_path / RESUME}: ") and message in str(error.value)


def test_signal_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    stop_at(tmp_path, 1, steps=2).run()
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_loss_that_is_not_finite_stops_with_the_names_of_the_images(tmp_path):
    bad = 4
    trainer = tiny_trainer(
        tmp_path,
        model=Fragile(bad),
        samples=TrainingSamples(Numbered(), 0),
        sizes=SizeSchedule(64, 64),
        save_seconds=0,
    )
    with pytest.raises(TrainingError, match=r"became nan at step") as error:
        trainer.run()
    named = [line.strip() for line in str(error.value).splitlines() if line.endswith(".jpg")]
    assert f"image-{bad}.jpg" in named
    assert len(named) == 2  # the batch, and nothing but the batch
    assert load_state(tmp_path / RESUME)["model"]["backbone.weight"].isfinite().all()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path, accumulate):
    trainer = steep_trainer(tmp_path, steps=1, batch_size=IMAGES // accumulate, accumulate=accumulate)
    with pytest.raises(TrainingError, match=r"the gradient became nan at step 1;") as error:
        trainer.run()
    assert str(error.value).count(".jpg") == IMAGES
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert not (tmp_path / "model.safetensors").exists()
    assert load_state(tmp_path / RESUME)["step"] == 0


def test_a_gradient_that_is_read_late_is_still_the_first_that_is_named_and_nothing_is_saved(tmp_path):
    """As on a GPU, which is asked only now and then."""
    trainer = steep_trainer(tmp_path, steps=PER_EPOCH)
    trainer._validated_at = 1.0  # no validation, which would ask
    trainer._check_finite = lambda: None
    with pytest.raises(TrainingError, match="the gradient became nan at step") as error:
        trainer.run()
    assert "image-4.jpg" in str(error.value)
    assert str(error.value).count(".jpg") == BATCH
    assert trainer.progress.step == PER_EPOCH
    assert load_state(tmp_path / RESUME)["model"]["backbone.weight"].isfinite().all()


def test_a_resumed_run_is_not_saved_again_at_once(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("detseg.train.sampler.time", clock)
    changes = {"sizes": SizeSchedule(64, 64), "model": Fragile(-1), "steps": 1000, "save_seconds": 50}

    def stopping(step):
        trainer = tiny_trainer(
            tmp_path,
            at=lambda i: clock.tick(i) or (trainer.progress.step + 1 == step and os.kill(os.getpid(), 15)),
            **changes,
        )
        return trainer

    stopping(40).run()
    again, saved = stopping(80), []
    save = again._save
    again._save = lambda: saved.append(again.progress.step) or save()
    again.run(load_state(tmp_path / RESUME))
    assert saved == [40 + 26, 80]  # two seconds a step


def steep_trainer(folder, **changes):
    samples = TrainingSamples(Numbered(), 0)
    return tiny_trainer(folder, model=Steep(4), samples=samples, sizes=SizeSchedule(64, 64), **changes)


class Numbered(Drawn):
    """Every image has its position as label."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        sample.labels[:] = index
        return sample


class Fragile(nn.Module):
    """Its loss is NaN for one label."""

    def __init__(self, bad):
        super().__init__()
        self.backbone = nn.Linear(1, 1)
        self.bad = bad

    def forward(self, images, targets):
        labels = torch.cat([t["labels"] for t in targets])
        value = float("nan") if (labels == self.bad).any() else 1.0
        return {"loss": self.backbone(torch.ones(1, 1)).sum() * value}


class Steep(Fragile):
    """Its loss is finite, but has no slope for one label: the root of zero."""

    def forward(self, images, targets):
        labels = torch.cat([t["labels"] for t in targets])
        root = (self.backbone.weight.sum() * float((labels != self.bad).all())).square().sqrt()
        return {"loss": root}


def test_the_best_model_is_kept(tmp_path):
    scores = iter([0.2, 0.7, 0.7, 0.1])
    seen = []

    def validate(model):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"map": next(scores), "map50": 1.0}

    trainer = tiny_trainer(tmp_path, validate=validate)
    trainer.run()
    assert trainer.best == 0.7
    assert json.loads((tmp_path / "model.json").read_text())["row"]["step"] == 3 * PER_EPOCH  # the last of equals
    saved = load_file(tmp_path / "model.safetensors")
    assert differences(saved, seen[2]) == []
    assert differences(saved, seen[1]) != []


def test_a_resumed_run_remembers_its_best(tmp_path):
    stop_at(tmp_path, 4, validate=lambda model: {"map": 0.9, "map50": 1.0}).run()
    before = (tmp_path / "model.safetensors").read_bytes()
    assert resumed(tmp_path, validate=lambda model: {"map": 0.89, "map50": 1.0}).best == 0.9
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_of_a_score_that_never_rises_the_longest_trained_model_is_kept(tmp_path):
    tiny_trainer(tmp_path, validate=lambda model: {"map": 0.0, "map50": 0.0}).run()
    assert json.loads((tmp_path / "model.json").read_text())["row"]["step"] == EPOCHS * PER_EPOCH


def test_validated_is_the_average_not_the_model(tmp_path):
    models = []
    trainer = tiny_trainer(tmp_path, steps=3, validate=lambda m: models.append(m) or {"map": 0.0, "map50": 0.0})
    trainer.run()
    assert models
    assert all(model is trainer.average.module for model in models)
    assert differences(dict(trainer.model.state_dict()), dict(models[0].state_dict())) != []


def test_frozen_stages_and_resting_norms_do_not_change(tmp_path):
    model = tiny_model()
    frozen = freeze_stages(model.backbone.stages, 2)
    resting = norms(model.backbone)
    weights = {f"backbone.{name}" for name, p in model.backbone.named_parameters() if not p.requires_grad}
    statistics = {f"backbone.{name}" for name, _ in model.backbone.named_buffers()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tiny_trainer(tmp_path, model=model, in_eval=[*frozen, *resting], steps=6).run()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert len(weights) > 5
    assert not changed & (weights | statistics)
    # All else has learnt, the affine weights of resting norms too.
    assert {name for name, p in model.named_parameters() if p.requires_grad} <= changed


class Clock:
    """A second passes for every image that is read."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def tick(self, index):
        self.now += 1


@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_a_budget_of_time_ends_on_time_and_the_schedule_with_it(tmp_path, monkeypatch, schedule):
    clock = Clock()
    monkeypatch.setattr("detseg.train.sampler.time", clock)
    rates = []
    trainer = tiny_trainer(
        tmp_path, at=clock.tick, seconds=60, schedule=schedule, sizes=SizeSchedule(64, 64), model=Fragile(-1)
    )
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.run()
    assert trainer.progress.elapsed() == pytest.approx(60, abs=4)
    assert len(rates) in (30, 31)  # of two images each
    assert rates[-1] < 0.05 * max(rates)
    assert trainer.log.rows[-1]["seconds"] == pytest.approx(60, abs=4)
    assert 5 <= len(trainer.log.rows) <= 11


def test_the_minutes_count_from_the_start_of_training(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("detseg.train.sampler.time", clock)
    trainer = tiny_trainer(tmp_path, at=clock.tick, seconds=60, sizes=SizeSchedule(64, 64), model=Fragile(-1))
    clock.now += 50  # a test of learning rates, say
    trainer.run()
    assert trainer.progress.step in (29, 30, 31)
    assert trainer.progress.elapsed() == pytest.approx(60, abs=4)


def test_a_resumed_budget_of_time_uses_what_is_left(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("detseg.train.sampler.time", clock)
    changes = {"seconds": 60, "sizes": SizeSchedule(64, 64), "model": Fragile(-1)}
    trainer = tiny_trainer(
        tmp_path, at=lambda i: clock.tick(i) or (trainer.progress.step == 9 and os.kill(os.getpid(), 15)), **changes
    )
    trainer.run()
    clock.now += 1e6  # the night between
    again = resumed(tmp_path, at=clock.tick, **changes)
    assert again.progress.elapsed() == pytest.approx(60, abs=4)
    assert again.progress.step in (29, 30, 31)


def test_worker_processes_give_the_same_batches(tmp_path):
    def batches(workers):
        trainer = tiny_trainer(tmp_path, workers=workers)
        return [list(batch) for batch in itertools.islice(trainer.stream(), 2 * PER_EPOCH)]

    alone, helped = batches(0), batches(2)
    assert differences(alone, helped) == []
    assert {tuple(images.shape[-2:]) for images, *_ in alone} == {(32, 32), (64, 64)}
    assert any(len(indices) >= 5 for *_, indices in alone), "no mosaic among them"
    assert any(len(indices) in (3, 4, 6, 7, 9, 10) for *_, indices in alone), "none is mixed"


def test_bfloat16_and_contiguous_train_too(tmp_path):
    trainer = tiny_trainer(tmp_path, choice=Choice("bf16", False), steps=2)
    trainer.run()
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert trainer.log.rows[-1]["loss"] > 0


def test_every_image_is_seen_once_an_epoch(tmp_path):
    seen = []
    trainer = tiny_trainer(tmp_path, at=seen.append, sizes=SizeSchedule(64, 64), model=Fragile(-1))
    trainer.run()
    epochs = [sorted(seen[i : i + IMAGES]) for i in range(0, IMAGES * EPOCHS, IMAGES)]
    assert epochs == [list(range(IMAGES))] * EPOCHS


def test_several_processes_know_how_far_the_run_is_to_all_digits(tmp_path):
    """As when it is resumed; what they send each other has seven."""
    trainer = tiny_trainer(tmp_path, steps=12)
    trainer._world, trainer.progress.step = 2, 10
    trainer.progress.begin()
    trainer._synchronise()
    assert trainer._fraction == trainer.progress.fraction() == 10 / 12
