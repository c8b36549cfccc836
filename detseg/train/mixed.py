"""Training samples of which some are images with a class and no boxes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from detseg.data.augment.transforms import TrainTransform
from detseg.data.dataset import ClassificationDataset, DetectionDataset
from detseg.data.sample import Sample
from detseg.train.sampler import Request, TrainingSamples


class MixedSamples(TrainingSamples):
    """Images with boxes and, after them, images of `labelled`, all shuffled together by the plan of a run.

    An epoch holds every image with boxes and at most as many others. Where there are more of these, each epoch goes on
    where the last one ended, so all get their turn. They take part in no mosaics and mixups.

    Args:
        dataset, seed, transform: as of `TrainingSamples`.
        labelled: the images with a class.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        labelled: ClassificationDataset,
        seed: int,
        transform: Callable[[int], Any] = TrainTransform,
    ) -> None:
        super().__init__(dataset, seed, transform)
        self.labelled = labelled
        self.slots = min(len(labelled), len(dataset))

    def __len__(self) -> int:
        return len(self.dataset) + self.slots

    def __getitem__(self, request: Request) -> tuple[Any, list[int]]:
        """The sample and the indices of the images in it; those of `labelled` count on from the dataset's last."""
        slot = request.image - len(self.dataset)
        if slot < 0:
            return super().__getitem__(request)
        index = (slot + request.epoch * self.slots) % len(self.labelled)
        image, label = self.labelled[index]
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
        sample: Sample = self.transform_of(request.size)(Sample(image, *nothing), self.rng_of(request))
        return replace(sample, image_labels=np.array([label])), [len(self.dataset) + index]
