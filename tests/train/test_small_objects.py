"""Objects too small at the training size are warned of before training starts, and are not taught as background."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from detseg.data.augment.transforms import TrainTransform
from detseg.data.sample import Sample
from detseg.train.config import TrainDetector
from detseg.train.tasks.detector import DetectorTask, warn_of_small_objects
from tests.small_set import write_small_set


def test_small_objects_are_warned_of_with_the_size_that_helps(caplog: pytest.LogCaptureFixture) -> None:
    """20 px in images of 2000 px are 0.96 px at 96; 4 px of them are had at 400, and 416 divides by 32."""
    with caplog.at_level(logging.WARNING):
        warn_of_small_objects(np.array([[0.96, 30], [40, 50], [0.96, 0.96], [4, 4]]), 96)
    assert len(caplog.messages) == 1
    assert "2 of 4 objects (50.0 %) are less than 4 px wide or high at --size 96" in caplog.text
    assert "--size 416 would" in caplog.text


def test_the_anchors_come_with_the_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Bars 12 px high and squares of 18 to 31 px, in images 960 px wide, are 0.8 to 2.1 px at 64."""
    write_small_set(tmp_path / "set", width=960, height=72)
    with caplog.at_level(logging.WARNING):
        task = DetectorTask(TrainDetector(data=tmp_path / "set", size=64), Console(file=io.StringIO()))
        task.open(task.load()[0], "training")
    assert "objects (100.0 %) are less than 4 px wide or high at --size 64" in caplog.text


@pytest.mark.parametrize("sizes", [np.zeros((0, 2)), np.array([[4.0, 4.0], [90.0, 5.0]])])
def test_no_word_where_there_are_none(caplog: pytest.LogCaptureFixture, sizes: np.ndarray) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_small_objects(sizes, 320)
    assert not caplog.messages


def test_objects_without_any_size_are_no_reason_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_small_objects(np.array([[0.0, 5.0]]), 320)
    assert "1 of 1 objects" in caplog.text


def test_small_objects_are_not_taught_as_background() -> None:
    corners = np.random.default_rng(0).uniform(100, 900, (5, 2)).astype(np.float32)
    sample = Sample(
        np.zeros((1000, 1000, 3), np.uint8),
        np.concatenate([corners, corners + 10], axis=1),
        np.arange(5),
        np.zeros(5, np.bool_),
    )
    seen = TrainTransform(96, scale=(1, 1))(sample, np.random.default_rng(1))
    assert len(seen.boxes) == 5 and seen.iscrowd.all()
