"""A small annotated set with instance masks, coloured ellipses on noise, and a detector that knows their colours."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from detseg.detect.model import DetectionModel
from detseg.registry import register_model

COLOURS = {"disc": (230, 60, 40), "leaf": (40, 200, 60)}  # RGB
IDS = {"disc": 7, "leaf": 3}


def write_mask_set(folder: Path, *, train=4, val=5, width=128, height=96) -> Path:
    """A COCO folder with polygons and run lengths. Nothing is in the last validation image."""
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        for index in range(count):
            rng = np.random.default_rng((index, split == "val"))
            pixels = rng.integers(90, 120, (height, width, 3), dtype=np.uint8)
            name = f"{split}{index}.png"
            images.append({"id": 100 - index, "file_name": name, "width": width, "height": height})
            for place, (kind, colour) in enumerate(COLOURS.items() if split == "train" or index < count - 1 else ()):
                centre = (width // 4 + place * width // 2, int(rng.integers(height // 3, 2 * height // 3)))
                axes = int(rng.integers(12, width // 4 - 2)), int(rng.integers(12, height // 3 - 2))
                outline = cv2.ellipse2Poly(centre, axes, 0, 0, 360, 10)
                cv2.fillPoly(pixels, [outline], colour)
                low, high = outline.min(0), outline.max(0) + 1
                box = [*low.tolist(), *(high - low).tolist()]
                entry = {"bbox": box, "area": float(np.pi * axes[0] * axes[1]), "iscrowd": 0}
                entry |= {"category_id": IDS[kind], "image_id": 100 - index, "id": 1 + len(annotations)}
                annotations.append(entry | {"segmentation": [outline.ravel().tolist()]})
            cv2.imwrite(str(folder / "images" / name), pixels[..., ::-1])
        categories = [{"id": number, "name": name} for name, number in IDS.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def rewrite(path: Path, change) -> None:
    """Change each annotation of a COCO file in place, given its position and itself."""
    content = json.loads(path.read_text())
    for i, annotation in enumerate(content["annotations"]):
        change(i, annotation)
    path.write_text(json.dumps(content))


def define_mask_detector():
    """Register the detector "colours"."""

    @register_model("colours", task="detect")
    class Colours(DetectionModel):
        """Finds each colour as one object, the mask a little too wide; what it learns plays no part."""

        finds_masks = True

        @classmethod
        def needs_masks(cls, config):
            return True

        @classmethod
        def options_for(cls, data, config):
            return {"strides": [32]}

        def __init__(self, backbone, num_classes):
            super().__init__(backbone)
            self.backbone, self.num_classes = backbone, num_classes
            self.head = nn.Conv2d(backbone.channels[-1], 1, 1)

        def forward(self, images, targets=None):
            if targets is not None:
                assert all(t["masks"].shape[1:] == images.shape[-2:] for t in targets)
                return {"loss": self.head(self.backbone(self.normalise(images))[-1]).square().mean()}
            return [self.find(image.float()) for image in images]

        def find(self, image):
            image = image * (255 if image.max() <= 1 else 1)
            maps = [
                (image - torch.tensor(c, device=image.device).view(3, 1, 1)).abs().amax(0) < 60
                for c in COLOURS.values()
            ]
            found = [(k, m) for k, m in enumerate(maps[: self.num_classes]) if m.any()]
            boxes = [[m.any(0).nonzero().min(), m.any(1).nonzero().min(), m.any(0).nonzero().max() + 1,
                      m.any(1).nonzero().max() + 1] for _, m in found]  # fmt: skip
            whole = torch.tensor([[0.0, 0, image.shape[2], image.shape[1]]])
            return {
                "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                "scores": torch.linspace(0.9, 0.6, len(found)),
                "labels": torch.tensor([k for k, _ in found], dtype=torch.int64),
                "masks": torch.stack([m.float() for _, m in found]) if found else torch.zeros(0, 8, 8),
                "regions": whole.expand(len(found), 4),
            }
