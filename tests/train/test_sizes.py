"""What the options say of sizes, mosaics, mixup and copy-paste reaches the plan of the batches."""

from pathlib import Path

from detseg.train.config import TrainClassifier, TrainDetector
from detseg.train.runner import _sizes


def test_mosaics_mixup_copy_paste_and_the_seed_reach_the_schedule():
    shares = {"mosaic": 0.4, "mixup": 0.25, "copy_paste": 0.1}
    sizes = _sizes(TrainDetector(data=Path("flowers"), size=192, multi_scale=False, seed=7, **shares))
    assert (sizes.mosaic, sizes.mixup, sizes.copy_paste, sizes.seed) == (0.4, 0.25, 0.1, 7)
    assert sizes.at(0, 0.0) == (192, 0.4, 0.25, 0.1)
    assert sizes.at(0, 0.99) == (192, 0.0, 0.0, 0.0), "the end of the run is trained without them"


def test_a_task_without_them_has_none():
    assert _sizes(TrainClassifier(data=Path("flowers"), size=160, multi_scale=False)).at(0, 0.0) == (160, 0.0, 0.0, 0.0)


def test_several_sizes_only_when_asked_for():
    def seen(multi_scale):
        sizes = _sizes(TrainDetector(data=Path("flowers"), size=320, multi_scale=multi_scale))
        return {sizes.at(step, 0.0)[0] for step in range(500)}

    assert seen(False) == {320}
    assert len(seen(True)) > 1
    assert all(192 <= size <= 320 and size % 32 == 0 for size in seen(True))
