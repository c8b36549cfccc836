"""A detector with masks that cannot learn four images by heart has a fault between polygon and mask AP."""

from functools import partial

import pytest
import torch

from detseg.data.augment.transforms import TrainTransform
from detseg.data.dataset import DetectionDataset, scaled_sizes
from detseg.data.formats import read_annotations
from detseg.detect.anchors import fit_anchors
from detseg.flowers.dataset import write_flowers
from detseg.metrics import DetectionEvaluator
from detseg.models import build_model
from detseg.train.optim import norms
from detseg.train.precision import Choice
from detseg.train.sampler import SizeSchedule, TrainingSamples
from detseg.train.tasks.detector import predict_dataset
from tests.test_overfit import PLAIN
from tests.train.runs import tiny_trainer

SIZE, STEPS = 96, 90


@pytest.mark.slow
def test_masks_of_four_images_are_learnt_by_heart(tmp_path):
    data = read_annotations(write_flowers(tmp_path / "data", train=4, val=1, size=(SIZE, SIZE), seed=2) / "train.json")
    images = DetectionDataset(data, SIZE, masks=True)
    anchors = fit_anchors(scaled_sizes(data, SIZE), 3, 3)
    architecture = {"kind": "yolo", "backbone": "tf_efficientnet_lite0", "strides": [8, 16, 32], "masks": True}
    architecture |= {"num_classes": len(data.categories), "anchors": anchors.tolist()}
    torch.manual_seed(0)
    model = build_model(architecture, pretrained=True)
    best = {"map": 0.0, "map50": 0.0}

    def validate(model):
        evaluator = DetectionEvaluator(data, iou_type="segm")
        evaluator.update(list(predict_dataset(model, images, range(len(images)), SIZE)), None, data.image_ids)
        metrics = evaluator.compute()
        for name in best:
            best[name] = max(best[name], getattr(metrics, name))
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
    assert best["map"] > 0.6
