"""A YOLO-style grid detector on any backbone (Redmon & Farhadi 2017, 2018).

    images -> backbone (strides 8, 16, 32) -> feature pyramid -> grid head -> decode -> NMS

An anchor's prediction is four box numbers (see `detseg.detect.grid`), an objectness and K class scores; with `masks`
also the coefficients of its instance mask (see `detseg.detect.prototypes`). Classes may be the nodes of a tree, and
images of which only a class is known may teach it (YOLO9000).
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detseg.backbones import Backbone
from detseg.backbones.blocks import ResidualSeparable
from detseg.backbones.class_rows import ClassRows
from detseg.boxes import paired_iou
from detseg.detect.anchors import fit_anchors, fit_of
from detseg.detect.assign import assign
from detseg.detect.grid import Grid, decode, make_grid, means_of
from detseg.detect.losses import cross_entropy, distribution_loss, grid_losses, image_label_loss
from detseg.detect.model import AnchorSizes, DetectionModel, Targets, flatten_image_labels, flatten_targets, select
from detseg.detect.prototypes import (
    PROTOTYPES,
    PrototypeBranch,
    assemble,
    assemble_in,
    framed,
    mask_loss,
    prototype_stride,
)
from detseg.detect.pyramid import FeaturePyramid
from detseg.detect.tree import SoftmaxTree, detections_by_level
from detseg.options import require_positive, require_rising_strides
from detseg.registry import register_model

logger = logging.getLogger(__name__)

# Objectness starts at 1 %: background is nearly everything, and a head that starts at 50 % spends its first
# steps on unlearning that (Lin et al. 2017, arXiv:1708.02002, section 4.1).
PRIOR = 0.01
# Softmaxes of few siblings are too sure of species they have never seen: at 0.9 most of these come out as their family,
# at 0.5 a third or fewer (docs/tree.md).
SURE_FROM = 0.9
# Of models that are trained today: see "What was tried" in docs/results.md.
WIDTH, SHARPNESS, VOTE_IOU = 192, 2.0, 0.65


class GridHead(nn.Module):
    """From pyramid maps (N, C, H, W) to box and objectness logits (N, H·W·A, 5) and class logits (N, H·W·A, K).

    With B = `bins` above 0 a box has 4·B logits in place of 4. With Q = `coefficients` above 0 also to (N, H·W·A, Q) of
    the masks.
    """

    def __init__(
        self, width: int, anchors: int, num_classes: int, *, bins: int = 0, depth: int = 2, coefficients: int = 0
    ) -> None:
        super().__init__()
        # Classes can be read off pretrained features at once; places cannot, so that branch starts in full.
        self.where = nn.Sequential(*(ResidualSeparable(width, start_at_zero=False) for _ in range(depth)))
        self.what = nn.Sequential(*(ResidualSeparable(width) for _ in range(depth)))
        numbers = 4 * max(1, bins) + 1
        self.box = nn.Conv2d(width, anchors * numbers, 1)
        self.classes = nn.Conv2d(width, anchors * num_classes, 1)
        offsets = torch.zeros(anchors, numbers)
        offsets[:, -1] = -math.log((1 - PRIOR) / PRIOR)
        for layer, bias in ((self.box, offsets.flatten()), (self.classes, torch.zeros(anchors * num_classes))):
            nn.init.normal_(layer.weight, std=0.01)
            layer.bias = nn.Parameter(bias)
        self.coefficients = nn.Conv2d(width, anchors * coefficients, 1) if coefficients else None
        self.each = (numbers, num_classes, coefficients)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) to two or three tensors: see the class."""
        where = self.where(x)
        outputs = [self.box(where), self.classes(self.what(x))]
        if self.coefficients is not None:
            outputs.append(self.coefficients(where))
        # Not a reshape to -1: of no images at all it could not tell H·W·A.
        return tuple(
            out.permute(0, 2, 3, 1).unflatten(3, (-1, each)).flatten(1, 3)
            for out, each in zip(outputs, self.each, strict=False)
        )


class Outputs(NamedTuple):
    """What the network says of N images, all float32."""

    grid: Grid  # of P predictions an image
    box: Tensor  # (N, P, 4) logits, or (N, P, 4 * B) of bins: see `detseg.detect.grid`
    objectness: Tensor  # (N, P) logits
    classes: Tensor  # (N, P, K) logits
    coefficients: Tensor | None  # (N, P, Q), of a model that finds masks
    prototypes: Tensor | None  # (N, Q, h, w)


@register_model("yolo", task="detect")
class YoloDetector(DetectionModel):
    """Grid detector: backbone, feature pyramid and a head shared by all levels.

    Args:
        backbone: what `detseg.backbones.create_backbone` returns; its strides are the grid's.
        anchors: (levels, A, 2) widths and heights in pixels of the input, from `fit_anchors` say.
        width: channels of the pyramid and of the head.
        reach: how far from its cell's centre a box's centre may lie, in cells; 0.5 is the original YOLO cell.
        bins: of the distribution of each of a box's four numbers; 0: the numbers themselves, as YOLO has them.
        masks: finds instance masks too.
        tree: the parent of each class, -1 of roots; the classes are the nodes of a tree then, see `SoftmaxTree`.
        tree_threshold: least P(node) of a detection's label, unless it is a root; a detection is given the deepest.
        sharpness: power of the objectness in scores. It expects the IoU, and average precision over IoU thresholds
            grows faster than that; 1 is YOLO's product.
        score_threshold: see `detseg.detect.model.Limits`; by default that power of 0.001.
        iou_threshold, max_detections, vote_iou: see there too.

    Example:
        >>> model = YoloDetector(create_backbone("resnet18", strides=(8, 16, 32)), num_classes=5, anchors=anchors)
        >>> losses, detections = model(images, targets), model(images)
    """

    anchors: Tensor

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options of the grid detector."""

        strides: tuple[int, ...] = (8, 16, 32)
        """Strides of the output grids in pixels, finest first."""
        anchors: int = 3
        """Anchors per stride; their sizes are fitted to the training boxes by k-means."""
        reach: float = 1.0
        """Largest distance of an object's centre from a cell's centre, in cells; 0.5: only the cell around it."""
        bins: int = 16
        """Bins of the distribution that each number of a box is the mean of; 0: plain numbers, as in YOLO's papers."""
        masks: bool = False
        """Also learn instance masks, from polygons or run lengths, as prototypes and coefficients (YOLACT)."""
        tree: Path | None = None
        """Tree of classes: a file of names indented below their parents, or of lines child -> parent."""
        labels: Path | None = None
        """Images with a class but no boxes, a folder per class: they teach classes only, and are mixed into batches."""

        def check_model(self) -> None:
            """Raise ValueError where options make no sense."""
            require_positive(self, "anchors")
            require_rising_strides(self.strides)
            if self.bins < 0 or self.bins == 1:
                raise ValueError(f"--bins is 0, or 2 or more, not {self.bins}")
            if not self.reach >= 0.5:
                raise ValueError(f"--reach must be at least 0.5, the cell itself, not {self.reach}")
            if self.masks and self.tree is not None:
                raise ValueError("--tree is for boxes; leave out --masks")

    @classmethod
    def options_for(cls, data: Any, config: Any) -> dict[str, Any]:
        """Strides, reach and masks as set, anchors fitted to the training boxes, and the parents in the tree."""
        from detseg.data.class_tree import read_tree
        from detseg.data.dataset import learnable_sizes  # here: it brings OpenCV, which nobody needs for boxes alone

        sizes = learnable_sizes(data, config.size)
        anchors = fit_anchors(sizes, len(config.strides), config.anchors, seed=config.seed)
        fit = fit_of(sizes, anchors.reshape(-1, 2))
        logger.info("anchors: mean best IoU %.3f, %.1f%% of objects above 0.5", fit.mean_iou, 100 * fit.best_recall)
        options = {"strides": list(config.strides), "anchors": anchors.round(2).tolist(), "reach": config.reach}
        options |= {"width": WIDTH}
        options |= {"bins": config.bins} if config.bins else {}
        if config.tree is None:  # whose scores are probabilities of nodes
            options |= {"sharpness": SHARPNESS, "vote_iou": VOTE_IOU}
        tree = {} if config.tree is None else {"tree": list(read_tree(config.tree, data.categories)[0].parents)}
        return options | tree | ({"masks": True} if config.masks else {})

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        anchors: AnchorSizes,
        *,
        width: int = 128,
        reach: float = 1.0,
        bins: int = 0,
        masks: bool = False,
        tree: Sequence[int] | None = None,
        tree_threshold: float = SURE_FROM,
        sharpness: float = 1.0,
        score_threshold: float | None = None,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
        vote_iou: float | None = None,
    ) -> None:
        super().__init__(backbone)
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
        if tree is not None and len(tree) != num_classes:
            raise ValueError(f"the tree has {len(tree)} nodes; it must have one for each of the {num_classes} classes")
        self.backbone = backbone
        self.neck = FeaturePyramid(backbone.channels, backbone.strides, width)
        self.head = GridHead(width, anchors.shape[1], num_classes, bins=bins, coefficients=PROTOTYPES if masks else 0)
        finest = backbone.strides[0]
        self.prototype_stride = prototype_stride(finest)
        self.prototypes = PrototypeBranch(width, finest // self.prototype_stride) if masks else None
        self.num_classes = num_classes
        self.reach = reach
        self.tree = None if tree is None else SoftmaxTree(tree)
        self.tree_threshold = tree_threshold
        self.sharpness = sharpness
        self.score_threshold = 0.001**sharpness if score_threshold is None else score_threshold
        self.iou_threshold = iou_threshold
        self.max_detections = max_detections
        self.vote_iou = vote_iou
        self.register_buffer("anchors", anchors)

    @property
    def finds_masks(self) -> bool:
        """See `DetectionModel`."""
        return self.prototypes is not None

    def forward(self, images: Tensor, targets: Targets | None = None) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses when targets are given, detections when not; `.training` plays no part in the choice.

        Args:
            images: (N, 3, H, W) RGB, uint8 or float in [0, 1].
            targets: for each image ``boxes`` (M, 4) float32 xyxy in its pixels, ``labels`` (M,) int64 and maybe
                ``iscrowd`` (M,) bool: regions that are neither object nor background; to learn masks, ``masks``
                (M, H, W) uint8. ``image_labels`` (L,) int64 in their place say that somewhere in the image there are
                objects of these classes.

        Returns:
            Scalar losses ``loss_box``, ``loss_objectness``, ``loss_class``, and maybe ``loss_dfl`` of bins and
            ``loss_mask``, whose sum is the loss; or for each image ``boxes`` (D, 4) xyxy clipped to it, ``scores``
            (D,), ``labels`` (D,) and maybe ``masks`` (D, h, w) with ``regions`` (D, 4), best first. With a tree labels
            are the deepest sure nodes, see `SoftmaxTree.surest`; nodes below one root suppress each other.
        """
        outputs = self.outputs(images)
        if targets is not None:
            return self._losses(outputs, targets)
        scores = self._scores(outputs.objectness, outputs.classes)
        rivals = None if self.tree is None else self.tree.roots
        size = images.shape[-2:]
        chosen = [select(b, s, size, self, rivals=rivals) for b, s in zip(self._boxes(outputs), scores, strict=True)]
        return [one.found | self._masks(outputs, i, one.rows) for i, one in enumerate(chosen)]

    def by_level(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Detections of each image at every level of the tree, see `detections_by_level`; ValueError without a tree."""
        if self.tree is None:
            raise ValueError("this model has no tree of classes")
        _, boxes, objectness, classes = self.predictions(images)
        there, nodes = self._there(objectness), self.tree.log_probability(classes).exp()
        sides = zip(boxes, there * nodes, there * self.tree.surest(nodes, self.tree_threshold), strict=True)
        return [detections_by_level(b, s, sure, images.shape[-2:], self.tree, self) for b, s, sure in sides]

    def class_layers(self) -> dict[str, ClassRows]:
        """See `detseg.backbones.normalise.ImageModel`."""
        return {"head.classes": ClassRows(groups=self.anchors.shape[1])}

    def raw(self, images: Tensor) -> tuple[Tensor, ...]:
        """Boxes (N, P, 4) xyxy in pixels and scores (N, P, K) of all predictions.

        Of a model that finds masks also coefficients (N, P, Q) and prototypes (N, Q, h, w): see `assemble`. With a tree
        a prediction has the score of one node for each root, its deepest sure one, and 0 for all others.
        """
        outputs = self.outputs(images)
        found = self._boxes(outputs), self._scores(outputs.objectness, outputs.classes)
        if outputs.coefficients is None or outputs.prototypes is None:
            return found
        return *found, outputs.coefficients, outputs.prototypes

    def masks_at(
        self, parts: Sequence[Tensor], image: Tensor, rows: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """See `DetectionModel`."""
        if not self.finds_masks:
            return None
        maps, region = framed(parts[1], self.prototype_stride)
        masks = assemble_in(parts[0][image, rows], maps, image)
        return masks, region + torch.zeros_like(boxes)

    def predictions(self, images: Tensor) -> tuple[Grid, Tensor, Tensor, Tensor]:
        """Grid of P predictions, boxes (N, P, 4) xyxy, objectness (N, P) and class logits (N, P, K), all float32."""
        outputs = self.outputs(images)
        return outputs.grid, self._boxes(outputs), outputs.objectness, outputs.classes

    def outputs(self, images: Tensor) -> Outputs:
        """What the network says of images, before any selection."""
        features = self.neck(self.backbone(self.normalise(images)))
        levels = [self.head(x) for x in features]
        prototypes = None if self.prototypes is None else self.prototypes(features[0])
        sizes = [(x.shape[-2], x.shape[-1]) for x in features]
        grid = make_grid(sizes, self.backbone.strides, list(self.anchors))
        # float32 from here on: boxes in half precision are known to half a pixel only.
        box, classes, *rest = (torch.cat(parts, 1).float() for parts in zip(*levels, strict=True))
        coefficients = rest[0] if rest else None
        prototypes = None if prototypes is None else prototypes.float()
        return Outputs(grid, box[..., :-1], box[..., -1], classes, coefficients, prototypes)

    def _boxes(self, outputs: Outputs) -> Tensor:
        """(N, P, 4) xyxy."""
        with torch.autocast(outputs.box.device.type, enabled=False):
            return decode(outputs.box, outputs.grid, self.reach)

    def _masks(self, outputs: Outputs, image: int, rows: Tensor) -> dict[str, Tensor]:
        """Masks of the predictions `rows` of an image, and the regions that they lie over."""
        if outputs.coefficients is None or outputs.prototypes is None:
            return {}
        prototypes, region = framed(outputs.prototypes[image], self.prototype_stride)
        masks = assemble(outputs.coefficients[image, rows], prototypes)
        return {"masks": masks, "regions": region.expand(len(masks), 4)}

    def _losses(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        grid, box, objectness, classes = outputs[:4]
        with torch.autocast(box.device.type, enabled=False):
            flat, images = flatten_targets(targets, len(box)), len(box)
            pairs = assign(grid, flat.boxes, flat.image, ~flat.iscrowd, images, reach=self.reach)
            ignore = ignored_places(grid, flat.boxes, flat.image, flat.iscrowd, images)
            entropy = cross_entropy if self.tree is None else self.tree.cross_entropy
            given = flatten_image_labels(targets)
            if given is not None:
                ignore = ignore.index_fill(0, given.image, True)
            at, logits = grid.take(pairs.prediction % len(grid.corners)), box.flatten(0, 1)[pairs.prediction]
            found, wanted = decode(logits, at, self.reach), flat.boxes[:, None].expand(*pairs.prediction.shape, 4)
            losses = grid_losses(found, objectness, classes, pairs, flat.boxes, flat.labels, ignore, entropy)
            if logits.shape[-1] > 4:
                losses["loss_dfl"] = distribution_loss(logits, means_of(wanted, at, self.reach), pairs.chosen)
            if given is not None:
                losses["loss_class"] = losses["loss_class"] + image_label_loss(objectness, classes, given, entropy)
            if outputs.coefficients is not None and outputs.prototypes is not None:
                stride = self.prototype_stride
                fit = paired_iou(found.detach(), wanted)
                losses["loss_mask"] = mask_loss(
                    outputs.coefficients, outputs.prototypes, pairs, fit, flat, targets, stride
                )
            return losses

    def _scores(self, objectness: Tensor, classes: Tensor) -> Tensor:
        """(N, P) and (N, P, K) logits to (N, P, K) scores of what is detected."""
        if self.tree is None:
            chances = classes.softmax(-1)
        else:
            chances = self.tree.surest(self.tree.log_probability(classes).exp(), self.tree_threshold)
        return self._there(objectness) * chances

    def _there(self, objectness: Tensor) -> Tensor:
        """(N, P, 1) of logits (N, P): what scores have of the objectness."""
        there = objectness.sigmoid()[..., None]
        return there if self.sharpness == 1 else there.pow(self.sharpness)


def ignored_places(grid: Grid, boxes: Tensor, image: Tensor, crowd: Tensor, images: int) -> Tensor:
    """(N, P) bool: the prediction's cell centre lies in a crowd region of its image, or its cell holds the region."""
    result = []
    for rows, columns, stride, anchors in grid.levels:
        across = _covered(boxes[:, 0::2], columns, stride)
        down = _covered(boxes[:, 1::2], rows, stride) & crowd[:, None]
        cells = (down[:, :, None] & across[:, None, :]).flatten(1).float()
        level = torch.zeros(images, rows * columns, device=boxes.device).index_add(0, image, cells) > 0
        result.append(level.repeat_interleave(anchors, 1))
    return torch.cat(result, 1)


def _covered(spans: Tensor, count: int, stride: int) -> Tensor:
    """(M, count) bool: cells whose centre lies in a span (M, 2), and the one with its middle, for narrow spans."""
    cells = torch.arange(count, device=spans.device)
    centres = (cells + 0.5) * stride
    middle = (spans.mean(1, keepdim=True) / stride).long().clamp(0, count - 1)
    return ((centres >= spans[:, :1]) & (centres < spans[:, 1:])) | (cells == middle)
