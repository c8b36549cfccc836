"""A detector that cannot learn four images by heart has a fault somewhere between image and loss."""

from functools import partial

import pytest
import torch

from detseg.data.augment.transforms import TrainTransform
from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_annotations
from detseg.flowers.dataset import write_flowers
from detseg.metrics import DetectionEvaluator, InstanceEvaluator
from detseg.models import MODELS, build_model
from detseg.train.config import config_for
from detseg.train.optim import norms
from detseg.train.precision import Choice
from detseg.train.sampler import SizeSchedule, TrainingSamples
from detseg.train.tasks.detector import predict_dataset
from tests.train.runs import tiny_trainer

SIZE = 96
PLAIN = {
    **{"flip": "none", "scale": (1.0, 1.0), "aspect": 0.0, "rotate": 0.0},
    **{"light": 0.0, "colour": 0.0, "blur": 0.0, "noise": 0.0},
}
# Model, its flags, steps, least mAP of boxes and masks; mAP@.50 of both is above 0.95.
DETECTORS = [
    ("yolo", (), 130, 0.7),
    ("ssd", (), 90, 0.7),
    ("faster_rcnn", (), 130, 0.5),
    ("mask_rcnn", (), 200, 0.5),
    ("yolo", ("masks",), 90, 0.6),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flags", "steps", "least"), DETECTORS)
def test_four_images_are_learnt_by_heart(tmp_path, name, flags, steps, least):
    data = read_annotations(write_flowers(tmp_path / "data", train=4, val=1, size=(SIZE, SIZE), seed=2) / "train.json")
    config = config_for("detector", name)(size=SIZE, **dict.fromkeys(flags, True))
    masks = MODELS[name].needs_masks(config)
    images = DetectionDataset(data, SIZE, masks=masks)
    architecture = {"kind": name, "backbone": "tf_efficientnet_lite0", "num_classes": len(data.categories)}
    torch.manual_seed(0)
    model = build_model(architecture | MODELS[name].options_for(data, config), pretrained=True)
    best = {}

    def validate(model):
        evaluator = InstanceEvaluator(data) if masks else DetectionEvaluator(data)
        evaluator.update(list(predict_dataset(model, images, range(len(images)), SIZE)), None, data.image_ids)
        metrics = evaluator.compute()
        for kind, found in (("boxes", metrics), ("masks", metrics.masks)):
            if found is not None:
                for figure in ("map", "map50"):
                    best[kind, figure] = max(best.get((kind, figure), 0.0), getattr(found, figure))
        return {"map": metrics.map, "map50": metrics.map50}

    trainer = tiny_trainer(
        tmp_path,
        model=model,
        samples=TrainingSamples(images, 0, partial(TrainTransform, **PLAIN)),
        sizes=SizeSchedule(SIZE, SIZE),
        steps=steps,
        batch_size=4,
        warmup=10,
        choice=Choice("fp32", True),
        in_eval=norms(model.backbone),
        names=[str(path) for path in data.paths],
        validate=validate,
    )
    trainer.run()
    assert {kind for kind, _ in best} == ({"boxes", "masks"} if masks else {"boxes"})
    assert all(value > (0.95 if figure == "map50" else least) for (_, figure), value in best.items()), best
