"""What all detectors share: flat targets, the selection of detections, examples, the form that exporters take."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from detseg.backbones.class_rows import ClassRows as ClassRows
from detseg.backbones.meta import hooked
from detseg.backbones.normalise import ImageModel
from detseg.boxes import clip_boxes
from detseg.data.limits import LEAST
from detseg.detect.calibration import Calibration
from detseg.detect.nms import batched_nms
from detseg.detect.nms.voting import vote
from detseg.detect.published import Published

Targets = Sequence[Mapping[str, Tensor]]
# Widths and heights (levels, anchors a level, 2), in pixels.
AnchorSizes = Tensor | Sequence[Sequence[Sequence[float]]]
# From maps (N, C, H, W) and their strides, finest first, to what takes their place.
ChangeMaps = Callable[[Sequence[Tensor], Sequence[int]], list[Tensor]]

# Only so many of an image's best pairs of box and class are looked at by non-max suppression, or so many for each
# detection there may be: several are of the same object.
CANDIDATES, PER_DETECTION = 1000, 10


class FlatTargets(NamedTuple):
    """The M objects of a batch one after another."""

    boxes: Tensor  # (M, 4) float32 xyxy
    labels: Tensor  # (M,) int64
    iscrowd: Tensor  # (M,) bool
    image: Tensor  # (M,) position of the object's image in the batch


def flatten_targets(targets: Targets, images: int) -> FlatTargets:
    """The targets of `images` images in flat tensors, without `iscrowd` no crowds; ValueError unless one an image."""
    if len(targets) != images:
        raise ValueError(f"{images} images but {len(targets)} targets")
    labels = [t["labels"].reshape(-1) for t in targets]
    crowd = [t["iscrowd"] if "iscrowd" in t else torch.zeros_like(t["labels"], dtype=torch.bool) for t in targets]
    return FlatTargets(
        torch.cat([t["boxes"].float().reshape(-1, 4) for t in targets]),
        torch.cat(labels),
        torch.cat(crowd),
        torch.cat([torch.full_like(numbers, i) for i, numbers in enumerate(labels)]),
    )


class ImageLabels(NamedTuple):
    """The L classes of a batch's images without boxes: somewhere in the image there is an object of the class."""

    labels: Tensor  # (L,) int64
    image: Tensor  # (L,) position of the image in the batch


def flatten_image_labels(targets: Targets) -> ImageLabels | None:
    """The `image_labels` (L,) of the targets that have them; None where no image has."""
    labels = {i: t["image_labels"] for i, t in enumerate(targets) if "image_labels" in t}
    if not labels:
        return None
    return ImageLabels(
        torch.cat(list(labels.values())), torch.cat([torch.full_like(numbers, i) for i, numbers in labels.items()])
    )


class Selected(NamedTuple):
    """The detections of one image, and what they were selected from."""

    found: dict[str, Tensor]  # boxes (D, 4), scores (D,), labels (D,), best first
    kept: Tensor  # (D,) positions of the detections among the candidates
    candidates: tuple[Tensor, Tensor, Tensor]  # boxes, scores and labels
    rows: Tensor  # (D,) which of the P predictions each detection is


class Limits(Protocol):
    """What a detector declares for its selection."""

    score_threshold: float
    iou_threshold: float  # of non-max suppression within a class
    max_detections: int
    agnostic: bool  # whether non-max suppression heeds no classes
    vote_iou: float | None  # least IoU of candidates that vote on a detection's box; None: it stays as it was predicted


def select(
    boxes: Tensor, scores: Tensor, size: Sequence[int], limits: Limits, *, rivals: Tensor | None = None
) -> Selected:
    """Detections of one image of `size` (height, width) from boxes (P, 4) xyxy and scores (P, K).

    Its best candidates, but for those below the score threshold, clipped to it, after non-max suppression and perhaps
    box voting. Labels with equal `rivals` (K,) int64 suppress each other; without, each label itself alone; where
    `limits.agnostic` is set, all of them.
    """
    most = max(CANDIDATES, PER_DETECTION * limits.max_detections)
    best, index = scores.flatten().topk(min(most, scores.numel()))
    keep = best >= limits.score_threshold
    best, index = best[keep], index[keep]
    rows = index // scores.shape[1]
    sides = int(size[0]), int(size[1])
    chosen = clip_boxes(boxes[rows], sides)
    labels = index % scores.shape[1]
    kinds = labels if rivals is None else rivals[labels]
    kinds = torch.zeros_like(labels) if limits.agnostic else kinds
    kept = batched_nms(chosen, best, kinds, limits.iou_threshold, max_detections=limits.max_detections)
    found = {"boxes": chosen[kept], "scores": best[kept], "labels": labels[kept]}
    if limits.vote_iou is not None:
        voted, _ = vote(kept, chosen, best.square(), labels, limits.vote_iou)
        found["boxes"] = clip_boxes(voted, sides)  # a mean may be a rounding error outside
    return Selected(found, kept, (chosen, best, labels), rows[kept])


class DetectionModel(ImageModel):
    """Base of detectors; a subclass has `raw` or its own `exportable`.

    Detections of an image are a dict of ``boxes`` (D, 4) xyxy clipped to it, ``scores`` (D,) and ``labels`` (D,), best
    first, and of a model that finds masks ``masks`` (D, h, w) in [0, 1], above 0.5 inside, and ``regions`` (D, 4) xyxy,
    what each mask lies over: see `detseg.detect.masks`. Targets of a model that learns masks have ``masks`` (M, H, W)
    uint8; one without any pixel is not known.

    Attributes:
        calibration: of the scores, applied in predictions; None of a model that was not calibrated.
        max_detections: the most detections of an image, all classes together; may be set at any time.
        score_threshold, iou_threshold, agnostic, vote_iou: see `Limits`; may be set at any time. A subclass sets the
            first two.
        coco: by the name of its backbone, each detector with COCO weights that this class can be made the same as.
    """

    score_threshold: float
    iou_threshold: float
    calibration: Calibration | None = None
    max_detections: int = LEAST
    agnostic: bool = False
    vote_iou: float | None = None
    coco: ClassVar[dict[str, Published]] = {}

    @classmethod
    def needs_masks(cls, config: Any) -> bool:
        """Whether a model with these options learns instance masks: its targets have `masks` then."""
        return bool(getattr(config, "masks", False))

    @property
    def finds_masks(self) -> bool:
        """Whether detections have `masks`."""
        return False

    @staticmethod
    def example_targets(count: int, size: int, device: torch.device | str) -> Targets:
        """One object in each of `count` images of `size` x `size` pixels."""
        box = torch.tensor([[0.2, 0.2, 0.7, 0.7]], device=device) * size
        label, crowd = (torch.zeros(1, dtype=kind, device=device) for kind in (torch.int64, torch.bool))
        mask = torch.zeros(1, size, size, dtype=torch.uint8, device=device)
        mask[:, size // 4 : size // 2, size // 4 : size // 2] = 1
        return [{"boxes": box, "labels": label, "iscrowd": crowd, "masks": mask}] * count

    def raw(self, images: Tensor) -> tuple[Tensor, ...]:
        """Boxes (N, P, 4) xyxy in pixels and scores (N, P, K), before any selection, and what masks are made of."""
        raise AttributeError(f"{type(self).__name__} has no raw outputs to export")

    def masks_at(
        self, parts: Sequence[Tensor], image: Tensor, rows: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Masks (D, h, w) and regions (D, 4) of the predictions `rows` (D,) of images (D,).

        `parts` are what `exportable` gives behind boxes and scores: what masks are made of. None of a model without.
        """
        return None

    @contextmanager
    def with_maps(self, change: ChangeMaps) -> Iterator[None]:
        """Inside, `change(maps, strides)` takes the place of the maps that all is detected in: the backbone's."""
        backbone: Any = self.backbone

        def replaced(_module: nn.Module, _inputs: Any, maps: list[Tensor]) -> list[Tensor]:
            return change(maps, backbone.strides)

        with hooked([backbone], replaced):
            yield

    def exportable(self) -> nn.Module:
        """Images (N, C, H, W) to what `raw` gives, such as boxes (N, P, 4) and scores (N, P, K), before selection."""
        return _Raw(self)


class _Raw(nn.Module):
    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.model.raw(images)
