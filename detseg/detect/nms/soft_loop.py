"""The loop of soft non-max suppression, compiled by numba; see `detseg.detect.nms.soft`."""

import math

import numpy as np

from detseg.detect.nms.dense import overlap
from detseg.kernels import njit


@njit(
    "Tuple((int64[::1], float32[::1]))(float32[:, ::1], int64[::1], float32[::1], boolean, float32, float32, float32)",
    nogil=True,
    error_model="numpy",
)
def lower_scores(boxes, labels, scores, gaussian, threshold, sigma, lowest):
    """Indices (D,) and new scores (D,) above `lowest`, best first; of equal scores the lower index.

    Args:
        boxes: (N, 4) xyxy.
        labels: (N,), or of length 0 where all boxes compete.
        scores: (N,), overwritten.
        gaussian: the rule; else the linear one.
        threshold, sigma: of the two rules.
    """
    left = np.arange(len(boxes))
    order, new = np.empty(len(boxes), np.int64), np.empty(len(boxes), np.float32)
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
            iou = overlap(boxes, chosen, i)
            if gaussian:
                scores[i] *= np.float32(math.exp(-(iou * iou) / sigma))
            elif iou > threshold:
                scores[i] *= np.float32(1) - iou
    return order[:found], new[:found]
