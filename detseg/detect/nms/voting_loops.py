"""Box voting on a CPU, pair by pair: most pairs end at the labels or share no area."""

import numpy as np

from detseg.kernels import box_iou, compiled


@compiled
def vote_in_turn(kept, boxes, weights, labels, threshold, merged, total):
    """Fill `merged` (D, 4) and `total` (D,) of the detections `kept` (D,), as `vote` says."""
    for row in range(len(kept)):
        k = kept[row]
        weight = x1 = y1 = x2 = y2 = np.float64(0)
        for i in range(len(boxes)):
            if labels[i] == labels[k] and (i == k or box_iou(boxes, k, boxes, i) >= threshold):
                weight += weights[i]
                x1 += weights[i] * boxes[i, 0]
                y1 += weights[i] * boxes[i, 1]
                x2 += weights[i] * boxes[i, 2]
                y2 += weights[i] * boxes[i, 3]
        total[row] = weight
        if weight > 0:
            merged[row, 0], merged[row, 1] = x1 / weight, y1 / weight
            merged[row, 2], merged[row, 3] = x2 / weight, y2 / weight
        else:
            for side in range(4):  # `merged[row] = boxes[k]` would take two seconds longer to compile
                merged[row, side] = boxes[k, side]
