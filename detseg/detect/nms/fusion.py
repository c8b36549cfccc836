"""Weighted boxes fusion: several detectors' boxes, or one's under several views, averaged (Solovyev et al. 2021).

Fusion moves the best of overlapping boxes to their mean, weighted by their scores, and lowers the score of what few of
the models found (arXiv:1910.13302).
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from detseg.detect.nms.checks import Array, check_thresholds, checked_arrays, like, whole_labels
from detseg.kernels import box_iou, compiled


class Fused(NamedTuple):
    """Clusters of boxes of one image, best first, torch or numpy as the boxes given."""

    boxes: Any  # (D, 4) xyxy, float32, or float64 where those of a model are
    scores: Any  # (D,) likewise
    labels: Any  # (D,)
    best: np.ndarray  # (D,) where each one's best box is among all models' boxes, one after another


def weighted_boxes_fusion(
    boxes: Sequence[Array],
    scores: Sequence[Array],
    labels: Sequence[Array],
    *,
    weights: Sequence[float] | None = None,
    iou_threshold: float = 0.55,
    score_threshold: float = 0.0,
    score: Literal["mean", "max"] = "mean",
) -> tuple[Array, Array, Array]:
    """Boxes (D, 4), scores (D,) and labels (D,) of all models' detections of one image, best first.

    Boxes go by falling score, each into the cluster of its label whose mean box it overlaps most, if by more than the
    threshold, or into a new one. Torch in (any device), torch out; numpy or lists in, numpy out; float32, or float64
    where those of a model are.

    Args:
        boxes: of each model (or view) (N, 4) xyxy, all in the pixels of one image.
        scores, labels: of each model (N,), none negative, and (N,) whole numbers.
        weights: how much each model counts; 1 by default.
        score_threshold: boxes with lower scores are left out first.
        score: of a cluster: the weighted "mean" of its boxes' scores, times the sum of their weights over that of the
            models, at most 1; or the "max". Neither is above the highest score given.

    Raises ValueError as `nms`, and for lists of different lengths; the message begins with the model.
    """
    fused = fuse(boxes, scores, labels, weights, iou_threshold, score_threshold, score)
    return fused.boxes, fused.scores, fused.labels


def fuse(
    boxes: Sequence[Array],
    scores: Sequence[Array],
    labels: Sequence[Array],
    weights: Sequence[float] | None,
    iou_threshold: float,
    score_threshold: float = 0.0,
    score: str = "mean",
    known: np.ndarray | None = None,
) -> Fused:
    """As `weighted_boxes_fusion`, for those who need to know the best box of each cluster: its mask, say.

    `known` (models, K) bool says which labels each model can find; those that cannot do not lower its score.
    """
    models = len(boxes)
    if models == 0 or not len(scores) == len(labels) == models:
        counts = f"{models}, {len(scores)} and {len(labels)}"
        raise ValueError(f"give boxes, scores and labels of the same models, at least of one; got {counts}")
    shares = np.ones(models) if weights is None else np.asarray(weights, np.float64)
    if shares.shape != (models,) or not ((shares > 0) & np.isfinite(shares)).all():
        raise ValueError(f"weights must be {models} positive numbers, one for each model, got {weights}")
    if score not in ("mean", "max"):
        raise ValueError(f"score must be 'mean' or 'max', got {score!r}")
    check_thresholds(iou_threshold, score_threshold)
    parts = [_checked(model, *given) for model, given in enumerate(zip(boxes, scores, labels, strict=True))]
    places = [f"torch on {given.device}" if isinstance(given, Tensor) else "numpy" for given in boxes]
    if len(set(places)) > 1:
        raise ValueError(f"all models must give numpy arrays, or tensors on one device, got {', '.join(places)}")
    all_boxes, all_scores, all_labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    owners = np.repeat(np.arange(models), [len(part[1]) for part in parts])
    shares = shares.astype(all_scores.dtype)
    own = shares[owners]
    order = np.argsort(-(all_scores * own), kind="stable")
    order = order[all_scores[order] >= score_threshold]
    order = order[np.argsort(all_labels[order], kind="stable")]
    threshold = all_boxes.dtype.type(iou_threshold)
    fused, total, found, kinds, first = _fuse(all_boxes, all_scores, own, all_labels, order, threshold)
    able = shares.sum(dtype=np.float64) if known is None else shares.astype(np.float64) @ known[:, kinds]
    if score == "mean":
        new = total / found * (np.minimum(found, able) / able)  # neither is above 1, nor is their product
    else:
        new = all_scores[first] * own[first] / shares.max()
    falling = np.argsort(-new, kind="stable")
    in_kind = like(boxes[0], fused[falling], new[falling].astype(all_scores.dtype), kinds[falling])
    return Fused(in_kind[0], in_kind[1], in_kind[2], first[falling])


def _checked(model: int, boxes: Array, scores: Array, labels: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One model's boxes and scores in their precision, and labels in int64."""
    try:
        arrays = checked_arrays({"boxes": boxes, "scores": scores, "labels": labels})
        if arrays["labels"].dtype.kind == "f" and len(labels):
            raise ValueError(f"labels must be whole numbers, got {arrays['labels'].dtype}")
    except ValueError as error:
        raise ValueError(f"model {model}: {error}") from error
    if len(arrays["scores"]) == 0:  # empty arrays are float64 unless one says otherwise
        return np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
    return arrays["boxes"], arrays["scores"], whole_labels(arrays["labels"])


@compiled
def _fuse(boxes, scores, weights, labels, order, threshold):
    """Clusters of boxes: their mean boxes (C, 4), weighted scores, weights, labels and best boxes' numbers, each (C,).

    Args:
        scores, weights: (N,) their products are the weights of the boxes in their cluster's mean.
        order: (D,) the boxes to fuse, those of a label together and best first.
    """
    means = np.empty((len(order), 4), boxes.dtype)
    sums = np.zeros((len(order), 4))
    total, found = np.zeros(len(order)), np.zeros(len(order))
    kinds, first = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    clusters = begin = 0  # the clusters of a label begin at `begin`
    for i in order:
        if clusters and kinds[clusters - 1] != labels[i]:
            begin = clusters
        chosen, highest = -1, threshold
        for c in range(begin, clusters):
            iou = box_iou(boxes, i, means, c)
            if iou > highest:
                chosen, highest = c, iou
        if chosen < 0:
            chosen = clusters
            clusters += 1
            kinds[chosen], first[chosen] = labels[i], i
        weight = float(scores[i]) * float(weights[i])
        total[chosen] += weight
        found[chosen] += weights[i]
        for side in range(4):
            # From the first on, so that a box alone stays as it is.
            one = float(boxes[first[chosen], side])
            sums[chosen, side] += weight * (boxes[i, side] - one)
            # Boxes whose scores are all 0 have no weighted mean; the first of them stands for it.
            means[chosen, side] = one + sums[chosen, side] / total[chosen] if total[chosen] > 0 else one
    return means[:clusters].copy(), total[:clusters], found[:clusters], kinds[:clusters].copy(), first[:clusters].copy()
