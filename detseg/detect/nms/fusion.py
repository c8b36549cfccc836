"""Weighted boxes fusion: several detectors' boxes, or one's under several views, averaged (Solovyev et al. 2021).

Fusion moves the best of overlapping boxes to their mean, weighted by their scores, and lowers the score of what few of
the models found (arXiv:1910.13302).
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from detseg.detect.nms.checks import Array, check_threshold, checked_arrays, like, numbers, whole_labels
from detseg.kernels import box_iou, compiled


class Fused(NamedTuple):
    """Clusters of boxes of one image, best first, torch or numpy as the boxes given."""

    boxes: Any  # (D, 4) float32 xyxy
    scores: Any  # (D,) float32
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
    """Boxes (D, 4) float32, scores (D,) float32 and labels (D,) of all models' detections of one image, best first.

    Boxes go by falling score, each into the cluster of its label whose mean box it overlaps most, if by more than the
    threshold, or into a new one. Torch in (any device), torch out; numpy in, numpy out.

    Args:
        boxes: of each model (or view) (N, 4) xyxy, all in the pixels of one image.
        scores, labels: of each model (N,), none negative, and (N,) whole numbers.
        weights: how much each model counts; 1 by default.
        score_threshold: boxes with lower scores are left out first.
        score: of a cluster: the weighted "mean" of its boxes' scores, times the number of its boxes over that of the
            models, at most 1; or the "max".

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
    shares = np.ones(models, np.float32) if weights is None else np.asarray(weights, np.float32)
    if shares.shape != (models,) or not ((shares > 0) & np.isfinite(shares)).all():
        raise ValueError(f"weights must be {models} positive numbers, one for each model, got {weights}")
    if score not in ("mean", "max"):
        raise ValueError(f"score must be 'mean' or 'max', got {score!r}")
    threshold = check_threshold(iou_threshold, score_threshold)
    parts = [_checked(model, *given) for model, given in enumerate(zip(boxes, scores, labels, strict=True))]
    places = ["numpy" if isinstance(given, np.ndarray) else f"torch on {given.device}" for given in boxes]
    if len(set(places)) > 1:
        raise ValueError(f"all models must give numpy arrays, or tensors on one device, got {', '.join(places)}")
    all_boxes, all_scores, all_labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    owners = np.repeat(np.arange(models), [len(part[1]) for part in parts])
    weighted = all_scores * shares[owners]
    order = np.argsort(-weighted, kind="stable")
    order = order[all_scores[order] >= score_threshold]
    order = order[np.argsort(all_labels[order], kind="stable")]
    fused, new, found, kinds, first = _fuse(
        all_boxes, weighted, all_labels, order, np.float32(threshold), score == "max"
    )
    able = np.ones((models, len(kinds)), bool) if known is None else known[:, kinds]
    new = new * np.minimum(found, able.sum(0)) / (shares @ able) if score == "mean" else new / shares.max()
    falling = np.argsort(-new, kind="stable")
    in_kind = like(boxes[0], fused[falling], new[falling].astype(np.float32), kinds[falling])
    return Fused(in_kind[0], in_kind[1], in_kind[2], first[falling])


def _checked(model: int, boxes: Array, scores: Array, labels: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One model's boxes and scores in float32 and labels in int64."""
    try:
        arrays = checked_arrays({"boxes": boxes, "scores": scores, "labels": labels})
        if arrays["labels"].dtype.kind == "f" and len(labels):
            raise ValueError(f"labels must be whole numbers, got {arrays['labels'].dtype}")
    except ValueError as error:
        raise ValueError(f"model {model}: {error}") from error
    empty = len(arrays["scores"]) == 0  # empty arrays are float64 unless one says otherwise
    kinds = np.empty(0, np.int64) if empty else whole_labels(arrays["labels"])
    return numbers(arrays["boxes"], np.float32), arrays["scores"].astype(np.float32), kinds


@compiled
def _fuse(boxes, scores, labels, order, threshold, best):
    """Clusters of boxes: their mean boxes (C, 4), scores, numbers of boxes, labels and best boxes' numbers, each (C,).

    Args:
        scores: (N,) the weights of the boxes in their cluster's mean.
        order: (D,) the boxes to fuse, those of a label together and best first.
        best: a cluster's score is that of its best box, else their mean.
    """
    means = np.empty((len(order), 4), np.float32)
    sums = np.zeros((len(order), 4))
    total, top = np.zeros(len(order)), np.zeros(len(order))
    counts, kinds = np.zeros(len(order), np.int64), np.empty(len(order), np.int64)
    first = np.empty(len(order), np.int64)
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
            kinds[chosen], top[chosen], first[chosen] = labels[i], scores[i], i
        counts[chosen] += 1
        total[chosen] += scores[i]
        for side in range(4):
            sums[chosen, side] += scores[i] * boxes[i, side]
            # Boxes whose scores are all 0 have no weighted mean; the first of them stands for it.
            means[chosen, side] = sums[chosen, side] / total[chosen] if total[chosen] > 0 else boxes[i, side]
    new = top[:clusters].copy() if best else total[:clusters] / counts[:clusters]
    return means[:clusters].copy(), new, counts[:clusters].copy(), kinds[:clusters].copy(), first[:clusters].copy()
