"""From drawn images to windows, to a localizer, to detections by sliding: it has to learn a few images by heart."""

import numpy as np
import pytest
import torch

from detseg.data.dataset import DetectionDataset, collate
from detseg.data.formats import read_annotations
from detseg.data.windows import WindowGrid, windows_of
from detseg.flowers.dataset import write_flowers
from detseg.metrics import Detections, evaluate_detections
from detseg.models import build_model
from detseg.predict import Detector, SlidingDetector
from detseg.train.optim import create_optimizer, parameter_groups
from detseg.train.precision import Choice
from detseg.train.sampler import SizeSchedule, TrainingSamples
from tests.train.runs import tiny_trainer

WINDOW, SIDE, STEPS = 64, 160, 400


def few_flowers(folder, seed, images=4):
    """Drawn images of one or two flowers each, which hide little of each other."""
    write_flowers(folder, train=30, val=1, size=(SIDE, SIDE), seed=seed)
    data = read_annotations(folder / "train.json")
    chosen = np.flatnonzero(np.diff(data.offsets) <= 2)[:images]
    assert len(chosen) == images
    return data.subset(chosen)


def trained(folder, data, seed):
    """A localizer with objectness that has learnt windows of the images; starts from random weights."""
    windows_of(data, folder / "windows", "train", grid=WindowGrid(size=WINDOW), per_object=16, min_side=8, seed=seed)
    windows = DetectionDataset(read_annotations(folder / "windows/train.json"), WINDOW)
    torch.manual_seed(seed)
    architecture = {"kind": "localizer", "backbone": "test_efficientnet", "num_classes": len(data.categories)}
    architecture |= {"objectness": True, "loss": "giou", "loss_weights": [1.0, 3.0], "dropout": 0.0, "folded": False}
    model = build_model(architecture)
    trainer = tiny_trainer(
        folder,
        model=model,
        optimizer=create_optimizer("adamw", parameter_groups(model, lr=0.003, weight_decay=0.0)),
        samples=TrainingSamples(windows, seed, lambda size: lambda sample, rng: sample),
        collate=collate,
        sizes=SizeSchedule(WINDOW, WINDOW),
        steps=STEPS,
        batch_size=16,
        choice=Choice("fp32", True),
    )
    trainer.run()
    return trainer.average.module


def slid_over(folder, seed):
    """COCO metrics of what is found in the images that the windows were cut from."""
    data = few_flowers(folder / "flowers", seed)
    categories = [{"id": category.id, "name": category.name} for category in data.categories]
    localizer = Detector(trained(folder, data, seed), {"categories": categories, "size": WINDOW})
    found = SlidingDetector(localizer).predict([str(path) for path in data.paths], score_threshold=0)
    ids = [category.id for category in data.categories]
    return evaluate_detections(data, Detections.from_predictions(found, data.image_ids.tolist(), ids))


@pytest.mark.slow
def test_a_few_images_are_learnt_by_heart_through_their_windows(tmp_path):
    # 0.73 was measured, and 0.58 to 0.86 with the seeds 3 to 5: the margin is for CPUs on which sums round otherwise.
    assert slid_over(tmp_path, 2).map50 > 0.3
