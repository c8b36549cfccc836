"""Soft non-max suppression: overlapping boxes lose score and are not dropped (Bodla et al. 2017, arXiv:1704.04503).

Where objects of one class stand close together, dropping every box with much overlap drops some of them. Lowering their
scores by how much they overlap keeps them in the list, below the boxes that stand alone.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from detseg.detect.nms.checks import check_kinds, check_numbers, check_threshold, numbers, to_arrays, whole_labels
from detseg.detect.nms.greedy import Array


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
    """Indices (int64) and new scores (float32) of the boxes that keep a score, best new score first.

    Again and again the box with the best score is taken, and the scores of the remaining ones that overlap it are
    lowered: "linear" multiplies by ``1 - IoU`` where IoU is above `iou_threshold`, "gaussian" by
    ``exp(-IoU² / sigma)`` everywhere. Torch in (any device), torch out; numpy in, numpy out. The work is done on the
    CPU: each step waits for the one before.

    Args:
        boxes: (N, 4) xyxy, x1 <= x2 and y1 <= y2.
        scores: (N,), none negative.
        labels: (N,); boxes of different labels leave each other alone. Without, all compete.
        method: which of the two rules.
        iou_threshold: of the linear rule, in [0, 1].
        sigma: width of the Gaussian rule, above 0.
        score_threshold: boxes whose new score is not above it are left out; None keeps all.

    Raises:
        ValueError: as `detseg.detect.nms.greedy`, also for negative scores, an unknown method, or a sigma of 0 or less.
    """
    from detseg.detect.nms.soft_loop import lower_scores

    if method not in ("linear", "gaussian"):
        raise ValueError(f"method must be 'linear' or 'gaussian', got {method!r}")
    if not 0 < sigma < np.inf:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    given = {"boxes": boxes, "scores": scores} | ({} if labels is None else {"labels": labels})
    check_kinds(given)
    threshold = check_threshold(iou_threshold, score_threshold)
    arrays = to_arrays(given)
    check_numbers(arrays["boxes"], arrays["scores"], arrays.get("labels"))
    negative = arrays["scores"] < 0
    if negative.any():
        raise ValueError(f"scores[{int(negative.argmax())}] = {arrays['scores'][negative][0]} is negative")
    order, lowered = lower_scores(
        numbers(arrays["boxes"], np.float32),
        whole_labels(arrays.get("labels")),
        np.array(arrays["scores"], np.float32),
        method == "gaussian",
        threshold,
        np.float32(sigma),
        np.float32(-np.inf if score_threshold is None else score_threshold),
    )
    if isinstance(boxes, Tensor):
        return torch.from_numpy(order).to(boxes.device), torch.from_numpy(lowered).to(boxes.device)
    return order, lowered
