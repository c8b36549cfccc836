"""Instance masks on their way from a model to the image's own pixels and to mask AP."""

import numpy as np
import torch
from pycocotools import mask as coco
from torch import nn

from detseg.data.letterbox import letterbox_image
from detseg.metrics import DetectionEvaluator
from detseg.predict.detector import Detector, detect

SIZE = 64


class Bright(nn.Module):
    """Finds each bright colour as an object: its box, and its mask in the square's pixels."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return [self.find(image) for image in images]

    def find(self, image):
        values = [v for v in image[0].unique().tolist() if v > 130]
        masks = torch.stack([image[0] == v for v in values]) if values else torch.zeros(0, SIZE, SIZE).bool()
        boxes = [[m.any(0).nonzero().min(), m.any(1).nonzero().min(), m.any(0).nonzero().max() + 1,
                  m.any(1).nonzero().max() + 1] for m in masks]  # fmt: skip
        count = len(values)
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "scores": torch.linspace(0.9, 0.5, count),
            "labels": torch.zeros(count, dtype=torch.int64),
            "masks": masks,
        }


def scene(width, height):
    """An image of that size with two rectangles whose sides are multiples of a sixteenth of the long side."""
    image = np.full((height, width, 3), 20, np.uint8)
    unit = max(width, height) // 16
    image[unit : 4 * unit, unit : 6 * unit] = 200
    image[4 * unit : 7 * unit, 7 * unit : 15 * unit] = 250
    return image


def test_masks_come_in_the_pixels_of_the_image():
    for size in ((64, 64), (128, 128), (256, 128), (192, 256)):
        image = scene(*size)
        (found,) = Detector(Bright(), {"categories": [{"id": 1, "name": "a"}], "size": SIZE}).predict([image])
        assert found["masks"].shape == (2, *image.shape[:2]) and found["masks"].dtype == bool, size
        for mask, value in zip(found["masks"], (200, 250), strict=True):
            truth = image[..., 0] == value
            assert (mask & truth).sum() / (mask | truth).sum() > 0.9, size


def test_run_lengths_are_the_same_masks():
    image = scene(256, 128)
    (drawn,), (coded,) = (
        detect(Bright(), [(image, (256, 128))], SIZE),
        detect(Bright(), [(image, (256, 128))], SIZE, run_lengths=True),
    )
    assert len(coded["masks"]) == 2 and all(code["size"] == [128, 256] for code in coded["masks"])
    assert (coco.decode(coded["masks"]).transpose(2, 0, 1) == drawn["masks"].numpy()).all()


def test_masks_above_a_score_and_their_average_precision():
    images = [scene(256, 128), scene(128, 128), np.zeros((64, 64, 3), np.uint8)]
    pairs = [(letterbox_image(image, SIZE)[0], (image.shape[1], image.shape[0])) for image in images[1:2]]
    (found,) = detect(Bright(), pairs, SIZE)
    assert set(found) == {"boxes", "scores", "labels", "masks"}
    detector = Detector(Bright(), {"categories": [{"id": 1, "name": "a"}], "size": SIZE})
    every = detector.predict(images, score_threshold=0.6)
    assert [len(one["masks"]) for one in every] == [1, 1, 0]
    evaluator = DetectionEvaluator(["a"], iou_type="segm")
    truths = [
        {
            "masks": np.stack([image[..., 0] == 200]) if image.any() else np.zeros((0, 64, 64), bool),
            "boxes": np.array([[1, 1, 2, 2]])[: int(image.any())],
            "labels": np.zeros(int(image.any()), int),
        }
        for image in images
    ]
    evaluator.update(every, truths, [1, 2, 3])
    assert evaluator.compute().map50 == 1
