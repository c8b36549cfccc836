"""What callbacks are told, that they leave no trace in a run, and what happens to those that fail."""

import csv
import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from detseg.train import Callback, train
from detseg.train.callbacks import trackers
from detseg.train.callbacks.callback import Callbacks
from detseg.train.callbacks.trackers import TRACKERS, create_trackers
from detseg.train.config import TrainDetector
from tests.train.runs import untimed

QUICK = {"size": 64, "batch_size": 2, "backbone": "test_efficientnet", "weights": "none", "precision": "fp32"}
CPU = torch.device("cpu")


class Notes(Callback):
    """Remembers what it is told, and draws random numbers."""

    def __init__(self):
        self.told = []

    def note(self, *told):
        self.told.append(told)
        random.random(), np.random.rand(), torch.rand(3)  # noqa: NPY002

    def start(self, run, step):
        self.note("start", run.folder, step)

    def step(self, run, step, values):
        self.note("step", step, dict(values))

    def validation(self, run, row):
        self.note("validation", row["step"], row[run.goal])

    def end(self, run, error):
        self.note("end", run.metrics is not None, error)


class Fails(Callback):
    def __init__(self, what, tracker=""):
        self.tracker, self.calls = tracker, []
        setattr(self, what, self.fail)

    def fail(self, *told):
        self.calls.append(told)
        raise KeyError("no server")

    def step(self, run, step, values):
        self.calls.append(step)


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
    """Folders of a run with callbacks and of one without, and what the callbacks were told."""
    folder, notes = tmp_path_factory.mktemp("runs"), Notes()
    with untimed():
        for name, callbacks, log in (("with", [notes], ("tensorboard",)), ("without", [], ())):
            config = TrainDetector(data=small, epochs=3, output=folder / name, log=log, **QUICK)
            train(config, callbacks=callbacks)
    return folder / "with", folder / "without", notes.told


def test_all_that_happens_is_told_in_its_order(runs):
    folder, _, told = runs
    assert told[0] == ("start", folder, 0) and told[-1] == ("end", True, None)
    with (folder / "metrics.csv").open() as file:
        rows = [(int(row["step"]), float(row["map"])) for row in csv.DictReader(file)]
    assert [tuple(rest) for what, *rest in told if what == "validation"] == rows and rows[-1][0] == 12
    _, step, values = next(entry for entry in told if entry[0] == "step")
    parts = [value for name, value in values.items() if name.startswith("loss_")]
    assert step == 10 and values["loss"] == pytest.approx(sum(parts)) and values["images_per_second"] > 0


def test_callbacks_leave_no_trace_in_the_weights(runs):
    one, other = (load_file(folder / "model.safetensors") for folder in runs[:2])
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert (runs[0] / "tensorboard").exists() and not (runs[1] / "tensorboard").exists()


def test_a_resumed_run_tells_where_it_goes_on(runs):
    notes = Notes()
    train(TrainDetector(resume=runs[1], more_epochs=1), callbacks=[notes])
    assert notes.told[0] == ("start", runs[1], 12) and notes.told[-1][0] == "end"
    steps = [step for what, step, *_ in notes.told if what == "validation"]
    assert min(steps) > 12 and steps[-1] == 16


def test_random_numbers_are_put_back_also_after_an_error():
    before = states()
    told = Callbacks([Notes(), Fails("validation")], SimpleNamespace(folder="f", goal="map"), CPU)
    with pytest.raises(KeyError):
        told.validation({"step": 3, "map": 0.5})
    assert states() == before


def test_the_end_is_told_with_the_error():
    notes, fails = Notes(), Fails("step")
    run = SimpleNamespace(folder="f", metrics=None)
    told = Callbacks([notes, fails], run, CPU)
    with pytest.raises(KeyError) as error, told.during(5):
        told.step(10, {})
    assert notes.told == [("start", "f", 5), ("step", 10, {}), ("end", False, error.value)]


def test_a_tracker_that_fails_is_left_out_with_a_word(caplog):
    fails, notes = Fails("validation", "mlflow"), Notes()
    told = Callbacks([fails, notes], SimpleNamespace(goal="map"), CPU)
    for step in (10, 20):
        told.step(step, {})
        told.validation({"step": step, "map": 0.1})
    assert [call for call in fails.calls if isinstance(call, int)] == [10], "nothing after it"
    assert [step for what, step, *_ in notes.told if what == "validation"] == [10, 20]
    assert caplog.text.count("mlflow logs no more of this run: 'no server'") == 1


def test_a_tracker_that_cannot_start_stops_the_run():
    with (
        pytest.raises(ValueError, match="--log wandb: 'no server'"),
        Callbacks([Fails("start", "wandb")], 0, CPU).during(0),
    ):
        pass


def test_trackers_by_name(monkeypatch):
    assert [tracker.tracker for tracker in create_trackers(["tensorboard", "tensorboard"])] == ["tensorboard"]
    assert create_trackers([]) == [] and list(TRACKERS) == ["tensorboard", "mlflow", "wandb"]
    with pytest.raises(ValueError, match="no tracker is named 'wanb'; did you mean wandb"):
        TrainDetector(data=".", log=("wanb",)).check()
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--log mlflow: needs mlflow: pip install 'detseg\[mlflow\]'"):
        create_trackers(["mlflow"])


def test_every_tracker_is_what_its_entry_says():
    for name, entry in TRACKERS.items():
        module, _, kind = entry.place.partition(":")
        made = getattr(__import__(f"detseg.train.callbacks.{module}", fromlist=[kind]), kind)()
        assert made.tracker == name


def test_errors_are_not_hidden_by_logging(caplog):
    """What ends a run is raised, not warned of."""
    with caplog.at_level(logging.WARNING), pytest.raises(KeyError):
        Callbacks([Fails("validation")], SimpleNamespace(), CPU).validation({})
    assert not caplog.text
