"""Objects too small at the training size are warned of before training starts, and are not taught as background."""

import io
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from detseg.data.annotations import Annotations
from detseg.data.augment.transforms import TrainTransform
from detseg.data.dataset import learnable_sizes
from detseg.data.sample import Sample
from detseg.models import MODELS
from detseg.train.config import TrainDetector, config_for
from detseg.train.size import warn_of_small_objects
from detseg.train.tasks.detector import DetectorTask
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


@pytest.mark.parametrize(("side", "remedy"), [(0.01, "correct the boxes"), (9, "train with a larger --size")])
def test_objects_of_less_than_a_pixel_end_before_training(tmp_path: Path, side: float, remedy: str) -> None:
    """In images 960 px wide, whose every pixel is 0.07 px at 64."""
    write_small_set(tmp_path / "set", width=960, height=72)
    task = DetectorTask(TrainDetector(data=tmp_path / "set", size=64), Console(file=io.StringIO()))
    train = task.load()[0]
    boxes = train.boxes.copy()
    boxes[:, 2:] = boxes[:, :2] + side
    tiny = replace(train, boxes=boxes, iscrowd=np.zeros_like(train.iscrowd))
    message = rf"set.*none of its {len(boxes)} objects .* at --size 64, .*{remedy}"
    for fit in (lambda: task.open(tiny, "training"), *(partial(options_of, name, tiny) for name in MODELS_OF_BOXES)):
        with pytest.raises(ValueError, match=message):
            fit()
    boxes = boxes.copy()
    boxes[3, 2:] = boxes[3, :2] + (30, 48)  # one of 2 x 3.2 px is enough, and shapes are fitted to it alone
    for name in MODELS_OF_BOXES:
        assert "0.0" not in str(options_of(name, replace(tiny, boxes=boxes))["anchors" if name != "ssd" else "shapes"])
    assert learnable_sizes(replace(tiny, boxes=boxes), 64).round(6).tolist() == [[2, 3.2]]
    assert len(learnable_sizes(replace(tiny, iscrowd=~tiny.iscrowd), 64)) == 0


MODELS_OF_BOXES = ("yolo", "ssd", "faster_rcnn")


def options_of(name: str, data: Annotations) -> dict[str, Any]:
    """What a model's options are fitted to, at 64 pixels."""
    return MODELS[name].options_for(data, config_for("detector", name)(backbone="resnet18", weights="none", size=64))


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
