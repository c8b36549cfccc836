"""A localizer that slides over images: a detector from a classifier with a box, and why it need not slide.

A window moved over an image and over shrunk copies of it meets every object once at about the size the localizer was
trained on, in about the middle (Rowley et al. 1998). Cut out, overlapping windows would be computed dozens of times;
turned into convolutions, the network says for all at once what it says of one (Sermanet et al. 2014, arXiv:1312.6229).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones import dense_to_conv
from detseg.backbones.normalise import unit_images
from detseg.boxes import clip_boxes
from detseg.detect.model import select
from detseg.detect.nms.voting import vote
from detseg.localize.localizer import Localizer, decode

# The grey that images are surrounded with everywhere in training and prediction (114 of 255).
SURROUNDINGS = 114 / 255
# The largest share of a window that an object of its own takes, as `detseg windows` cuts them.
LARGEST = 0.75
# Windows whose boxes have at least this IoU mean the same object.
AGREE = 0.5


class SlidingWindowDetector(nn.Module):
    """A detector made of a localizer with objectness, by looking at all places and sizes.

    At each level of the pyramid the windows lie `stride` pixels apart, that of the localizer's deepest map. The middle
    of window (y, x) is at (stride · (y + 1/2), stride · (x + 1/2)); those near the border reach over it, and see grey.

    Args:
        localizer: with objectness, trained on windows such as `detseg windows` cuts; its weights are copied.
        window: side of the squares it was trained on, pixels; a multiple of the stride, twice it at least.
        ratio: between the levels of the pyramid, that the windows were cut for.
        score_threshold, iou_threshold, max_detections: see `Limits`; the boxes that agree with one are merged into it.
    """

    agnostic: bool = False
    vote_iou: float | None = None  # `accumulate` merges instead

    def __init__(
        self,
        localizer: Localizer,
        window: int,
        *,
        ratio: float = math.sqrt(2),
        score_threshold: float = 0.001,
        iou_threshold: float = 0.4,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        if localizer.objectness is None:
            raise ValueError(
                "a localizer without objectness finds an object in every window; train one with objectness, on windows "
                "with and without objects"
            )
        stride = localizer.backbone.strides[-1]
        if window % stride or window < 2 * stride:
            raise ValueError(f"window must be a multiple of the stride {stride}, and twice it at least, not {window}")
        if not 1 < ratio <= 4:
            raise ValueError(f"ratio must be above 1 and at most 4, not {ratio}")
        self.network = dense_to_conv(localizer, (window, window))  # `network.report` says what was converted
        self.num_classes = localizer.num_classes
        self.square_root = localizer.square_root
        self.window, self.stride, self.ratio = window, stride, ratio
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.max_detections = max_detections

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Detections of images (N, 3, H, W) RGB, uint8 or float in [0, 1], of any size.

        For each image ``boxes`` (D, 4) xyxy clipped to it, ``scores`` (D,) and ``labels`` (D,), best first. Objects
        from 0.75 / ratio of a window, in the images as they are, to the whole image are found.
        """
        boxes, scores = self.predictions(images)
        return [self._select(b, s, images.shape[-2:]) for b, s in zip(boxes, scores, strict=True)]

    def predictions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What P windows say of images, level by level, row by row, before any selection: float32.

        Boxes (N, P, 4) xyxy in pixels, and scores (N, P, K): how likely the object is there and of that class.
        """
        images = unit_images(images, next(self.network.parameters()).dtype)
        levels = [self._level(images, size) for size in self.level_sizes(*images.shape[-2:])]
        boxes, scores = (torch.cat(parts, 1) for parts in zip(*levels, strict=True))
        return boxes, scores

    def level_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of the levels, the image first; in the last a window holds an object as large as that."""
        steps = math.ceil(math.log(max(height, width) / (LARGEST * self.window)) / math.log(self.ratio) - 1e-6)
        scales = (self.ratio**-level for level in range(max(0, steps) + 1))
        return [(max(1, round(height * s)), max(1, round(width * s))) for s in scales]

    def _level(self, images: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """All windows of one level, in pixels of the images."""
        height, width = images.shape[-2:]
        if size != (height, width):
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        outputs = self.network(self._surround(images)).float()
        rows, columns = outputs.shape[-2:]
        outputs = outputs.flatten(2).transpose(1, 2)  # (N, P, K + 5)
        classes, numbers, presence = outputs.split([self.num_classes, 4, 1], 2)
        square = (self.window, self.window)
        boxes = decode(numbers.sigmoid().flatten(0, 1), square, square_root=self.square_root)
        sides = (torch.arange(count, device=boxes.device) for count in (rows, columns))
        y, x = torch.meshgrid(*sides, indexing="ij")
        corners = torch.stack((x, y, x, y), -1).view(-1, 4) * self.stride - (self.window - self.stride) // 2
        boxes = boxes.view(len(images), rows * columns, 4) + corners
        scale = boxes.new_tensor([width / size[1], height / size[0]] * 2)
        return boxes * scale, classes.softmax(2) * presence.sigmoid()

    def _surround(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) with grey around, so that ceil(H / stride) x ceil(W / stride) windows fit in."""
        border, before = self.window - self.stride, (self.window - self.stride) // 2
        bottom, right = (-side % self.stride for side in images.shape[-2:])
        padding = (before, border - before + right, before, border - before + bottom)
        return F.pad(images, padding, value=SURROUNDINGS)

    def _select(self, boxes: Tensor, scores: Tensor, size: torch.Size) -> dict[str, Tensor]:
        """Detections of one image from boxes (P, 4) and scores (P, K)."""
        selected = select(boxes, scores, size, self)
        merged, evidence = accumulate(*selected.candidates, selected.kept)
        evidence, order = evidence.sort(descending=True, stable=True)
        merged = clip_boxes(merged[order], (int(size[0]), int(size[1])))  # a mean may be a rounding error outside
        return {"boxes": merged, "scores": evidence, "labels": selected.found["labels"][order]}


def accumulate(boxes: Tensor, scores: Tensor, labels: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """What all windows that mean the same object say of it (Sermanet et al. 2014, arXiv:1312.6229, section 4.3).

    Several windows see an object well enough to tell its box; one that takes a petal for a flower stands alone. So a
    box is the mean of those of its class that agree with it, weighted by their scores.

    Of boxes (M, 4) xyxy, scores (M,) and labels (M,) of the candidates, and positions `kept` (D,) of those that
    non-max suppression leaves, to boxes (D, 4), and scores (D,) in 0..1: 1 - exp(-S) of the sum S of scores.
    """
    merged, total = vote(kept, boxes, scores, labels, AGREE)
    return merged, -torch.expm1(-total)
