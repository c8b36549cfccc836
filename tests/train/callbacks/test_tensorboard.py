"""Curves of TensorBoard."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detseg.files import WriteError
from detseg.train.callbacks.tensorboard import TensorBoard
from tests.train.callbacks.following import followed, row


def test_a_resumed_run_goes_on_with_its_curves_without_overlap(tmp_path):
    run, board = followed(tmp_path), TensorBoard()
    board.start(run, 0)
    for step in (10, 20, 30):
        board.step(run, step, {"loss": float(step), "images_per_second": 8.0})
    board.validation(run, row(30))
    board.end(run, None)
    again = TensorBoard()
    again.start(run, 20)
    again.step(run, 30, {"loss": 3.0})
    again.validation(run, row(30, 0.75))
    again.end(run, None)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(10, 10.0), (20, 20.0), (30, 3.0)]
    assert [(e.step, e.value) for e in events.Scalars("val/map")] == [(30, 0.75)]
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/images_per_second", "val/map", "val/lr"}


def test_curves_are_not_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    run = followed(tmp_path / "run")
    run.folder.mkdir(exist_ok=True)
    (run.folder / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WriteError, match="tensorboard: is a link, and nothing is written through links"):
        TensorBoard().start(run, 0)


def test_where_nothing_happens_nothing_is_written(tmp_path):
    run, board = followed(tmp_path / "run"), TensorBoard()
    board.start(run, 0)
    board.end(run, KeyboardInterrupt())
    assert not (run.folder / "tensorboard").exists()
