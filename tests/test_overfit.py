"""A detector that cannot learn four images by heart has a fault somewhere between image and loss."""

from functools import partial

import pytest
import torch

from detseg.data.augment.transforms import TrainTransform
from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_annotations
from detseg.flowers.dataset import write_flowers
from detseg.models import MODELS, build_model
from detseg.train.config import config_for
from detseg.train.optim import norms
from detseg.train.precision import Choice
from detseg.train.sampler import SizeSchedule, TrainingSamples
from tests.evaluating import evaluate
from tests.train.runs import tiny_trainer

SIZE, STEPS = 96, 90
PLAIN = {
    **{"flip": "none", "scale": (1.0, 1.0), "aspect": 0.0, "rotate": 0.0},
    **{"light": 0.0, "colour": 0.0, "blur": 0.0, "noise": 0.0},
}


def options_of(kind, data):
    """The options of a model on these images, with its defaults."""
    config = config_for("detector", kind)(data=None, size=SIZE)
    return MODELS[kind].options_for(data, config)


@pytest.mark.parametrize("kind", ["yolo", pytest.param("ssd", marks=pytest.mark.slow)])
def test_four_images_are_learnt_by_heart(tmp_path, kind):
    data = read_annotations(write_flowers(tmp_path / "data", train=4, val=1, size=(SIZE, SIZE), seed=2) / "train.json")
    images = DetectionDataset(data, SIZE)
    architecture = {"kind": kind, "backbone": "tf_efficientnet_lite0", "num_classes": len(data.categories)}
    torch.manual_seed(0)
    model = build_model(architecture | options_of(kind, data), pretrained=True)
    best = {}

    def validate(model):
        metrics = evaluate("detector", model, images, SIZE)[0]
        best["map"] = max(best.get("map", 0.0), metrics.map)
        best["map50"] = max(best.get("map50", 0.0), metrics.map50)
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
    assert best["map"] > 0.7
