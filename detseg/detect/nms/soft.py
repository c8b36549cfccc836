"""Soft non-max suppression: overlapping boxes lose score and are not dropped (Bodla et al. 2017, arXiv:1704.04503).

Where objects of one class stand close together, dropping every box with much overlap drops some of them.
"""

import math
from typing import Literal

import numpy as np

from detseg.detect.nms.checks import Array, check_thresholds, checked_arrays, is_number, like, whole_labels
from detseg.kernels import box_iou, compiled


def soft_nms(
    boxes: Array,
    scores: Array,
    labels: Array | None = None,
    *,
    method: Literal["linear", "gaussian"] = "gaussian",
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float | None = 0.001,
) -> tuple[Array, Array]:
    """Indices (int64) and new scores of the boxes that keep a score, best new score first.

    Again and again the box with the best score is taken, and the scores of the remaining ones that overlap it are
    lowered. Torch in (any device), torch out; numpy or lists in, numpy out. The work is done on the CPU: each step
    waits for the one before. Scores are float32, or float64 where those given are; IoU is as precise as the boxes.

    Args:
        boxes, scores: (N, 4) xyxy, and (N,), none negative.
        labels: (N,); boxes of different labels leave each other alone. Without, all compete.
        method: "linear" multiplies by ``1 - IoU`` where IoU is above `iou_threshold`, "gaussian" by
            ``exp(-IoU² / sigma)`` everywhere.
        score_threshold: boxes whose new score is not above it are left out; None keeps all.

    Raises ValueError as `nms`, also for negative scores, an unknown method, or a sigma of 0 or less.
    """
    if method not in ("linear", "gaussian"):
        raise ValueError(f"method must be 'linear' or 'gaussian', got {method!r}")
    if not (is_number(sigma) and 0 < sigma < np.inf):
        raise ValueError(f"sigma must be above 0, got {sigma!r}")
    check_thresholds(iou_threshold, score_threshold)
    arrays = checked_arrays({"boxes": boxes, "scores": scores} | ({} if labels is None else {"labels": labels}))
    box_type, score_type = arrays["boxes"].dtype.type, arrays["scores"].dtype.type
    result = _lower_scores(
        arrays["boxes"],
        whole_labels(arrays.get("labels")),
        arrays["scores"].copy(),
        method == "gaussian",
        box_type(iou_threshold),
        box_type(sigma),
        score_type(-np.inf if score_threshold is None else score_threshold),
    )
    return like(boxes, *result)  # type: ignore[return-value]


@compiled
def _lower_scores(boxes, labels, scores, gaussian, threshold, sigma, lowest):
    """Indices (D,) and new scores (D,) above `lowest`, best first; of equal scores the lower index.

    `labels` are of length 0 where all boxes compete; `scores` (N,) are overwritten.
    """
    left = np.arange(len(boxes))
    order, new = np.empty(len(boxes), np.int64), np.empty(len(boxes), scores.dtype)
    labelled = len(labels) > 0
    count, found = len(boxes), 0
    while count > 0:
        # The best one, and out with those that fell too low. The rest stays in the order of the indices.
        to, best = 0, -1
        for j in range(count):
            i = left[j]
            if scores[i] > lowest:
                left[to] = i
                if best < 0 or scores[i] > scores[left[best]]:
                    best = to
                to += 1
        count = to
        if count == 0:
            break
        chosen = left[best]
        order[found], new[found] = chosen, scores[chosen]
        found += 1
        for j in range(best, count - 1):
            left[j] = left[j + 1]
        count -= 1
        for j in range(count):
            i = left[j]
            if labelled and labels[i] != labels[chosen]:
                continue
            iou = box_iou(boxes, chosen, boxes, i)
            if iou == 0:
                continue
            if gaussian:
                scores[i] *= math.exp(-(iou * iou) / sigma)
            elif iou > threshold:
                scores[i] *= np.float32(1) - iou
    return order[:found], new[:found]
