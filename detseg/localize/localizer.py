"""One object an image: its class and, by four more outputs, its box.

Boxes are learnt as centre and size in shares of the image; of width and height the square root, as in YOLO (Redmon et
al. 2016, arXiv:1506.02640): ten pixels more or less matter more on a small box.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from detseg.backbones import Backbone
from detseg.backbones.class_rows import ClassRows
from detseg.box_formats import check_name
from detseg.boxes import clip_boxes, convert_boxes, paired_iou
from detseg.detect.model import DetectionModel
from detseg.registry import register_model
from detseg.together import divisor

BoxLoss = Literal["mse", "smooth_l1", "giou", "ciou"]
# Where smooth L1 turns from square to line: most differences, in shares of the image, are below 1.
SMOOTH_L1_BETA = 0.1
# Of maps with more cells a side than this, parts are taken: the layer that the box is told by grows with their square.
MOST_CELLS = 14


class Largest(NamedTuple):
    """The object that counts in each of N images."""

    there: Tensor  # (N,) bool, False where there is none
    boxes: Tensor  # (N, 4) float32 xyxy
    labels: Tensor  # (N,) int64
    known: Tensor  # (N,) bool, False where there are only crowds: neither an object nor none


@register_model("localizer", task="localize")
class Localizer(DetectionModel):
    """Class and box of the one object in an image, on any backbone.

    Args:
        backbone: its deepest map is used; `detseg.backbones.create_deepest` makes such a one.
        objectness: also tell whether there is an object at all; `scores` are then multiplied by that probability.
        loss: of the box: "mse" or "smooth_l1" of the four numbers, "giou" or "ciou" (1 minus it) of the boxes.
        square_root: learn the square roots of width and height.
        loss_weights: of the losses of class and box; objectness has the weight 1.
        size: side of the images, pixels. The box is told from all cells of their map, at most `MOST_CELLS` a side.
        grid: in place of that, from the map's mean in grid x grid parts; 1 is global average pooling.
        width, hidden: channels that the map is reduced to before that, and outputs of the layer behind it.
        dropout: share of the features of the class that are zeroed at random while training; of the box none are.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options of the localizer."""

        objectness: bool = False
        """Also predict whether there is an object; otherwise images without objects are left out."""
        loss: Literal["mse", "smooth_l1", "giou", "ciou"] = "giou"
        """Box loss: on the four numbers (mse, smooth_l1) or on the overlap (giou, ciou)."""
        square_root: bool = True
        """Predict square roots of width and height: errors on small boxes weigh more."""
        loss_weights: tuple[float, float] = (0.8, 0.2)
        """Weights of the class loss and the box loss."""

    @classmethod
    def options_for(cls, data: Any, config: Any) -> dict[str, Any]:
        """The options as set; the box head is made for maps of `config.size`."""
        names = ("objectness", "loss", "square_root", "size")
        return {name: getattr(config, name) for name in names} | {"loss_weights": list(config.loss_weights)}

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        objectness: bool = False,
        loss: BoxLoss = "giou",
        square_root: bool = True,
        loss_weights: Sequence[float] = (0.8, 0.2),
        size: int = 224,
        grid: int | None = None,
        width: int = 128,
        hidden: int = 256,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(backbone)
        if grid is None:
            grid = min(MOST_CELLS, max(1, math.ceil(size / backbone.strides[-1])))
        check_name("loss", loss, get_args(BoxLoss))
        if num_classes < 1 or grid < 1:
            raise ValueError(f"num_classes and grid must be at least 1, not {num_classes} and {grid}")
        if len(loss_weights) != 2 or min(loss_weights) < 0:
            raise ValueError(f"loss_weights are two numbers of at least 0, of class and box, not {tuple(loss_weights)}")
        self.backbone = backbone
        self.num_classes = num_classes
        self.loss: BoxLoss = loss
        self.square_root = square_root
        self.class_weight, self.box_weight = map(float, loss_weights)
        self.grid = grid
        self.dropout = dropout
        channels = backbone.channels[-1]
        self.classifier = nn.Linear(channels, num_classes)
        self.objectness = nn.Linear(channels, 1) if objectness else None
        self.reduce = nn.Identity() if grid == 1 else nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU())
        inputs = channels if grid == 1 else width * grid**2
        self.box = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 4))
        for layer in (self.classifier, self.box[-1], self.objectness):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(
        self, images: Tensor, targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses when targets are given, one detection an image when not; `.training` only decides on dropout.

        Args:
            images: (N, 3, H, W) RGB, uint8 or float in [0, 1], of any size.
            targets: for each image ``boxes`` (M, 4) xyxy in its pixels, ``labels`` (M,) and ``iscrowd`` (M,). The
                largest box that is no crowd counts. Without objects objectness alone is learnt, with crowds alone
                nothing.

        Returns:
            Scalar losses whose sum is the loss; or for each image ``boxes`` (1, 4) clipped to it, ``scores`` (1,) and
            ``labels`` (1,).
        """
        logits, outputs, presence = self.outputs(images)
        height, width = images.shape[-2:]
        if targets is not None:
            return self._losses(logits, outputs, presence, largest_objects(targets), (width, height))
        scores, labels = logits.softmax(1).max(1)
        if presence is not None:
            scores = scores * presence.sigmoid()
        boxes = clip_boxes(decode(outputs, (width, height), square_root=self.square_root), (height, width))
        found = zip(boxes[:, None], scores[:, None], labels[:, None], strict=True)
        return [{"boxes": box, "scores": score, "labels": label} for box, score, label in found]

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Class logits (N, K), box numbers (N, 4) in 0..1 and objectness logits (N,) or None, all float32."""
        deepest: Tensor = self.backbone(self.normalise(images))[-1]
        dtype = self.classifier.weight.dtype
        pooled = F.dropout(deepest.mean((2, 3)), self.dropout, self.training).to(dtype)
        parts = F.adaptive_avg_pool2d(self.reduce(deepest), self.grid).flatten(1).to(dtype)
        with torch.autocast(images.device.type, enabled=False):
            presence = None if self.objectness is None else self.objectness(pooled).squeeze(1).float()
            # Bounded: a box that once is far larger than the image gets no gradient from a loss of overlap.
            return self.classifier(pooled).float(), self.box(parts).float().sigmoid(), presence

    def class_layers(self) -> dict[str, ClassRows]:
        """See `detseg.backbones.normalise.ImageModel`."""
        return {"classifier": ClassRows()}

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, 1, 4) xyxy in pixels and scores (N, 1, K)."""
        logits, outputs, presence = self.outputs(images)
        scores = logits.softmax(1) if presence is None else logits.softmax(1) * presence.sigmoid()[:, None]
        height, width = images.shape[-2:]
        boxes = decode(outputs, (width, height), square_root=self.square_root)
        return clip_boxes(boxes, (height, width))[:, None], scores[:, None]

    def plain(self, images: Tensor) -> Tensor:
        """`forward` for `dense_to_conv`, which decides nothing by what its input is.

        Float images to (N, K + 4): class logits and the box's numbers before the sigmoid; K + 5 with objectness last.
        """
        deepest = self.backbone((images - self.mean) / self.std)[-1]
        pooled = deepest.mean((2, 3))
        parts = F.adaptive_avg_pool2d(self.reduce(deepest), self.grid).flatten(1)
        outputs = [self.classifier(pooled), self.box(parts)]
        return torch.cat(outputs if self.objectness is None else [*outputs, self.objectness(pooled)], 1)

    def _losses(
        self, logits: Tensor, outputs: Tensor, presence: Tensor | None, objects: Largest, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        counted = objects.there.float()
        count = divisor(counted.sum())
        entropy = F.cross_entropy(logits, objects.labels, reduction="none")
        box_loss = self._box_loss(outputs, objects.boxes, size)
        losses = {
            "loss_class": self.class_weight * (entropy * counted).sum() / count,
            "loss_box": self.box_weight * (box_loss * counted).sum() / count,
        }
        if presence is not None:
            known = objects.known.float()
            entropy = F.binary_cross_entropy_with_logits(presence, counted, reduction="none")
            losses["loss_objectness"] = (entropy * known).sum() / divisor(known.sum())
        return losses

    def _box_loss(self, outputs: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """(N,)."""
        if self.loss in ("giou", "ciou"):
            # In shares of the image: the same for every shape, and CIoU's small numbers stay small.
            wanted = boxes / boxes.new_tensor([*size, *size])
            return 1 - paired_iou(decode(outputs, (1, 1), square_root=self.square_root), wanted, kind=self.loss)
        wanted = encode(boxes, size, square_root=self.square_root)
        if self.loss == "mse":
            return F.mse_loss(outputs, wanted, reduction="none").mean(1)
        return F.smooth_l1_loss(outputs, wanted, reduction="none", beta=SMOOTH_L1_BETA).mean(1)


def encode(boxes: Tensor, size: tuple[float, float], *, square_root: bool = True) -> Tensor:
    """Boxes (N, 4) xyxy in pixels of an image of (width, height) = `size` as the four numbers that are learnt.

    (N, 4): centre x and y, width and height (or their square roots), in shares of the image, 0..1 inside of it.
    """
    shares = convert_boxes(boxes, "xyxy", "cxcywh") / boxes.new_tensor([*size, *size])
    return torch.cat([shares[:, :2], shares[:, 2:].clamp(min=0).sqrt()], 1) if square_root else shares


def decode(numbers: Tensor, size: tuple[float, float], *, square_root: bool = True) -> Tensor:
    """Inverse of `encode`: (N, 4) numbers to (N, 4) xyxy boxes in pixels of an image of (width, height) = `size`."""
    shape = numbers[:, 2:].square() if square_root else numbers[:, 2:]
    shares = torch.cat([numbers[:, :2], shape], 1)
    return convert_boxes(shares * shares.new_tensor([*size, *size]), "cxcywh", "xyxy")


def largest_objects(targets: Sequence[Mapping[str, Tensor]]) -> Largest:
    """The largest object that is no crowd of each image; zeros, and not `there`, where there is none."""
    boxes, labels, crowd = (
        F.pad(pad_sequence([t[name] for t in targets], batch_first=True), fill)
        for name, fill in (("boxes", (0, 0, 0, 1)), ("labels", (0, 1)), ("iscrowd", (0, 1)))
    )
    boxes = boxes.float()
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    value, index = torch.where(crowd, 0, sides.prod(-1)).max(1)
    rows = torch.arange(len(targets), device=boxes.device)
    there = value > 0
    return Largest(there, boxes[rows, index], labels[rows, index], there | ~crowd.any(1))
