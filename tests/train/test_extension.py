"""Runs that go on after their end, and those that end early."""

import json
import logging
import shutil

import pytest

from detseg.train.config import SETTINGS, TrainDetector, load_config
from detseg.train.extension import Extension, add_extension, last_extension
from detseg.train.process import process
from detseg.train.resume import RESUME, load_state, save_state
from detseg.train.sampler import Progress, SizeSchedule
from tests.train.runs import EPOCHS, PER_EPOCH, STATE, differences, resumed, state_of, stop_at, tiny_trainer
from tests.train.test_trainer import Clock, Fragile

FIRST, MORE = 2 * PER_EPOCH, EPOCHS * PER_EPOCH
EXTENDED = {"steps": MORE, "first_step": FIRST}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder of a run that has reached its end."""
    folder = tmp_path_factory.mktemp("ended")
    tiny_trainer(folder, steps=FIRST).run()
    return folder


@pytest.fixture
def copied(ended, tmp_path):
    """A copy of it."""
    return shutil.copytree(ended, tmp_path / "run")


@pytest.fixture(scope="module")
def extended(ended, tmp_path_factory):
    """The folder of the same run after an extension, and its log."""
    folder = shutil.copytree(ended, tmp_path_factory.mktemp("extended") / "run")
    return folder, resumed(folder, **EXTENDED).log


@pytest.mark.slow
def test_an_extension_is_a_schedule_of_its_own(extended):
    """Steps, epochs and the log go on; the rate rises and falls again; sizes settle at its end."""
    folder, log = extended
    assert [row["step"] for row in log.rows] == [FIRST + PER_EPOCH * n for n in range(1, EPOCHS + 1)]
    assert log.rows[-1]["epoch"] == 2 + EPOCHS
    rates = [row["lr"] for row in log.rows]
    assert rates == sorted(rates, reverse=True) and rates[0] > 5 * rates[-1]
    assert log.rewound == [FIRST]
    state = state_of(folder)
    assert (state["step"], state["validated_at"]) == (FIRST + MORE, 1.0)
    trainer = tiny_trainer(folder, **EXTENDED)
    sizes = [trainer.batches.sizes.at(step, trainer._fraction_at(step))[0] for step in range(FIRST, FIRST + MORE)]
    settle = round(MORE * 0.7)
    assert min(sizes[:settle]) < 96 and set(sizes[settle + 1 :]) == {96}


# 7: after its first step; 9: where a validation is due; 11: in the midst of an epoch.
@pytest.mark.slow
@pytest.mark.parametrize("step", [7, 9, 11])
def test_an_extension_that_is_stopped_and_resumed_is_the_same_to_the_last_bit(extended, copied, step):
    first = stop_at(copied, step, **EXTENDED)
    first.run(load_state(copied / RESUME))
    assert first.interrupted and state_of(copied)["step"] == step
    second = resumed(copied, **EXTENDED)
    assert differences(state_of(extended[0]), state_of(copied)) == []
    rows = first.log.rows + second.log.rows
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in extended[1].rows]


@pytest.mark.slow
def test_an_interrupted_run_is_extended_from_where_it_stands(tmp_path):
    stop_at(tmp_path, 4).run()
    assert state_of(tmp_path)["validated_at"] > 0
    trainer = resumed(tmp_path, steps=PER_EPOCH, first_step=4)
    assert trainer.progress.step == 4 + PER_EPOCH and trainer.log.rows[-1]["step"] == 4 + PER_EPOCH


@pytest.mark.slow
def test_the_best_model_so_far_is_kept_until_there_is_a_better(tmp_path):
    tiny_trainer(tmp_path, steps=FIRST, validate=lambda model: {"map": 0.6, "map50": 1}).run()
    before = (tmp_path / "model.safetensors").read_bytes()
    scores = iter([0.1, 0.59, 0.61, 0.2])
    trainer = resumed(tmp_path, **EXTENDED, validate=lambda model: {"map": next(scores), "map50": 1})
    assert trainer.best == 0.61 and (tmp_path / "model.safetensors").read_bytes() != before
    assert json.loads((tmp_path / "model.json").read_text())["row"]["step"] == FIRST + 3 * PER_EPOCH


def test_more_minutes_are_counted_from_the_extension_on(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("detseg.train.sampler.time", clock)
    changes = {"sizes": SizeSchedule(64, 64), "model": Fragile(-1)}
    tiny_trainer(tmp_path, at=clock.tick, seconds=20, **changes).run()
    clock.now += 1e6
    elapsed = load_state(tmp_path / RESUME)["elapsed"]
    more = {"seconds": 30, "first_step": 10, "first_second": elapsed}
    again = resumed(tmp_path, at=clock.tick, **more, **changes)
    assert again.progress.elapsed() == pytest.approx(50, abs=6)
    assert again.log.rows[-1]["step"] in range(23, 28)


def test_fractions_of_an_extension():
    progress = Progress(10, None, step=25, first_step=20)
    assert (progress.fraction(), progress.fraction_at(20, 0.0), progress.fraction_at(40, 0.0)) == (0.5, 0.0, 1.0)
    assert Progress(None, 10.0, first_second=5.0).fraction_at(3, 10.0) == 0.5


def test_the_settings_of_a_run_list_its_extensions(tmp_path):
    config = TrainDetector(data=tmp_path, epochs=3)
    config.save(tmp_path)
    assert last_extension(tmp_path) is None
    for extension in (Extension(2, None, 30, 12.3456789012345), Extension(None, 1.5, 50, 0.1 + 0.2)):
        add_extension(tmp_path, extension)
        assert last_extension(tmp_path) == extension
    assert load_config(tmp_path) == config
    assert len(json.loads((tmp_path / SETTINGS).read_text())["extensions"]) == 2


def test_what_a_resumed_run_goes_on_with(tmp_path):
    """A new extension begins where the state ends, and is noted when it begins; later it is gone on with."""
    TrainDetector(data=tmp_path).save(tmp_path)
    save_state(tmp_path / RESUME, STATE | {"step": 12, "elapsed": 3.5})
    for more, extension in (
        ({}, None),
        ({"more_epochs": 4}, Extension(4, None, 12, 3.5)),
        ({}, Extension(4, None, 12, 3.5)),
        ({"more_minutes": 0.5}, Extension(None, 0.5, 12, 3.5)),
        ({}, Extension(None, 0.5, 12, 3.5)),
    ):
        with process(TrainDetector(resume=tmp_path, **more)) as this:
            assert this.extension == extension
            this.keep_extension()
    assert len(json.loads((tmp_path / SETTINGS).read_text())["extensions"]) == 2


# ------------------------------------------------------------------ stopping early


def falling(*scores):
    """Figures of a run, one a validation."""
    values = iter(scores)
    return lambda model: {"map": next(values), "map50": 1.0}


@pytest.mark.slow
def test_a_run_that_no_longer_gets_better_ends(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "detseg"):
        trainer = tiny_trainer(tmp_path, patience=2, validate=falling(0.3, 0.3, 0.2))
        trainer.run()
    assert trainer.stopped and not trainer.interrupted
    assert (trainer.progress.step, len(trainer.log.rows)) == (3 * PER_EPOCH, 3)
    assert caplog.messages == ["stopped early: no better mAP in 2 validations; best 0.300 at epoch 2.0"]
    state = state_of(tmp_path)
    assert (state["step"], state["stale"]) == (3 * PER_EPOCH, 2)
    again = resumed(tmp_path, patience=2)  # has ended, and stays so
    assert again.log.rows == [] and again.progress.step == 3 * PER_EPOCH
    more = {"steps": 2 * PER_EPOCH, "first_step": 3 * PER_EPOCH, "patience": 2}
    longer = resumed(tmp_path, **more, validate=falling(0.1, 0.4, 0.1, 0.1))
    assert longer.log.rows[-1]["step"] == 5 * PER_EPOCH, "counted anew"


@pytest.mark.slow
def test_a_better_figure_starts_the_count_again_also_after_a_stop(tmp_path):
    first = stop_at(tmp_path, 4, patience=2, validate=falling(0.3))
    first.run()
    second = resumed(tmp_path, patience=2, validate=falling(0.2, 0.4, 0.1))
    assert not second.stopped and second.progress.step == EPOCHS * PER_EPOCH
    assert state_of(tmp_path)["stale"] == 1


def test_patience_that_ends_with_the_run_has_stopped_nothing(tmp_path):
    trainer = tiny_trainer(tmp_path, patience=3, validate=falling(0.3, 0.2, 0.2, 0.2))
    trainer.run()
    assert trainer.progress.step == EPOCHS * PER_EPOCH and len(trainer.log.rows) == 4
    assert not trainer.stopped
