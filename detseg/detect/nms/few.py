"""Hard suppression of a handful of boxes in one compiled call: for so few, several calls cost more than the comparing.

The arithmetic, and so the result, is that of `dense`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.detect.nms.checks import Order, Rule
from detseg.detect.nms.dense import box_distance
from detseg.kernels import compiled, shared_area

FEW = 64


def keep_few(
    boxes: NDArray[np.floating[Any]],
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    rule: Rule,
    least: float,
    limit: int,
) -> Order | None:
    """Kept indices, best first, of boxes (N, 4) with scores above `least`, at most `limit`; None if a number is bad.

    Labels (N,), or (0,) for one label.
    """
    kept = np.empty(len(boxes), np.int64)
    count = _keep(boxes, scores, labels, rule.threshold, rule.distance, scores.dtype.type(least), limit, kept)
    return kept[:count] if count >= 0 else None


@compiled
def _keep(boxes, scores, labels, threshold, distance, least, limit, kept):
    """Fill `kept` (N,) and return how many there are; -1 if a box or score is bad."""
    count = 0
    for i in range(len(boxes)):
        width, height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        if not (width >= 0 and height >= 0 and width < np.inf and height < np.inf and np.isfinite(scores[i])):
            return -1
        if scores[i] > least:
            place = count  # equal scores stay in their order
            while place > 0 and scores[kept[place - 1]] < scores[i]:
                kept[place] = kept[place - 1]
                place -= 1
            kept[place] = i
            count += 1
    most, count = count, 0
    for place in range(most):
        if count >= limit:
            break
        i, alive = kept[place], True
        x1, y1, x2, y2 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        area = (x2 - x1) * (y2 - y1)
        for j in kept[:count]:
            if len(labels) > 0 and labels[j] != labels[i]:
                continue
            ax1, ay1, ax2, ay2 = boxes[j, 0], boxes[j, 1], boxes[j, 2], boxes[j, 3]
            shared = shared_area(ax1, ay1, ax2, ay2, x1, y1, x2, y2)
            iou = shared / ((ax2 - ax1) * (ay2 - ay1) + area - shared)
            if distance is not None:
                iou -= box_distance(x1, y1, x2, y2, ax1, ay1, ax2, ay2)
            if iou > threshold:
                alive = False
                break
        if alive:
            kept[count] = i
            count += 1
    return count
