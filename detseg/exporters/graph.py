"""Models as exporters trace them: images in, final results out, by tensors of any batch and any multiple of 32 pixels.

What a detector's `forward` does image by image in Python is done here for the whole batch at once: the selection of
candidates, non-max suppression within classes, box voting, calibration, masks. The results are the same.
"""

from collections.abc import Callable
from typing import Any

import torch
import torchvision  # noqa: F401  (loads the compiled operator below)
from torch import Tensor, nn

from detseg.detect.calibration import calibrated
from detseg.detect.model import CANDIDATES, PER_DETECTION

# (N, C, 4) boxes, (N, K, C) scores, the most kept in a class, and the IoU to (S, 3): image, class and candidate.
Suppress = Callable[[Tensor, Tensor, int, float], Tensor]


class Final(nn.Module):
    """A detector's final detections: those of all images of the batch one after another, best first in each.

    Gives ``images`` (D,) int64, the image of each detection, ``boxes`` (D, 4) float32 xyxy in the input's pixels,
    ``scores`` (D,), ``labels`` (D,) int64, and of detectors that find them ``masks`` (D, h, w) in [0, 1] with
    ``regions`` (D, 4): see `detseg.detect.masks`.
    """

    def __init__(self, model: Any, suppress: Suppress) -> None:
        super().__init__()
        self.model, self.parts, self.suppress = model, model.exportable(), suppress
        self.most = most_of(model)
        self.least, self.iou_threshold = (
            float(getattr(model, n, usual)) for n, usual in (("score_threshold", 0.0), ("iou_threshold", 0.5))
        )
        tree = getattr(model, "tree", None)
        self.roots = None if tree is None else tree.roots

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class; images (N, C, H, W), uint8 or float in [0, 1]."""
        every, scores, *parts = self.parts(images)
        count, classes = max(CANDIDATES, PER_DETECTION * self.most), scores.shape[2]
        # Small inputs have fewer boxes than that: some without a score stand behind them.
        more = -(-count // int(classes))
        every, scores = _followed(every, more, 0.0), _followed(scores, more, -1.0)
        best, index = scores.flatten(1).topk(count, 1)
        rows = torch.div(index, classes, rounding_mode="floor")
        labels = index - rows * classes
        boxes = _clipped(every.gather(1, rows[..., None].expand(-1, -1, 4)), images)
        kinds = labels if self.roots is None else self.roots[labels]
        image, place = self._kept(boxes, best, kinds, int(classes))
        chosen, label, score = boxes[image, place], labels[image, place], best[image, place]
        if getattr(self.model, "vote_iou", None) is not None:
            voted = _vote(chosen, label, image, boxes, labels, best.square(), self.model.vote_iou)
            chosen = _clipped(voted[None], images)[0]
        found = image, chosen, calibrated(self.model, score), label
        masks = self.model.masks_at(parts, image, rows[image, place], chosen) if parts else None
        return found if masks is None else (*found, *masks)

    def _kept(self, boxes: Tensor, best: Tensor, kinds: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """The image (D,) of each detection and its place (D,) among that image's candidates (N, C), best first."""
        ours = kinds[:, None] == torch.arange(classes, device=kinds.device)[:, None]
        apart = torch.where(ours & (best >= self.least)[:, None], best[:, None], 0.0)
        kept = self.suppress(boxes, apart, self.most, self.iou_threshold)
        # Candidates come best first, so the lower of two equal scores' places is first, as everywhere in detseg.
        image, place = kept[:, 0], kept[:, 2]
        order = (image * best.shape[1] + place).argsort()
        image, place = image[order], place[order]
        numbers = torch.arange(boxes.shape[0], device=image.device)
        start = (image[None, :] < numbers[:, None]).sum(1)  # of each image in the list
        keep = torch.arange(image.shape[0], device=image.device) - start[image] < self.most
        return image[keep], place[keep]


class Probabilities(nn.Module):
    """A segmenter's (N, K, s·H, s·W) or a classifier's (N, K) probabilities of the classes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.parts = model.exportable()

    def forward(self, images: Tensor) -> Tensor:
        """See the class; images (N, C, H, W), uint8 or float in [0, 1]."""
        probabilities: Tensor = self.parts(images).softmax(1)
        return probabilities


def most_of(model: Any) -> int:
    """The most detections of an image; a localizer's is one."""
    return 1 if model.task == "localize" else int(getattr(model, "max_detections", 1))


def suppressed(boxes: Tensor, scores: Tensor, most: int, iou_threshold: float) -> Tensor:
    """(S, 3) int64, image, class and place of candidates (N, K, C) with a score that non-max suppression keeps.

    Classes of an image, and images, do not touch each other. `boxes` are (N, C, 4) xyxy from 0 on. At most `most` of
    each image's best are needed; more do no harm.
    """
    image, kind, place = torch.where(scores > 0)
    wide = boxes[image, place].double()  # moved apart in float64: in float32 IoU would differ
    group = image * scores.shape[1] + kind
    kept = torch.ops.torchvision.nms(
        wide + (group * (boxes.double().amax() + 1))[:, None],
        scores[image, kind, place].double(),
        iou_threshold,
    )
    return torch.stack([image[kept], kind[kept], place[kept]], 1)


def _followed(values: Tensor, rows: int, value: float) -> Tensor:
    """(N, P, X) followed by so many rows of a value."""
    return torch.nn.functional.pad(values, (0, 0, 0, rows), value=value)


def _clipped(boxes: Tensor, images: Tensor) -> Tensor:
    """Boxes (N, M, 4) clipped to images (N, C, H, W), whose size may differ from call to call."""
    limit = torch._shape_as_tensor(images)[[3, 2, 3, 2]].to(boxes.device, boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def _vote(
    chosen: Tensor, label: Tensor, image: Tensor, boxes: Tensor, labels: Tensor, weights: Tensor, threshold: float
) -> Tensor:
    """`detseg.detect.nms.voting.vote` of detections (D, 4) with the candidates (N, C, 4) of the image of each."""
    # Number by number, for engines are quick along the last dimension.
    x1, y1, x2, y2 = (side[:, None] for side in chosen.unbind(1))
    left, top, right, bottom = (boxes[..., i][image] for i in range(4))
    shared = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp(min=0)
    shared = shared * (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp(min=0)
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - shared
    agrees = (shared >= threshold * union) & (union > 0) & (labels[image] == label[:, None])
    votes = agrees * weights[image]
    total = votes.sum(1, keepdim=True)
    sums = torch.stack([(votes * side).sum(1) for side in (left, top, right, bottom)], 1)
    return torch.where(total > 0, sums / total.clamp(min=1e-30), chosen)
