"""The input size that a detector trains with where none is given."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from detseg.data.annotations import Annotations, Category
from detseg.train import runner
from detseg.train.config import TrainDetector, load_config
from detseg.train.precision import Choice
from detseg.train.process import Process
from detseg.train.sampler import SizeSchedule
from detseg.train.size import affordable_size, wanted_size
from detseg.train.task import Run
from detseg.train.tasks.detector import DetectorTask
from tests.small_set import write_small_set


def annotated(sides: list[float], long_side: int = 1000) -> Annotations:
    """One image with square objects of these sides, in pixels."""
    boxes = np.array([[0, 0, side, side] for side in sides], np.float64).reshape(-1, 4)
    count = len(boxes)
    return Annotations(
        categories=(Category(1, "a"),),
        paths=np.array(["a.jpg"]),
        image_ids=np.array([1]),
        sizes=np.array([[long_side, long_side // 2]]),
        image_index=np.zeros(count, np.int64),
        boxes=boxes,
        labels=np.zeros(count, np.int64),
        iscrowd=np.zeros(count, bool),
        ids=np.arange(count),
        areas=boxes[:, 2] * boxes[:, 3],
    )


@pytest.mark.parametrize(
    ("sides", "long_side", "size"),
    [
        ([500] * 4, 1000, 320),  # large objects: the smallest size does
        ([128] * 4, 1000, 512),  # 64 px at 500, the next multiple of 32 is 512
        ([128] + [500] * 9, 1000, 320),  # a tenth is smaller
        ([10] * 4, 1000, 640),  # tiny ones: the largest
        ([10] * 4, 400, 384),  # no larger than the images
        ([10] * 4, 200, 320),
        ([], 1000, 320),
    ],
)
def test_the_size_follows_from_the_objects(sides: list[float], long_side: int, size: int) -> None:
    assert wanted_size(annotated(sides, long_side)) == size


def test_packed_images_are_not_enlarged() -> None:
    assert wanted_size(annotated([10] * 4), longest=400) == 384


@pytest.mark.parametrize("seconds", [60, 600, 3600, 7200])
@pytest.mark.parametrize("images", [10, 1000, 100_000])
def test_a_smaller_size_is_taken_only_where_the_larger_ones_see_too_few_images(images: int, seconds: float) -> None:
    rate, enough = 10.0, min(max(25 * images, 12_000), 30_000)
    size = affordable_size(480, images, seconds, rate)
    seen = {side: seconds * rate * (480 / side) ** 2 for side in range(320, 512, 32)}
    assert size == max([320] + [side for side in seen if side <= 480 and seen[side] >= enough])


def test_the_cost_of_a_schedule_is_the_mean_area_of_its_steps() -> None:
    schedule = SizeSchedule(480, 256, hold=1)
    steps = [schedule.at(step, step / 20_000)[0] for step in range(20_000)]
    assert schedule.cost == pytest.approx(np.mean(np.square(steps)) / 480**2, rel=0.01)
    assert SizeSchedule(320, 320).cost == 1


@pytest.mark.parametrize(("minutes", "size"), [(None, 384), (0.02, 320)])
def test_a_run_says_which_size_it_takes_and_keeps_it(tmp_path: Path, monkeypatch, capsys, minutes, size) -> None:
    folder = write_small_set(tmp_path / "set")
    monkeypatch.setattr(DetectorTask, "wanted_size", lambda self, data: 384)

    def timed(self: Process, architecture: object, freeze: int) -> Choice:
        self.images_per_second = 10.0
        return Choice("fp32", True)

    monkeypatch.setattr(Process, "choose_precision", timed)

    class Ready(Exception):
        """The run would begin to train."""

    def ready(this: Process, run: Run, *_: object, **__: object) -> None:
        assert run.config.size == load_config(run.folder).size == size
        raise Ready

    monkeypatch.setattr(runner, "make_trainer", ready)
    length = {"epochs": 1} if minutes is None else {"minutes": minutes}
    options = {"backbone": "mobilenetv3_small_050", "weights": "none", **length}
    with pytest.raises(Ready):
        runner.train(TrainDetector(data=folder, output=tmp_path / "run", **options), Console(width=200))
    told = capsys.readouterr().out
    assert f"size: {size} px" in told and ("hold too few images" in told) == (minutes is not None)
