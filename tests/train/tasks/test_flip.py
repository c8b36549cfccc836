"""`--flip` decides whether training images are mirrored, in every task."""

import numpy as np
import pytest
from rich.console import Console

from detseg.data.sample import Sample
from detseg.tasks import TASKS, part
from detseg.train.config import config_for
from detseg.train.sampler import Request
from detseg.train.tasks.transfer import _view

SIZE = 64


class Corner:
    """Images that are brighter to the right and to the bottom."""

    def __init__(self, task):
        ramp = np.linspace(0, 127, SIZE)
        self.image = np.repeat((ramp[None] + ramp[:, None]).astype(np.uint8)[..., None], 3, 2)
        self.task = task

    def __len__(self):
        return 1

    def __getitem__(self, index):
        if self.task == "classifier":
            return self.image, 0
        box, mask = np.array([[10, 10, 50, 50]], np.float32), np.zeros((SIZE, SIZE), np.uint8)
        mask = mask if self.task == "segmenter" else None
        return Sample(self.image, box, np.zeros(1, np.int64), np.zeros(1, bool), mask=mask)


def mirrored(image):
    """Whether an image is brighter to the left, and to the top."""
    grey = image.mean(2, dtype=np.float64)
    return grey[:, : SIZE // 2].mean() > grey[:, SIZE // 2 :].mean(), grey[: SIZE // 2].mean() > grey[
        SIZE // 2 :
    ].mean()


@pytest.mark.parametrize("task", TASKS)
def test_images_are_mirrored_as_asked_for(task):
    for flip, wanted in (
        ("none", (False, False)),
        ("horizontal", (True, False)),
        ("vertical", (False, True)),
        ("both", (True, True)),
    ):
        config = config_for(task)(data="x", size=SIZE, flip=flip)
        samples = part(task, "train")(config, Console(quiet=True)).samples(Corner(task), config)
        seen = np.zeros(2, bool)
        for position in range(24):
            sample, _ = samples[Request(0, position, 0, SIZE, False)]
            seen |= mirrored(sample[0] if task == "classifier" else sample.image)
        assert tuple(seen) == wanted, flip


def test_the_views_of_a_probe_are_mirrored_as_asked_for():
    for flip, wanted in (("none", (False, False)), ("horizontal", (True, False)), ("vertical", (False, True))):
        config = config_for("classifier")(data="x", size=SIZE, flip=flip)
        data = Corner("classifier")
        samples = part("classifier", "train")(config, Console(quiet=True)).samples(data, config)
        assert mirrored(_view(data, samples, config, 0)(0)) == (False, False)
        assert mirrored(_view(data, samples, config, 1)(0)) == wanted, flip
