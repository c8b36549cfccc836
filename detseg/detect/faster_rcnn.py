"""Faster R-CNN on any backbone (Ren et al. 2015, arXiv:1506.01497; with a pyramid: Lin et al. 2017, arXiv:1612.03144).

    images -> backbone -> feature pyramid -> proposals -> RoIAlign -> box head -> NMS

A proposal's prediction is K + 1 class scores, the first for background, and the deltas of a box seen from it.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from detseg.backbones import Backbone
from detseg.backbones.meta import hooked
from detseg.boxes import clip_boxes
from detseg.data.limits import LEAST
from detseg.detect.anchors import fit_anchors, fit_of
from detseg.detect.coder import HEAD, decode_deltas
from detseg.detect.match import match
from detseg.detect.model import (
    AnchorSizes,
    ChangeMaps,
    ClassRows,
    DetectionModel,
    FlatTargets,
    Targets,
    flatten_targets,
)
from detseg.detect.proposals import (
    ProposalHead,
    Proposals,
    anchor_boxes,
    box_loss,
    keep_best,
    proposal_losses,
    propose,
)
from detseg.detect.published import Published
from detseg.detect.rcnn_pyramid import RcnnPyramid
from detseg.detect.rcnn_weights import MOBILENET, RESNET, rename_mobilenet, rename_resnet
from detseg.detect.roi import align
from detseg.detect.sample import sample
from detseg.options import require_positive, require_rising_strides
from detseg.registry import register_model
from detseg.together import divisor

logger = logging.getLogger(__name__)

# A proposal that overlaps an object by at least this learns it, by less is background; so many of those drawn learn
# objects at most (Girshick 2015, section 2.3).
OVERLAP, POSITIVE = 0.5, 0.25
CELLS = 7  # a side, of the features a box is found from
LEAST_SIDE = 1e-2  # smaller boxes are no detections


class BoxHead(nn.Module):
    """Features of regions (R, C, S, S) to class logits (R, K + 1), background first, and deltas (R, 1 or K + 1, 4)."""

    def __init__(self, width: int, hidden: int, num_classes: int, *, class_boxes: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(width * CELLS**2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.classes = nn.Linear(hidden, num_classes + 1)
        self.boxes = nn.Linear(hidden, 4 * (num_classes + 1 if class_boxes else 1))
        for layer, deviation in ((self.classes, 0.01), (self.boxes, 0.001)):  # as in the paper's predecessor
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class; float32."""
        x = self.body(x)
        return self.classes(x).float(), self.boxes(x).unflatten(1, (-1, 4)).float()


class Seen(NamedTuple):
    """What the first stage makes of N images."""

    size: tuple[int, int]  # height and width of the images
    maps: list[Tensor]  # (N, C, H, W) of the pyramid
    objectness: Tensor  # (N, P) logits
    deltas: Tensor  # (N, P, 4)
    anchors: Tensor  # (P, 4) xyxy
    proposals: Proposals


class Regions(NamedTuple):
    """S regions of each of N images, and what they learn."""

    boxes: Tensor  # (N, S, 4) float32 xyxy; those that learn objects first
    objects: Tensor  # (N, S) int64 positions among the batch's objects
    positive: Tensor  # (N, S) bool: learns the object
    chosen: Tensor  # (N, S) bool: learns anything


class Detected(NamedTuple):
    """At most D detections of each of N images, best first."""

    boxes: Tensor  # (N, D, 4) float32 xyxy, clipped to the image
    scores: Tensor  # (N, D)
    labels: Tensor  # (N, D)
    valid: Tensor  # (N, D) bool: there were so many


@register_model("faster_rcnn", task="detect")
class FasterRcnn(DetectionModel):
    """Faster R-CNN: backbone, feature pyramid, proposals, box head.

    Args:
        backbone: what `detseg.backbones.create_backbone` returns; its strides are powers of two.
        anchors: (levels, A, 2) widths and heights in pixels: for each stride of the backbone, and half as fine.
        published: the layers of torchvision's networks, dense, in place of light ones.
        tap: see `RcnnPyramid`.
        width: channels of the pyramid.
        hidden: width of the box head's layers.
        class_boxes: a box for each class, or one for all.
        candidates, proposals: boxes of each map before non-max suppression and of an image after it; more in
            proportion where an image may have more than 100 detections.
        least_objectness: probability below which there is no proposal.
        regions: proposals of an image that learn in a step.
        score_threshold, iou_threshold, max_detections: see `detseg.detect.model.Limits`; scores must be above it.

    Example:
        >>> anchors = published_anchors([[32], [64], [128], [256]], [0.5, 1, 2])
        >>> model = FasterRcnn(create_backbone("resnet18", strides=(8, 16, 32)), num_classes=5, anchors=anchors)
        >>> losses, detections = model(images, targets), model(images)
    """

    coco: ClassVar[dict[str, Published]] = {
        "resnet50": Published("fasterrcnn_resnet50_fpn", RESNET, rename_resnet),
        "mobilenet_v3_large": Published("fasterrcnn_mobilenet_v3_large_320_fpn", MOBILENET, rename_mobilenet),
    }

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options of two-stage detectors."""

        strides: tuple[int, ...] = (8, 16, 32)
        """Strides of the feature maps in pixels, powers of two, finest first; one half as fine as the last is added."""
        anchors: int = 3
        """Anchors per stride; their sizes are fitted to the training boxes by k-means."""
        regions: int = 64
        """Proposals per image that the second stage learns from in a step."""

        def check_model(self) -> None:
            """Raise ValueError where options make no sense."""
            require_positive(self, "anchors", "regions")
            require_rising_strides(self.strides)
            if any(stride & (stride - 1) for stride in self.strides):
                raise ValueError(f"--strides must be powers of two, not {' '.join(map(str, self.strides))}")

    @classmethod
    def options_for(cls, data: Any, config: Any) -> dict[str, Any]:
        """Strides and regions as set and anchors fitted to the training boxes; with COCO weights, their network's."""
        if config.weights == "coco" and not config.only_backbone and config.backbone in cls.coco:
            return {**cls.coco[config.backbone].options, "regions": config.regions}
        from detseg.data.dataset import learnable_sizes  # here: it brings OpenCV, which nobody needs for boxes alone

        sizes = learnable_sizes(data, config.size)
        anchors = fit_anchors(sizes, len(config.strides) + 1, config.anchors, seed=config.seed)
        fit = fit_of(sizes, anchors.reshape(-1, 2))
        logger.info("anchors: mean best IoU %.3f, %.1f%% of objects above 0.5", fit.mean_iou, 100 * fit.best_recall)
        return {"strides": list(config.strides), "anchors": anchors.round(2).tolist(), "regions": config.regions}

    anchors: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        anchors: AnchorSizes,
        *,
        published: bool = False,
        tap: str | None = None,
        width: int = 128,
        hidden: int = 512,
        class_boxes: bool = False,
        candidates: int = 500,
        proposals: int = 200,
        least_objectness: float = 0.0,
        regions: int = 64,
        score_threshold: float = 0.001,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__(backbone)
        anchors = torch.as_tensor(anchors, dtype=torch.float32)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if any(stride & (stride - 1) for stride in backbone.strides):
            raise ValueError(f"strides must be powers of two, got {tuple(backbone.strides)}")
        self.backbone = backbone
        self.pyramid = RcnnPyramid(backbone, width, published=published, tap=tap)
        levels = len(self.pyramid.strides) + 1
        if anchors.ndim != 3 or len(anchors) != levels or anchors.shape[-1] != 2:
            raise ValueError(
                f"anchors must have the shape (levels, anchors a level, 2) with {levels} levels for strides "
                f"{tuple(self.pyramid.strides)} and one half as fine, got {tuple(anchors.shape)}"
            )
        if not (anchors > 0).all():
            raise ValueError("anchors must be positive widths and heights in pixels")
        self.register_buffer("anchors", anchors, persistent=False)  # an argument, not a parameter
        self.proposal_head = ProposalHead(width, anchors.shape[1], published=published)
        self.box_head = BoxHead(width, hidden, num_classes, class_boxes=class_boxes)
        self.num_classes, self.class_boxes = num_classes, class_boxes
        self.candidates, self.proposals, self.least_objectness = candidates, proposals, least_objectness
        self.regions = regions
        self.score_threshold, self.iou_threshold, self.max_detections = score_threshold, iou_threshold, max_detections

    def forward(self, images: Tensor, targets: Targets | None = None) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses when targets are given, detections when not; `.training` plays no part in the choice.

        Args:
            images: (N, 3, H, W) RGB, uint8 or float in [0, 1].
            targets: for each image ``boxes`` (M, 4) float32 xyxy in its pixels, ``labels`` (M,) int64 and maybe
                ``iscrowd`` (M,) bool: regions that are neither object nor background.

        Returns:
            Scalar losses ``loss_objectness`` and ``loss_proposal_box`` of the proposals, ``loss_class`` and
            ``loss_box`` of the box head, whose sum is the loss; or for each image ``boxes`` (D, 4) xyxy clipped to it,
            ``scores`` (D,) and ``labels`` (D,), best first.
        """
        seen = self.look(images)
        if targets is None:
            return self.found(seen.maps, self.detected(seen))
        with torch.autocast(images.device.type, enabled=False):
            flat = flatten_targets(targets, len(images))
            losses = proposal_losses(seen.objectness, seen.deltas, seen.anchors, flat)
            chosen = self.choose(seen.proposals, targets, flat)
        return losses | self.region_losses(seen.maps, chosen, flat, targets)

    def look(self, images: Tensor) -> Seen:
        """The first stage."""
        size = (images.shape[-2], images.shape[-1])
        maps = self.pyramid(self.pyramid.backbone_maps(self.backbone, self.normalise(images)))
        objectness, deltas = self.proposal_head(maps)
        with torch.autocast(images.device.type, enabled=False):
            cells = [(x.shape[-2], x.shape[-1]) for x in maps]
            share = max(1.0, self.max_detections / LEAST)
            anchors = anchor_boxes(cells, self.pyramid.steps(maps, size), list(self.anchors))
            proposals = propose(
                objectness, deltas, anchors, size,
                candidates=math.ceil(share * self.candidates), count=math.ceil(share * self.proposals),
                least=self.least_objectness,
            )  # fmt: skip
        return Seen(size, maps, objectness, deltas, torch.cat(anchors), proposals)

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, D, 4) and scores (N, D, K) of detections, each of one class; scores of 0 where there are fewer.

        The second stage needs a selection from the first, so these are selected already; selected again, they stay.
        """
        found = self.detected(self.look(images))
        return found.boxes, class_scores(found, self.num_classes)

    @contextmanager
    def with_maps(self, change: ChangeMaps) -> Iterator[None]:
        """See `DetectionModel`; what the pyramid takes, of a tapped backbone a map more."""

        def replaced(_module: nn.Module, inputs: tuple[list[Tensor]]) -> tuple[list[Tensor]]:
            return (change(inputs[0], self.pyramid.strides),)

        with hooked([self.pyramid], before=replaced):
            yield

    def class_layers(self) -> dict[str, ClassRows]:
        """See `DetectionModel`."""
        boxes = {"box_head.boxes": ClassRows(background=True, each=4)} if self.class_boxes else {}
        return {"box_head.classes": ClassRows(background=True), **boxes}

    def align(self, maps: list[Tensor], boxes: Tensor, size: int) -> Tensor:
        """Features (N·S, C, size, size) under boxes (N, S, 4) of the images, from all maps but the one on top."""
        image = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(boxes.shape[:2]).flatten()
        return align(maps[:-1], self.pyramid.strides, boxes.flatten(0, 1), image, size)

    @torch.no_grad()
    def choose(self, proposals: Proposals, targets: Targets, flat: FlatTargets) -> Regions:
        """What the second stage learns from: of proposals and objects, a sample."""
        padded = pad_sequence([t["boxes"].float().reshape(-1, 4) for t in targets], batch_first=True)
        crowd = flat.iscrowd.split([len(t["labels"]) for t in targets])
        real = pad_sequence([~c for c in crowd], batch_first=True)
        boxes, valid = torch.cat([proposals.boxes, padded], 1), torch.cat([proposals.valid, real], 1)
        matches = match(boxes, flat, len(boxes), high=OVERLAP, low=OVERLAP)
        index, chosen = sample(matches.positive & valid, matches.negative & valid, self.regions, POSITIVE)
        return Regions(
            boxes.gather(1, index[..., None].expand(-1, -1, 4)),
            matches.object.gather(1, index),
            matches.positive.gather(1, index) & chosen,
            chosen,
        )

    def region_losses(
        self, maps: list[Tensor], chosen: Regions, flat: FlatTargets, targets: Targets
    ) -> dict[str, Tensor]:
        """Cross-entropy and smooth L1 of the box head, both divided by the number of regions."""
        classes, deltas = self.box_head(self.align(maps, chosen.boxes, CELLS))
        with torch.autocast(classes.device.type, enabled=False):
            kinds = labels_of(chosen, flat)
            entropy = F.cross_entropy(classes, kinds.flatten(), reduction="none").view_as(kinds)
            count = divisor(chosen.chosen.sum())
            deltas = deltas.unflatten(0, kinds.shape)
            row = kinds if self.class_boxes else torch.zeros_like(kinds)
            own = deltas.gather(2, row[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
            box = box_loss(own, chosen.boxes, chosen.objects, chosen.positive, flat, HEAD)
            return {"loss_class": (entropy * chosen.chosen).sum() / count, "loss_box": box / count}

    def detected(self, seen: Seen) -> Detected:
        """Classes and boxes of the proposals, the best of them after non-max suppression within classes."""
        proposals = seen.proposals
        classes, deltas = self.box_head(self.align(seen.maps, proposals.boxes, CELLS))
        with torch.autocast(classes.device.type, enabled=False):
            shape = proposals.valid.shape
            scores = (classes.softmax(-1)[:, 1:].unflatten(0, shape) * proposals.valid[..., None]).flatten(1)
            boxes = decode_deltas(deltas.unflatten(0, shape), proposals.boxes[:, :, None], HEAD)
            boxes = boxes[:, :, 1:] if self.class_boxes else boxes.expand(-1, -1, self.num_classes, 4)
            boxes = clip_boxes(boxes.flatten(1, 2), seen.size)
            labels = torch.arange(self.num_classes, device=scores.device).repeat(shape[1])
            rivals = torch.zeros_like(labels) if self.agnostic else labels
            large = (boxes[..., 2:] - boxes[..., :2] >= LEAST_SIDE).all(-1)
            limits = (self.max_detections, self.iou_threshold, self.score_threshold)
            best = keep_best(boxes, scores, rivals, large, *limits)
            return Detected(
                boxes.gather(1, best.places[..., None].expand(-1, -1, 4)),
                scores.gather(1, best.places),
                labels[best.places],
                best.valid,
            )

    def found(self, maps: list[Tensor], detected: Detected) -> list[dict[str, Tensor]]:
        """The detections of each image."""
        return [
            {"boxes": boxes[valid], "scores": scores[valid], "labels": labels[valid]}
            for boxes, scores, labels, valid in zip(*detected, strict=True)
        ]


def labels_of(chosen: Regions, flat: FlatTargets) -> Tensor:
    """(N, S) what the regions learn to be: 0 for background, else 1 + the object's label."""
    labels = torch.cat([flat.labels, flat.labels.new_zeros(1)])[chosen.objects]
    return torch.where(chosen.positive, labels + 1, 0)


def class_scores(detected: Detected, num_classes: int) -> Tensor:
    """(N, D, K) scores, 0 but for the class of a detection."""
    scores = detected.scores * detected.valid
    return scores[..., None] * F.one_hot(detected.labels, num_classes)
