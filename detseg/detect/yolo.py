"""A YOLO-style grid detector on any backbone (Redmon & Farhadi 2017, 2018).

    images -> backbone (strides 8, 16, 32) -> feature pyramid -> grid head -> decode -> NMS

The head is shared by all levels; an anchor's prediction is four box numbers, an objectness and K class scores.
See `detseg.detect.grid` for what the four numbers mean.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detseg.backbones import Backbone
from detseg.backbones.blocks import ResidualSeparable
from detseg.backbones.normalise import unit_images
from detseg.boxes import clip_boxes
from detseg.detect.assign import assign
from detseg.detect.grid import Grid, decode, make_grid
from detseg.detect.losses import grid_losses
from detseg.detect.nms.greedy import batched_nms
from detseg.detect.pyramid import FeaturePyramid

Targets = Sequence[dict[str, Tensor]]

# Objectness starts at 1 %: background is nearly everything, and a head that starts at 50 % spends its first
# steps on unlearning that (Lin et al. 2017, arXiv:1708.02002, section 4.1).
PRIOR = 0.01


class GridHead(nn.Module):
    """From pyramid maps (N, C, H, W) to (N, H·W·A, 5) box and objectness logits and (N, H·W·A, K) class logits."""

    def __init__(self, width: int, anchors: int, num_classes: int, depth: int = 2) -> None:
        super().__init__()
        # Classes can be read off pretrained features at once; places cannot, so that branch starts in full.
        self.where = nn.Sequential(*(ResidualSeparable(width, start_at_zero=False) for _ in range(depth)))
        self.what = nn.Sequential(*(ResidualSeparable(width) for _ in range(depth)))
        self.box = nn.Conv2d(width, anchors * 5, 1)
        self.classes = nn.Conv2d(width, anchors * num_classes, 1)
        self.num_classes = num_classes
        offsets = torch.zeros(anchors, 5)
        offsets[:, 4] = -math.log((1 - PRIOR) / PRIOR)
        for layer, bias in ((self.box, offsets.flatten()), (self.classes, torch.zeros(anchors * num_classes))):
            nn.init.normal_(layer.weight, std=0.01)
            layer.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to (N, H·W·A, 5) and (N, H·W·A, K)."""
        box = self.box(self.where(x)).permute(0, 2, 3, 1)
        classes = self.classes(self.what(x)).permute(0, 2, 3, 1)
        # Not a reshape to -1: of no images at all it could not tell H·W·A.
        return (
            box.unflatten(3, (-1, 5)).flatten(1, 3),
            classes.unflatten(3, (-1, self.num_classes)).flatten(1, 3),
        )


class YoloDetector(nn.Module):
    """Grid detector: backbone, feature pyramid and a head shared by all levels.

    Args:
        backbone: what `detseg.backbones.create_backbone` returns; its strides are the grid's.
        num_classes: K.
        anchors: (levels, A, 2) widths and heights in pixels of the input, for instance from `fit_anchors`.
        width: channels of the pyramid and of the head.
        reach: how far from its cell's centre a box's centre may lie, in cells; 0.5 is the original YOLO cell.
        score_threshold: detections below this score are not returned.
        iou_threshold: of non-max suppression, within a class.
        max_detections: at most this many an image.

    Example:
        >>> backbone = create_backbone("resnet18", strides=(8, 16, 32))
        >>> model = YoloDetector(backbone, num_classes=5, anchors=anchors)
        >>> losses = model(images, targets)      # {"loss_box": ..., "loss_objectness": ..., "loss_class": ...}
        >>> detections = model(images)           # [{"boxes": ..., "scores": ..., "labels": ...}, ...]
    """

    anchors: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        anchors: Tensor,
        *,
        width: int = 128,
        reach: float = 1.0,
        score_threshold: float = 0.001,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        anchors = torch.as_tensor(anchors, dtype=torch.float32)
        if anchors.ndim != 3 or len(anchors) != len(backbone.strides) or anchors.shape[-1] != 2:
            raise ValueError(
                f"anchors must have the shape (levels, anchors a level, 2) with {len(backbone.strides)} levels "
                f"for strides {tuple(backbone.strides)}, got {tuple(anchors.shape)}"
            )
        if not (anchors > 0).all():
            raise ValueError("anchors must be positive widths and heights in pixels")
        if not reach >= 0.5:
            raise ValueError(f"reach must be at least 0.5 (a centre inside its cell), got {reach}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.backbone = backbone
        self.neck = FeaturePyramid(backbone.channels, backbone.strides, width)
        self.head = GridHead(width, anchors.shape[1], num_classes)
        self.num_classes = num_classes
        self.reach = reach
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.max_detections = max_detections
        self.register_buffer("anchors", anchors)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor, targets: Targets | None = None) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses when targets are given, detections when not; `.training` plays no part in the choice.

        Args:
            images: (N, 3, H, W) RGB, uint8 or float in [0, 1].
            targets: for each image ``boxes`` (M, 4) float32 xyxy in its pixels, ``labels`` (M,) int64 and,
                if there are any, ``iscrowd`` (M,) bool: regions that are neither object nor background.

        Returns:
            A dict of scalar losses whose sum is the loss; or for each image ``boxes`` (D, 4) xyxy clipped to
            the image, ``scores`` (D,) and ``labels`` (D,), best first.
        """
        grid, boxes, objectness, classes = self.predictions(images)
        if targets is not None:
            return self._losses(grid, boxes, objectness, classes, targets)
        probabilities = _probabilities(objectness, classes)
        return [self._select(b, p, images.shape[-2:]) for b, p in zip(boxes, probabilities, strict=True)]

    def predictions(self, images: Tensor) -> tuple[Grid, Tensor, Tensor, Tensor]:
        """Everything the grid says, before any selection.

        Returns:
            The grid of P predictions, boxes (N, P, 4) xyxy in pixels, objectness logits (N, P) and class
            logits (N, P, K), all float32.
        """
        features = self.neck(self.backbone(self._normalise(images)))
        outputs = [self.head(x) for x in features]
        sizes = [(x.shape[-2], x.shape[-1]) for x in features]
        grid = make_grid(sizes, self.backbone.strides, list(self.anchors))
        # float32 from here on: boxes in half precision are known to half a pixel only.
        with torch.autocast(images.device.type, enabled=False):
            box = torch.cat([b for b, _ in outputs], 1).float()
            classes = torch.cat([c for _, c in outputs], 1).float()
            return grid, decode(box[..., :4], grid, self.reach), box[..., 4], classes

    def _normalise(self, images: Tensor) -> Tensor:
        images = unit_images(images, self.mean.dtype)
        return (images - self.mean) / self.std

    def _losses(
        self, grid: Grid, predicted: Tensor, objectness: Tensor, classes: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        if len(targets) != len(predicted):
            raise ValueError(f"{len(predicted)} images but {len(targets)} targets")
        with torch.autocast(predicted.device.type, enabled=False):
            boxes = torch.cat([t["boxes"].float().reshape(-1, 4) for t in targets])
            labels = torch.cat([t["labels"].reshape(-1) for t in targets])
            crowd = torch.cat(
                [t["iscrowd"] if "iscrowd" in t else torch.zeros_like(t["labels"], dtype=torch.bool) for t in targets]
            )
            image = torch.cat([torch.full_like(t["labels"], i) for i, t in enumerate(targets)])
            pairs = assign(grid, boxes, image, ~crowd, len(targets), reach=self.reach)
            ignore = ignored_places(grid, boxes, image, crowd, len(targets))
            return grid_losses(predicted, objectness, classes, pairs, boxes, labels, ignore)

    def _select(self, boxes: Tensor, probabilities: Tensor, size: Sequence[int]) -> dict[str, Tensor]:
        """Detections of one image from boxes (P, 4) and probabilities (P, K)."""
        scores, index = probabilities.flatten().topk(min(1000, probabilities.numel()))
        keep = scores >= self.score_threshold
        scores, index = scores[keep], index[keep]
        boxes = clip_boxes(boxes[index // self.num_classes], (int(size[0]), int(size[1])))
        labels = index % self.num_classes
        kept = batched_nms(boxes, scores, labels, self.iou_threshold, max_detections=self.max_detections)
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


def _probabilities(objectness: Tensor, classes: Tensor) -> Tensor:
    """(N, P) and (N, P, K) logits to (N, P, K) detection scores."""
    return objectness.sigmoid()[..., None] * classes.softmax(-1)


def ignored_places(grid: Grid, boxes: Tensor, image: Tensor, crowd: Tensor, images: int) -> Tensor:
    """(N, P) bool: the prediction's cell centre lies in a crowd region of its image, or its cell holds the region."""
    result = []
    for (rows, columns), stride, anchors in zip(grid.sizes, grid.strides, grid.anchors_per_level, strict=True):
        across = _covered(boxes[:, 0::2], columns, stride)
        down = _covered(boxes[:, 1::2], rows, stride) & crowd[:, None]
        cells = (down[:, :, None] & across[:, None, :]).flatten(1).float()
        level = torch.zeros(images, rows * columns, device=boxes.device).index_add(0, image, cells) > 0
        result.append(level.repeat_interleave(anchors, 1))
    return torch.cat(result, 1)


def _covered(spans: Tensor, count: int, stride: int) -> Tensor:
    """(M, count) bool: the cells of a row whose centre lies in a span (M, 2), and the one that holds its middle.

    A span that is narrower than a cell may hold no centre at all.
    """
    cells = torch.arange(count, device=spans.device)
    centres = (cells + 0.5) * stride
    middle = (spans.mean(1, keepdim=True) / stride).long().clamp(0, count - 1)
    return ((centres >= spans[:, :1]) & (centres < spans[:, 1:])) | (cells == middle)
