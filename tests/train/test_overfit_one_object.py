"""What cannot learn a few images by heart has a fault somewhere between image and loss."""

import numpy as np
import pytest
import torch

from detseg.data.dataset import collate, collate_labels
from detseg.data.sample import Sample
from detseg.metrics.localization import evaluate_localization
from detseg.models import build_model
from detseg.train.optim import create_optimizer, parameter_groups
from detseg.train.sampler import SizeSchedule, TrainingSamples
from tests.train.runs import tiny_trainer

SIZE, IMAGES = 64, 8


def make_image(index):
    """A bright rectangle somewhere on noise, wide or high."""
    rng = np.random.default_rng(index)
    image = rng.integers(60, 120, (SIZE, SIZE, 3), dtype=np.uint8)
    sides = (30, 14) if index % 2 else (14, 30)
    x, y = (int(rng.integers(0, SIZE - side)) for side in sides)
    image[y : y + sides[1], x : x + sides[0]] = (230, 200, 40)
    return image, index % 2, [x, y, x + sides[0], y + sides[1]]


class Images:
    """The same images, as samples of a task."""

    def __init__(self, boxes):
        self.boxes = boxes

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        image, label, box = make_image(index)
        if not self.boxes:
            return image, label
        return Sample(image, np.array([box], np.float32), np.array([label]), np.zeros(1, bool))


def learnt(tmp_path, architecture, boxes, steps):
    torch.manual_seed(0)
    model = build_model({"backbone": "test_efficientnet", "num_classes": 2, "dropout": 0.0, **architecture})
    groups = parameter_groups(model, lr=0.003, weight_decay=0.0)
    trainer = tiny_trainer(
        tmp_path,
        model=model,
        optimizer=create_optimizer("adamw", groups),
        samples=TrainingSamples(Images(boxes), 0, lambda size: lambda sample, rng: sample),
        collate=collate if boxes else collate_labels,
        sizes=SizeSchedule(SIZE, SIZE),
        steps=steps,
        batch_size=IMAGES,
    )
    trainer.run()
    images = torch.from_numpy(np.stack([make_image(i)[0] for i in range(IMAGES)])).permute(0, 3, 1, 2)
    with torch.no_grad():
        return trainer.average.module.eval()(images)


@pytest.mark.slow
def test_a_classifier_learns_by_heart(tmp_path):
    logits = learnt(tmp_path, {"kind": "classifier"}, False, 60)
    assert logits.argmax(1).tolist() == [0, 1] * (IMAGES // 2)
    assert float(logits.softmax(1).amax(1).min()) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mse", "smooth_l1", "giou"])
def test_a_localizer_learns_by_heart(tmp_path, loss):
    found = learnt(tmp_path, {"kind": "localizer", "size": SIZE, "loss": loss, "loss_weights": [1.0, 3.0]}, True, 200)
    boxes = np.concatenate([one["boxes"].numpy() for one in found])
    labels = np.concatenate([one["labels"].numpy() for one in found])
    truth = np.array([make_image(i)[2] for i in range(IMAGES)])
    metrics = evaluate_localization(boxes, labels, truth, np.arange(IMAGES) % 2, ["high", "wide"])
    assert metrics.accuracy == 1.0
    assert metrics.mean_iou > 0.8
