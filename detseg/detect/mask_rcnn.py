"""Mask R-CNN on any backbone (He et al. 2017, arXiv:1703.06870): Faster R-CNN, and a mask for each detection.

detections -> RoIAlign -> mask head -> a map of probabilities for each class, over the detection's box
"""

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones import Backbone
from detseg.backbones.blocks import ResidualSeparable, conv_norm_act
from detseg.detect.faster_rcnn import Detected, FasterRcnn, Regions, class_scores, labels_of
from detseg.detect.model import AnchorSizes, ClassRows, FlatTargets, Targets
from detseg.detect.published import Published
from detseg.detect.rcnn_weights import RESNET, rename_resnet
from detseg.registry import register_model
from detseg.together import divisor

CELLS = 14  # a side, of the features a mask is found from; the mask has twice as many
DEPTH = 4  # layers before the mask is enlarged


class MaskHead(nn.Module):
    """Features of regions (R, C, S, S) to logits (R, K + 1, 2S, 2S), background first as in the box head, float32.

    `published`: dense convolutions, in place of separable ones.
    """

    def __init__(self, in_channels: int, width: int, num_classes: int, *, published: bool) -> None:
        super().__init__()
        if published:
            channels = [in_channels, *[width] * DEPTH]
            dense = ((nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in itertools.pairwise(channels))
            self.body = nn.Sequential(*(layer for pair in dense for layer in pair))
        else:
            blocks = (ResidualSeparable(width, 3, start_at_zero=False) for _ in range(DEPTH))
            self.body = nn.Sequential(conv_norm_act(in_channels, width), *blocks)
        self.finer = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.classes = nn.Conv2d(width, num_classes + 1, 1)
        for layer in (*self.body, self.finer, self.classes):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                layer.bias = nn.Parameter(torch.zeros(layer.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.classes(F.relu(self.finer(self.body(x)))).float()
        return out


@register_model("mask_rcnn", task="detect")
class MaskRcnn(FasterRcnn):
    """Mask R-CNN: what `FasterRcnn` is, and a mask head.

    Args:
        backbone, num_classes, anchors: see `FasterRcnn`.
        mask_width: channels of the mask head.
        mask_regions: regions of an image, of those that learn objects, whose masks learn in a step.
        options: further arguments of `FasterRcnn`.
    """

    coco: ClassVar[dict[str, Published]] = {
        "resnet50": Published("maskrcnn_resnet50_fpn", {**RESNET, "mask_width": 256}, rename_resnet)
    }

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        anchors: AnchorSizes,
        *,
        mask_width: int = 64,
        mask_regions: int = 16,
        **options: Any,
    ) -> None:
        super().__init__(backbone, num_classes, anchors, **options)
        published, width = options.get("published", False), self.proposal_head.objectness.in_channels
        self.mask_head = MaskHead(width, mask_width, num_classes, published=published)
        self.mask_regions = mask_regions

    @classmethod
    def needs_masks(cls, config: Any) -> bool:
        """Always."""
        return True

    @property
    def finds_masks(self) -> bool:
        """Always."""
        return True

    def class_layers(self) -> dict[str, ClassRows]:
        """See `DetectionModel`."""
        return super().class_layers() | {"mask_head.classes": ClassRows(background=True)}

    def region_losses(
        self, maps: list[Tensor], chosen: Regions, flat: FlatTargets, targets: Targets
    ) -> dict[str, Tensor]:
        """Those of `FasterRcnn`, and ``loss_mask``: binary cross-entropy of the object's class, the mean over pixels.

        Targets have ``masks`` (M, H, W) uint8 besides what `FasterRcnn` takes; one without any pixel is not known.
        """
        losses = super().region_losses(maps, chosen, flat, targets)
        some = Regions(*(part[:, : self.mask_regions] for part in chosen))  # those that learn objects come first
        logits = self.mask_head(self.align(maps, some.boxes, CELLS))
        with torch.autocast(logits.device.type, enabled=False):
            kinds = labels_of(some, flat).flatten()
            own = logits.gather(1, kinds.view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])).squeeze(1)
            masks = torch.cat([t["masks"] for t in targets])
            wanted = masks_in_boxes(masks, some.objects.flatten(), some.boxes.flatten(0, 1), logits.shape[-1])
            entropy = F.binary_cross_entropy_with_logits(own, wanted, reduction="none").mean((1, 2))
            known = torch.cat([masks.flatten(1).any(1), masks.new_zeros(1, dtype=torch.bool)])
            positive = some.positive.flatten() & known[some.objects.flatten()]
            return losses | {"loss_mask": (entropy * positive).sum() / divisor(positive.sum())}

    def masks_of(self, maps: list[Tensor], detected: Detected) -> Tensor:
        """(N, D, h, w) probabilities over the detections' boxes."""
        logits = self.mask_head(self.align(maps, detected.boxes, CELLS))
        kinds = detected.labels.flatten().view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:]) + 1
        return logits.gather(1, kinds).squeeze(1).sigmoid().unflatten(0, detected.labels.shape)

    def found(self, maps: list[Tensor], detected: Detected) -> list[dict[str, Tensor]]:
        """The detections of each image, with ``masks`` (D, h, w) and their ``regions`` (D, 4), the boxes."""
        most = int(detected.valid.sum(1).max()) if len(detected.valid) else 0
        detected = Detected(*(part[:, :most] for part in detected))  # no masks for what only fills up
        masks = self.masks_of(maps, detected)
        return [
            {**found, "masks": own[: len(found["boxes"])], "regions": found["boxes"]}
            for found, own in zip(super().found(maps, detected), masks, strict=True)
        ]

    def masks_at(
        self, parts: Sequence[Tensor], image: Tensor, rows: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """See `DetectionModel`."""
        return parts[0][image, rows], boxes

    def exportable(self) -> nn.Module:
        """Images (N, C, H, W) to boxes (N, D, 4), scores (N, D, K), see `raw`, and masks (N, D, h, w) over them."""
        return _Raw(self)


class _Raw(nn.Module):
    def __init__(self, model: MaskRcnn) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = self.model.look(images)
        found = self.model.detected(seen)
        return found.boxes, class_scores(found, self.model.num_classes), self.model.masks_of(seen.maps, found)


def masks_in_boxes(masks: Tensor, objects: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The parts under boxes (R, 4) of masks (M, H, W) of the objects (R,), by RoIAlign: (R, `size`, `size`) float32."""
    from torchvision.ops import roi_align  # here: it takes seconds to load

    if not len(masks):
        return boxes.new_zeros(len(boxes), size, size)
    regions = torch.cat([objects[:, None].to(boxes.dtype), boxes], 1)
    return roi_align(masks[:, None].to(boxes.dtype), regions, (size, size))[:, 0]
