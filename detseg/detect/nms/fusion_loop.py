"""The loop of weighted boxes fusion, compiled by numba; see `detseg.detect.nms.fusion`."""

import numpy as np

from detseg.detect.nms.dense import overlap
from detseg.kernels import njit


@njit(
    "Tuple((float32[:, ::1], float64[::1], int64[::1], int64[::1]))"
    "(float32[:, ::1], float32[::1], int64[::1], int64[::1], float32, boolean)",
    nogil=True,
    error_model="numpy",
)
def fuse(boxes, scores, labels, order, threshold, best):
    """Clusters of boxes: their mean boxes (C, 4), scores (C,), numbers of boxes (C,) and labels (C,).

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,) the weights of the boxes in their cluster's mean.
        labels: (N,); a cluster has one label.
        order: (D,) the boxes to fuse, those of a label together and best first.
        threshold: a box joins the cluster whose mean it overlaps most, if the IoU is above this.
        best: a cluster's score is that of its best box, else their mean.
    """
    means = np.empty((len(order), 4), np.float32)
    pairs = np.empty((2, 4), np.float32)
    sums = np.zeros((len(order), 4))
    total, top = np.zeros(len(order)), np.zeros(len(order))
    counts, kinds = np.zeros(len(order), np.int64), np.empty(len(order), np.int64)
    clusters = begin = 0  # the clusters of a label begin at `begin`
    for i in order:
        if clusters and kinds[clusters - 1] != labels[i]:
            begin = clusters
        pairs[0] = boxes[i]
        chosen, highest = -1, threshold
        for c in range(begin, clusters):
            pairs[1] = means[c]
            iou = overlap(pairs, 0, 1)
            if iou > highest:
                chosen, highest = c, iou
        if chosen < 0:
            chosen = clusters
            clusters += 1
            kinds[chosen], top[chosen] = labels[i], scores[i]
        counts[chosen] += 1
        total[chosen] += scores[i]
        for side in range(4):
            sums[chosen, side] += scores[i] * boxes[i, side]
            # Boxes whose scores are all 0 have no weighted mean; the first of them stands for it.
            means[chosen, side] = sums[chosen, side] / total[chosen] if total[chosen] > 0 else boxes[i, side]
    new = top[:clusters].copy() if best else total[:clusters] / counts[:clusters]
    return means[:clusters].copy(), new, counts[:clusters].copy(), kinds[:clusters].copy()
