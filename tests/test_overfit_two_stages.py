"""Two-stage detectors that cannot learn four images by heart have a fault somewhere between image and loss."""

from functools import partial

import numpy as np
import pytest
import torch

from detseg.boxes import box_iou
from detseg.data.augment.transforms import TrainTransform
from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_annotations
from detseg.flowers.dataset import write_flowers
from detseg.models import build_model
from detseg.predict.detector import detect
from detseg.train.config import config_for
from detseg.train.optim import norms
from detseg.train.precision import Choice
from detseg.train.runner import describe
from detseg.train.sampler import SizeSchedule, TrainingSamples
from tests.evaluating import evaluate
from tests.test_overfit import PLAIN, SIZE
from tests.train.runs import tiny_trainer

STEPS = 90


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_four_images_are_learnt_by_heart(tmp_path, name):
    data = read_annotations(write_flowers(tmp_path / "data", train=4, val=1, size=(SIZE, SIZE), seed=2) / "train.json")
    images = DetectionDataset(data, SIZE, masks=name == "mask_rcnn")
    torch.manual_seed(0)
    model = build_model(describe(config_for("detector", name)(size=SIZE), data), pretrained=True)
    best = {}

    def validate(model):
        metrics = evaluate("detector", model, images, SIZE)[0]
        best["map50"] = max(best.get("map50", 0.0), metrics.map50)
        best["map"] = max(best.get("map", 0.0), metrics.map)
        return {"map": metrics.map, "map50": metrics.map50}

    trainer = tiny_trainer(
        tmp_path,
        model=model,
        samples=TrainingSamples(images, 0, partial(TrainTransform, **PLAIN)),
        sizes=SizeSchedule(SIZE, SIZE),
        steps=STEPS,
        batch_size=4,
        warmup=10,
        choice=Choice("fp32", True),
        in_eval=norms(model.backbone),
        names=[str(path) for path in data.paths],
        validate=validate,
    )
    trainer.run()
    assert best["map50"] > 0.95
    assert best["map"] > 0.5
    if name == "mask_rcnn":
        assert mask_overlap(model, images) > 0.75


def mask_overlap(model, images):
    """Mean IoU of the masks of all objects with those of the detections whose boxes fit best."""
    overlaps = []
    pixels = ((images.images[i], (SIZE, SIZE)) for i in range(len(images)))
    for i, found in enumerate(detect(model, pixels, SIZE, score_threshold=0.3)):
        sample = images[i]
        best = box_iou(torch.from_numpy(sample.boxes), found["boxes"]).argmax(1).numpy()
        for mask, k in zip(sample.masks.astype(bool), best, strict=True):
            own = found["masks"][k].numpy()
            overlaps.append((mask & own).sum() / (mask | own).sum())
    return float(np.mean(overlaps))
