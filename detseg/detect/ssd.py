"""SSD, the single-shot detector, on any backbone (Liu et al. 2016, arXiv:1512.02325).

    images -> backbone (strides 8, 16, 32) -> coarser maps -> one predictor a map -> decode -> NMS

Every map has default boxes of its own sizes (`detseg.detect.default_boxes`); each predicts an offset and a class, the
first of which is background. With `lite` the layers are depthwise separable, as in SSDLite (Sandler et al. 2018,
arXiv:1801.04381, section 6.2).
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones import Backbone
from detseg.detect.anchors import fit_anchors, fit_of
from detseg.detect.coder import HEAD, decode_deltas, encode_deltas
from detseg.detect.default_boxes import Shapes, default_shapes, even_scales, lay_out
from detseg.detect.hard_negatives import hard_negatives
from detseg.detect.match import match
from detseg.detect.model import ClassRows, DetectionModel, FlatTargets, Targets, flatten_targets, select
from detseg.detect.published import Published
from detseg.detect.ssd_published import COCO
from detseg.options import given, require_rising_strides
from detseg.registry import register_model
from detseg.together import divisor

logger = logging.getLogger(__name__)

# Scales of the paper: that of maps of stride 8 or finer, then the first and last of the coarser ones.
FINEST, LOWEST, HIGHEST = 0.1, 0.2, 0.95
RATIOS = (2.0, 3.0)
# A prior learns the object that it overlaps by this much.
POSITIVE = 0.5
# Background priors of an image without objects that learn: its strongest false detections.
NEGATIVES = 10
# Fitted default boxes of each map, as many as the paper's, and how many maps follow the backbone's with these.
FITTED, MORE = 6, 1
# Their scale in strides of their map, close to the paper's: 30 pixels for its first cells of 8.
BOX_OF_STRIDE = 3.5
# Probability of all classes together that the head starts with: background is nearly everything.
PRIOR = 0.01
# Channels of the maps that follow the backbone's.
COARSER = 256


class Unpadded(nn.Conv2d):
    """A convolution that takes the border off its map; one smaller than the kernel is padded to its size first."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', max(1, H - 2), max(1, W - 2)) for a kernel of 3."""
        down, across = (max(0, kernel - side) for kernel, side in zip(self.kernel_size, x.shape[-2:], strict=True))
        return super().forward(F.pad(x, (0, across, 0, down)) if down or across else x)


class CellNorm(nn.BatchNorm2d):
    """Batch norm for maps down to one cell: a single one has no variance, and takes the statistics so far."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        if self.training and x.numel() == self.num_features:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def coarser(in_channels: int, channels: int, *, lite: bool, padded: bool = True) -> nn.Sequential:
    """The layers from one map to the next: half the cells, or `padded` = False, two less a side."""
    middle = channels // 2
    if lite:
        between = _conv_norm(middle, middle, kernel=3, stride=2, groups=middle)
        return nn.Sequential(_conv_norm(in_channels, middle), between, _conv_norm(middle, channels))
    last = nn.Conv2d(middle, channels, 3, 2, padding=1) if padded else Unpadded(middle, channels, 3)
    return nn.Sequential(nn.Conv2d(in_channels, middle, 1), nn.ReLU(inplace=True), last, nn.ReLU(inplace=True))


def predictor(in_channels: int, outputs: int, *, lite: bool) -> nn.Sequential:
    """What reads `outputs` numbers a cell off 3 x 3 cells of a map."""
    if not lite:
        return nn.Sequential(nn.Conv2d(in_channels, outputs, 3, padding=1))
    around = _conv_norm(in_channels, in_channels, kernel=3, groups=in_channels)
    return nn.Sequential(around, nn.Conv2d(in_channels, outputs, 1))


def _conv_norm(in_channels: int, channels: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, CellNorm(channels, eps=0.001, momentum=0.03), nn.ReLU6(inplace=True))


@register_model("ssd", task="detect")
class SsdDetector(DetectionModel):
    """Single-shot detector: backbone, coarser maps and a predictor of offsets and of classes for each map.

    Args:
        backbone: what `detseg.backbones.create_backbone` returns.
        shapes: of each map, the backbone's and those that follow, (A, 2) widths and heights of the default boxes in
            pixels of the input: see `detseg.detect.default_boxes.default_shapes`.
        coarser: channels of the maps that follow the backbone's.
        unpadded: how many of these, the last ones, come of convolutions without padding and not of stride 2.
        steps: pixels between default boxes on the first maps; those of the others divide the image evenly.
        lite: depthwise separable layers with batch norms in place of 3 x 3 convolutions.
        score_threshold, iou_threshold, max_detections: see `detseg.detect.model.Limits`.

    Example:
        >>> shapes = default_shapes(even_scales(3, 0.2, 0.95), [(2, 3)] * 3, 320)
        >>> backbone = create_backbone("resnet18", strides=(16, 32))
        >>> model = SsdDetector(backbone, num_classes=5, shapes=shapes, coarser=[256])
        >>> losses, detections = model(images, targets), model(images)
    """

    coco: ClassVar[dict[str, Published]] = COCO
    shapes: Tensor

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options of the single-shot detector."""

        strides: tuple[int, ...] = (8, 16, 32)
        """Strides of the backbone's maps in pixels, finest first; coarser ones follow."""
        boxes: Literal["fitted", "paper"] = "fitted"
        """Default boxes: fitted to the training boxes by k-means, or with the scales and aspect ratios of the paper."""
        lite: bool | None = None
        """Depthwise separable head (SSDLite); by default where training runs on a CPU."""

        def check_model(self) -> None:
            """Raise ValueError where options make no sense."""
            require_rising_strides(self.strides)

    @classmethod
    def options_for(cls, data: Any, config: Any) -> dict[str, Any]:
        """Default boxes for the data and the input's size; for published weights, the network they belong to.

        Raises:
            ValueError: --weights coco with options that would make another network.
        """
        if config.weights == "coco" and not config.only_backbone and config.backbone in cls.coco:
            if given(config, ("boxes",)):
                raise ValueError("--weights coco brings its own default boxes; leave out --boxes")
            return dict(cls.coco[config.backbone].options)
        from accelerate import PartialState  # here: it takes a second, which nobody needs for a model alone

        shapes = _fitted_shapes(data, config) if config.boxes == "fitted" else _paper_shapes(config)
        return {
            "strides": list(config.strides),
            "shapes": [[[round(float(side), 2) for side in pair] for pair in of_map] for of_map in shapes],
            "coarser": [COARSER] * (len(shapes) - len(config.strides)),
            "lite": PartialState().device.type == "cpu" if config.lite is None else config.lite,
        }

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        shapes: Sequence[Sequence[Sequence[float]]],
        *,
        coarser: Sequence[int] = (),
        unpadded: int = 0,
        steps: Sequence[float] = (),
        lite: bool = True,
        score_threshold: float = 0.001,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__(backbone)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        channels = [*backbone.channels, *coarser]
        tensors = [torch.as_tensor(of_map, dtype=torch.float32) for of_map in shapes]
        if len(tensors) != len(channels) or any(t.ndim != 2 or t.shape[-1] != 2 or not len(t) for t in tensors):
            raise ValueError(
                f"shapes must be (A, 2) widths and heights for each of {len(channels)} maps, "
                f"{len(backbone.channels)} of the backbone and {len(coarser)} coarser ones; got "
                f"{[tuple(t.shape) for t in tensors]}"
            )
        if not all((t > 0).all() for t in tensors):
            raise ValueError("shapes must be positive widths and heights in pixels")
        self.backbone = backbone
        self.counts = [len(t) for t in tensors]
        self.coarser = _coarser_maps(channels, len(backbone.channels), unpadded, lite)
        outputs = list(zip(channels, self.counts, strict=True))
        self.boxes = nn.ModuleList(predictor(c, 4 * count, lite=lite) for c, count in outputs)
        self.classes = nn.ModuleList(predictor(c, (num_classes + 1) * count, lite=lite) for c, count in outputs)
        self.num_classes = num_classes
        self.steps = tuple(steps)
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.max_detections = max_detections
        self.register_buffer("shapes", torch.cat(tensors), persistent=False)
        for module in (self.coarser, self.boxes, self.classes):
            _initialise(module, lite)
        _expect_background(self.classes, num_classes)

    def forward(self, images: Tensor, targets: Targets | None = None) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses when targets are given, detections when not; `.training` plays no part in the choice.

        Args:
            images: (N, 3, H, W) RGB, uint8 or float in [0, 1].
            targets: for each image ``boxes`` (M, 4) float32 xyxy in its pixels, ``labels`` (M,) int64 and maybe
                ``iscrowd`` (M,) bool: regions that are neither object nor background.

        Returns:
            Scalar losses ``loss_box`` and ``loss_class``, whose sum is the loss; or for each image ``boxes`` (D, 4)
            xyxy clipped to it, ``scores`` (D,) and ``labels`` (D,), best first.
        """
        priors, deltas, logits = self.predictions(images)
        if targets is not None:
            with torch.autocast(images.device.type, enabled=False):
                return ssd_losses(priors, deltas, logits, flatten_targets(targets, len(images)))
        boxes, scores = decode_deltas(deltas, priors, HEAD), _probabilities(logits)
        return [select(b, s, images.shape[-2:], self).found for b, s in zip(boxes, scores, strict=True)]

    def class_layers(self) -> dict[str, ClassRows]:
        """See `DetectionModel`."""
        return {
            f"classes.{level}.{len(list(layers.children())) - 1}": ClassRows(groups=count, background=True)
            for level, (layers, count) in enumerate(zip(self.classes, self.counts, strict=True))
        }

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, P, 4) xyxy in pixels and scores (N, P, K) of all predictions."""
        priors, deltas, logits = self.predictions(images)
        return decode_deltas(deltas, priors, HEAD), _probabilities(logits)

    def predictions(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Default boxes (P, 4) xyxy, offsets from them (N, P, 4), class logits (N, P, 1 + K), all float32."""
        maps = self.backbone(self.normalise(images))
        for layers in self.coarser:
            maps.append(layers(maps[-1]))
        sizes = [(x.shape[-2], x.shape[-1]) for x in maps]
        priors = lay_out(self.shapes.split(self.counts), sizes, images.shape[-2:], self.steps)
        deltas = [_rows(layers(x), 4) for layers, x in zip(self.boxes, maps, strict=True)]
        logits = [_rows(layers(x), self.num_classes + 1) for layers, x in zip(self.classes, maps, strict=True)]
        return priors, torch.cat(deltas, 1).float(), torch.cat(logits, 1).float()


def ssd_losses(priors: Tensor, deltas: Tensor, logits: Tensor, objects: FlatTargets) -> dict[str, Tensor]:
    """Offset and class loss of a batch.

    Args:
        priors: (P, 4) xyxy default boxes.
        deltas, logits: (N, P, 4) and (N, P, 1 + K) float32 predictions.
        objects: of the batch.

    Returns:
        ``loss_box`` (smooth L1) of the priors that learn an object and ``loss_class`` (cross-entropy) of these and of
        the hardest background, each summed and divided by the number of the former (at least 1).
    """
    matches = match(priors, objects, len(deltas), high=POSITIVE, low=POSITIVE, claim=True)
    positive = matches.positive
    # One object more, for batches without any: what is not positive is computed and cancelled, so that shapes are known
    # without asking the device.
    boxes = torch.cat([objects.boxes, priors.new_tensor([[0.0, 0.0, 1.0, 1.0]])])
    labels = torch.cat([objects.labels, objects.labels.new_zeros(1)])
    wanted = encode_deltas(boxes[matches.object], priors, HEAD)
    wanted = torch.where(positive[..., None], wanted, deltas.detach())
    total = divisor(positive.sum())

    target = torch.where(positive, labels[matches.object] + 1, 0)
    entropy = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
    taught = positive | hard_negatives(entropy, positive, matches.negative, least=NEGATIVES)
    return {
        "loss_box": F.smooth_l1_loss(deltas, wanted, reduction="sum") / total,
        "loss_class": (entropy * taught).sum() / total,
    }


def _fitted_shapes(data: Any, config: Any) -> Shapes:
    """Default boxes by k-means, of each map from the training boxes of its scale; without any, as the paper's."""
    from detseg.data.dataset import learnable_sizes  # here: it brings OpenCV, which nobody needs for boxes alone

    sizes = learnable_sizes(data, config.size)
    strides = [*config.strides, *(config.strides[-1] * 2 ** (step + 1) for step in range(MORE))]
    middles = BOX_OF_STRIDE * np.array(strides)
    level = np.searchsorted(np.sqrt(middles[:-1] * middles[1:]), np.sqrt(sizes.prod(1)))
    shapes: Shapes = []
    for position, middle in enumerate(middles / config.size):
        own = sizes[level == position]
        if len(own):
            shapes.append(fit_anchors(own, 1, FITTED, seed=config.seed)[0].tolist())
        else:
            shapes += default_shapes([middle, 2 * middle], [RATIOS], config.size)
    fit = fit_of(sizes, np.concatenate(shapes))
    logger.info("default boxes: mean best IoU %.3f, %.1f%% of objects above 0.5", fit.mean_iou, 100 * fit.best_recall)
    return shapes


def _paper_shapes(config: Any) -> Shapes:
    """Default boxes of the paper, for maps down to a single cell."""
    more = max(0, math.ceil(math.log2(config.size / config.strides[-1])))
    fine = [FINEST for stride in config.strides if stride <= 8]
    scales = fine + even_scales(len(config.strides) + more - len(fine), LOWEST, HIGHEST)
    return default_shapes(scales, [RATIOS] * (len(scales) - 1), config.size)


def _coarser_maps(channels: Sequence[int], first: int, unpadded: int, lite: bool) -> nn.ModuleList:
    """The layers that give the maps from position `first` on."""
    return nn.ModuleList(
        coarser(channels[level - 1], channels[level], lite=lite, padded=level < len(channels) - unpadded)
        for level in range(first, len(channels))
    )


def _rows(x: Tensor, columns: int) -> Tensor:
    """(N, A·C, H, W) to (N, H·W·A, C = `columns`)."""
    return x.permute(0, 2, 3, 1).unflatten(3, (-1, columns)).flatten(1, 3)


def _probabilities(logits: Tensor) -> Tensor:
    """(N, P, 1 + K) logits to (N, P, K) scores of the classes, without background."""
    return logits.softmax(-1)[..., 1:]


def _initialise(net: nn.Module, lite: bool) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            if lite:
                nn.init.normal_(module.weight, std=0.03)
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def _expect_background(classes: nn.ModuleList, num_classes: int) -> None:
    """Let the class layers start at PRIOR for all classes together."""
    for layers in classes:
        *_, last = layers.children()
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        last.bias.view(-1, num_classes + 1)[:, 0] = math.log(num_classes * (1 - PRIOR) / PRIOR)
