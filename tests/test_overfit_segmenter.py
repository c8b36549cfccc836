"""A segmenter that cannot learn four images by heart has a fault somewhere between image and loss."""

from functools import partial

import pytest
import torch

from detseg.data.augment.transforms import TrainTransform
from detseg.data.dataset import SegmentationDataset, collate_masks
from detseg.data.formats import read_masks
from detseg.flowers.dataset import write_flowers
from detseg.models import build_model
from detseg.train.optim import norms
from detseg.train.precision import Choice
from detseg.train.sampler import SizeSchedule, TrainingSamples
from tests.evaluating import evaluate
from tests.train.runs import tiny_trainer

SIZE, STEPS = 128, 110
PLAIN = {
    **{"flip": "none", "scale": (1.0, 1.0), "aspect": 0.0, "rotate": 0.0},
    **{"light": 0.0, "colour": 0.0, "blur": 0.0, "noise": 0.0},
}


# The scores of FCN-8s lie 8 pixels apart: it cannot draw the finest of the borders.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "strides", "least"),
    [("fcn", (8, 16, 32), 0.8), ("pyramid", (4, 8, 16, 32), 0.85)],
)
def test_four_masks_are_learnt_by_heart(tmp_path, decoder, strides, least):
    data = read_masks(write_flowers(tmp_path / "data", train=4, val=1, size=(SIZE, SIZE), seed=2) / "train.json")
    images = SegmentationDataset(data, SIZE)
    torch.manual_seed(0)
    architecture = {"kind": "fcn", "backbone": "tf_efficientnet_lite0", "strides": list(strides), "decoder": decoder}
    architecture |= {"num_classes": len(data.categories), "loss": "ce+dice"}
    model = build_model(architecture, pretrained=True)
    best = {"miou": 0.0}

    def validate(model):
        miou = evaluate("segmenter", model, images, SIZE)[0].miou
        best["miou"] = max(best["miou"], miou)
        return {"miou": miou}

    trainer = tiny_trainer(
        tmp_path,
        model=model,
        samples=TrainingSamples(images, 0, partial(TrainTransform, **PLAIN)),
        collate=collate_masks,
        sizes=SizeSchedule(SIZE, SIZE),
        steps=STEPS,
        batch_size=4,
        warmup=10,
        choice=Choice("fp32", True),
        in_eval=norms(model.backbone),
        names=[str(path) for path in data.paths],
        validate=validate,
    )
    trainer.job.goal = "miou"
    trainer.run()
    assert best["miou"] > least
