"""Runs that are killed at random moments and resumed end as if nothing had been, to the last bit."""

import time

import pytest

from detseg.models import models_of
from detseg.tasks import TASKS
from detseg.train.resume import RESUME
from tests.faults.runs import QUICK, Started, killed_until_it_ends, moments, same
from tests.mask_set import write_mask_set

pytestmark = pytest.mark.slow
EVERY = [(task, model) for task, entry in TASKS.items() for model in models_of(entry.models)]


@pytest.fixture(scope="session")
def sets(tmp_path_factory, crops, masked):
    """A small data set for each task."""
    objects = write_mask_set(tmp_path_factory.mktemp("faults") / "set", train=9)
    return {"detector": objects, "segmenter": masked, "classifier": crops, "localizer": objects}


def words_of(task, model, data, folder, epochs):
    random = ("--mosaic", "0.3", "--mixup", "0.3") if task == "detector" else ()
    return task, "--model", model, "--data", data, "--output", folder, *QUICK, *random, "--epochs", str(epochs)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("task", "model"), EVERY)
def test_killed_at_random_moments(task, model, processes, sets, tmp_path):
    if processes == 3 and model not in ("yolo", "faster_rcnn"):
        pytest.skip("sums of more than two gradients are the same matter for all models")
    start = words_of(task, model, sets[task], tmp_path / "whole", 12)
    whole = Started(*start, processes=processes)
    whole.wait_for(tmp_path / "whole" / RESUME)
    begun = time.monotonic()
    code, output = whole.end()
    assert code == 0, output[-3000:]
    killed_until_it_ends(
        tmp_path / "parts",
        words_of(task, model, sets[task], tmp_path / "parts", 12),
        (task, "--resume", tmp_path / "parts"),
        rng=moments(f"{task} {model} {processes}"),
        seconds=time.monotonic() - begun,
        processes=processes,
    )
    same(tmp_path / "whole", tmp_path / "parts")
