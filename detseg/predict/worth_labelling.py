"""Which images are worth labelling next: those on which a detector disagrees with itself, no two of them alike.

An image is looked at as it is, mirrored, and smaller. What a detector knows it finds in all three views, at the same
place and as the same class; where it does not, a label teaches most (consistency-based active learning: Yu et al. 2022,
Consistency-based active learning for object detection, CVPR workshops). Of the images with most disagreement those are
chosen that lie far from each other in the features of the backbone (k-centre: Sener & Savarese 2018, ICLR).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.boxes import box_iou
from detseg.data.letterbox import letterbox_image
from detseg.predict.detector import Detector, detect
from detseg.predict.predictor import in_full_size, model_input
from detseg.sources import in_batches

Found = Mapping[str, NDArray[Any]]  # boxes (D, 4), scores (D,), labels (D,)

SEEN = 0.1  # detections below this score are noise in every view
SMALLER = 0.75  # the size of the smaller view over that of training
CANDIDATES = 5  # of so many times as many images as asked for the most different are chosen


class Look(NamedTuple):
    """What is known of an image."""

    disagreement: float  # 0..1, see `disagreement`
    feature: NDArray[np.float32]  # (C,), of length 1
    found: Found  # in the image as it is


def look_at(detector: Detector, images: Iterable[NDArray[np.uint8]], *, batch_size: int = 8) -> Iterator[Look]:
    """Disagreement, features and detections of each image, uint8 RGB (H, W, 3), in order."""
    size = detector.size
    smaller = max(32, round(size * SMALLER / 32) * 32)
    for batch in in_batches(images, batch_size):
        mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in batch]
        plain, small, other = (
            [{name: value.numpy() for name, value in found.items()} for found in _detect(detector, views, side)]
            for views, side in ((batch, size), (batch, smaller), (mirrored, size))
        )
        features = _features(detector, batch)
        for image, *views, feature in zip(batch, plain, small, other, features, strict=True):
            views[2]["boxes"] = mirror(views[2]["boxes"], image.shape[1])
            yield Look(disagreement(views), feature, views[0])


def _detect(detector: Detector, images: Sequence[NDArray[np.uint8]], size: int) -> Iterator[dict[str, torch.Tensor]]:
    return detect(detector.model, in_full_size(images), size, batch_size=len(images))


@torch.inference_mode()
def _features(detector: Detector, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """(N, C) means of the backbone's deepest map, each of length 1."""
    model: Any = detector.model
    squares = np.stack([letterbox_image(image, detector.size)[0] for image in images])
    deepest = model.backbone(model.normalise(model_input(model, squares)))[-1]
    return np.asarray(torch.nn.functional.normalize(deepest.float().mean((2, 3))).cpu().numpy(), np.float32)


def mirror(boxes: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Boxes (D, 4) xyxy of an image of this width, seen from behind."""
    mirrored = boxes.copy()
    mirrored[:, 0], mirrored[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return mirrored


def disagreement(views: Sequence[Found]) -> float:
    """How much the detections of several views of an image, in the same pixels, disagree: 0 not at all, 1 wholly.

    Each detection of each view looks for its like in each other view: the agreement is the largest product of their
    IoU and their likeness in score, of those of the same class. Detections count by their scores; an image in which
    no view sees anything has no disagreement.
    """
    kept = [_seen(view) for view in views]
    lost = weight = 0.0
    for i, (boxes, scores, labels) in enumerate(kept):
        for j, (others, other_scores, other_labels) in enumerate(kept):
            if i == j or not len(scores):
                continue
            agreement = np.zeros(len(scores))
            if len(other_scores):
                likeness = 1 - np.abs(scores[:, None] - other_scores)
                alike = box_iou(boxes, others) * likeness * (labels[:, None] == other_labels)
                agreement = alike.max(1)
            lost += float((scores * (1 - agreement)).sum())
            weight += float(scores.sum())
    return min(1.0, max(0.0, lost / weight)) if weight else 0.0  # sums of float32


def _seen(found: Found) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Boxes, scores and labels of the detections that are seen at all."""
    keep = found["scores"] >= SEEN
    return found["boxes"][keep], found["scores"][keep], found["labels"][keep]


def choose(looks: Sequence[Look], count: int) -> list[int]:
    """Positions of the `count` images most worth labelling, the most first.

    Of the `CANDIDATES` * `count` images with most disagreement, first the most disagreed on, then again and again the
    one with the largest product of disagreement and distance to those chosen before.
    """
    scores = np.array([look.disagreement for look in looks])
    order = np.argsort(-scores, kind="stable")[: max(count * CANDIDATES, count)]
    features = np.stack([looks[i].feature for i in order]) if len(order) else np.zeros((0, 1))
    distance = np.full(len(order), np.inf)
    chosen: list[int] = []
    while len(chosen) < min(count, len(order)):
        worth = np.where(np.isinf(distance), 1.0, distance) * (scores[order] + 1e-6)
        worth[chosen] = -1
        best = int(worth.argmax())
        chosen.append(best)
        distance = np.minimum(distance, 1 - features @ features[best])
    return order[chosen].tolist()
