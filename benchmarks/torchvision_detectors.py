"""torchvision's detectors on detseg's backbone: peers for `detection.py`, no benchmark of its own.

They stand on EfficientNet-Lite0 with the same ImageNet weights, see the same cached images at 320 px, mirrored at
random, in a plain loop: channels_last, batches of 8, AdamW with a cosine, bfloat16 where that is faster.
"""

import itertools
import math
import time

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.ssd import SSD, DefaultBoxGenerator
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detseg.backbones import create_backbone
from detseg.data.dataset import DetectionDataset
from detseg.data.letterbox import EvalTransform, Letterbox
from detseg.detect.masks import paste_masks
from detseg.train.memory import keep_freed_memory

SIZE, BATCH, BACKBONE = 320, 8, "tf_efficientnet_lite0"
RATE, WARM_UP, WIDTH = 5e-4, 50, 128


class Steps(nn.Module):
    """The backbone's maps of stride 16 and 32, and three coarser ones."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = create_backbone(BACKBONE, pretrained=True, strides=(16, 32))
        channels = [self.backbone.channels[-1], 256, 256, 128]
        self.coarser = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b // 2, 1), nn.ReLU6(), nn.Conv2d(b // 2, b, 3, 2, 1), nn.ReLU6())
            for a, b in itertools.pairwise(channels)
        )
        self.channels = [*self.backbone.channels, *channels[1:]]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = list(self.backbone(x))
        for layer in self.coarser:
            maps.append(layer(maps[-1]))
        return {str(i): found for i, found in enumerate(maps)}


class Pyramid(nn.Module):
    """A feature pyramid from stride 8 to 128."""

    out_channels = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.backbone = create_backbone(BACKBONE, pretrained=True, strides=(8, 16, 32))
        self.pyramid = FeaturePyramidNetwork(list(self.backbone.channels), WIDTH, LastLevelP6P7(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.pyramid({str(i): found for i, found in enumerate(self.backbone(x))})


def ssd_lite(classes: int) -> nn.Module:
    body = Steps()
    anchors = DefaultBoxGenerator([[2, 3]] * len(body.channels), min_ratio=0.2, max_ratio=0.95)
    head = SSDLiteHead(body.channels, anchors.num_anchors_per_location(), classes + 1, nn.BatchNorm2d)
    means = {"image_mean": body.backbone.mean, "image_std": body.backbone.std}
    return SSD(body, anchors, (SIZE, SIZE), classes + 1, head=head, **means)


def two_stages(kind: type[nn.Module], classes: int) -> nn.Module:
    body = Pyramid()
    anchors = AnchorGenerator(tuple((side,) for side in (32, 64, 128, 256, 512)), ((0.5, 1.0, 2.0),) * 5)
    means = {"image_mean": body.backbone.mean, "image_std": body.backbone.std}
    return kind(body, classes + 1, rpn_anchor_generator=anchors, min_size=SIZE, max_size=SIZE, **means)


PEERS = {
    "torchvision SSD-Lite": ssd_lite,
    "torchvision Faster R-CNN": lambda classes: two_stages(FasterRCNN, classes),
    "torchvision Mask R-CNN": lambda classes: two_stages(MaskRCNN, classes),
}


def example(data: DetectionDataset, index: int, mirrored: bool):
    """An image (3, H, W) in 0..1 and its objects, as torchvision takes them; label 0 is its background."""
    sample = EvalTransform(SIZE)(data[index])[0]
    kept = ~sample.iscrowd & ((sample.boxes[:, 2:] - sample.boxes[:, :2]).min(1) > 1)  # torchvision takes no empty ones
    image, boxes = sample.image, sample.boxes[kept].copy()
    masks = None if sample.masks is None else sample.masks[kept]
    if mirrored:
        image, boxes[:, [0, 2]] = np.ascontiguousarray(image[:, ::-1]), SIZE - boxes[:, [2, 0]]
        masks = None if masks is None else np.ascontiguousarray(masks[..., ::-1])
    target = {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(sample.labels[kept] + 1)}
    if masks is not None:
        target["masks"] = torch.from_numpy(masks)
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255, target


def train_peer(name: str, train: DetectionDataset, minutes: float, seed: int) -> tuple[nn.Module, int]:
    """The trained peer and the number of its steps."""
    keep_freed_memory()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = PEERS[name](len(train.annotations.categories)).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-4)
    order: list[int] = []

    def step(factor: float, bf16: bool) -> None:
        if len(order) < BATCH:
            order[:] = rng.permutation(len(train)).tolist()
        batch = [example(train, order.pop(), rng.random() < 0.5) for _ in range(BATCH)]
        for group in optimizer.param_groups:
            group["lr"] = RATE * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = torch.stack(list(model([x for x, _ in batch], [t for _, t in batch]).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    def seconds(bf16: bool) -> float:
        step(0.0, bf16)
        started = time.monotonic()
        for _ in range(3):
            step(0.0, bf16)
        return time.monotonic() - started

    bf16 = seconds(True) < seconds(False)
    started, steps = time.monotonic(), 0
    while (fraction := (time.monotonic() - started) / (60 * minutes)) < 1:
        step(min(1, (steps + 1) / WARM_UP) * (0.5 * (1 + math.cos(math.pi * fraction)) + 1e-3), bf16)
        steps += 1
    return model.eval(), steps


@torch.inference_mode()
def predict_peer(model: nn.Module, data: DetectionDataset) -> list[dict[str, object]]:
    """Detections in all images, in their own pixels; masks as run lengths."""
    from pycocotools import mask as coco

    results = []
    for first in range(0, len(data), BATCH):
        indices = range(first, min(first + BATCH, len(data)))
        for index, found in zip(indices, model([example(data, i, False)[0] for i in indices]), strict=True):
            width, height = data.annotations.sizes[index].tolist()
            box = Letterbox.fit(width, height, SIZE)
            boxes = box.to_original(found["boxes"], (width, height))
            result = {"boxes": boxes.numpy(), "scores": found["scores"].numpy(), "labels": found["labels"].numpy() - 1}
            if "masks" in found:
                over = box.to_original(torch.tensor([[0.0, 0, SIZE, SIZE]]).expand(len(boxes), 4), None)
                drawn = paste_masks(found["masks"][:, 0], over, boxes, (height, width))
                result["masks"] = [coco.encode(np.asfortranarray(mask.numpy().view(np.uint8))) for mask in drawn]
            results.append(result)
    return results
