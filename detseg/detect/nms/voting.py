"""Box voting: what suppression drops still says where the object is (Gidaris & Komodakis 2015, arXiv:1505.01749).

Several predictions find the same object, and the one with the best score seldom has the best box: the mean of those
that agree is nearer to it.
"""

import numpy as np
import torch
from torch import Tensor

from detseg.boxes import box_iou
from detseg.tracing import is_traced

# Pairs of a detection and a candidate that are compared at a time: some tens of megabytes.
PAIRS = 1 << 20


def vote(kept: Tensor, boxes: Tensor, weights: Tensor, labels: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Each detection's box as the mean of the candidates of its label that agree with it.

    Args:
        kept: (D,) int64, which of the C candidates are detections.
        boxes: (C, 4) xyxy; float64 keeps its digits.
        weights: (C,) of the candidates, none negative.
        labels: (C,).
        iou_threshold: least IoU with the detection. A detection always agrees with itself, even without area.

    Returns:
        Boxes (D, 4), and the sums (D,) of the weights they were averaged with; where that is 0, the box is as it was.
    """
    if boxes.device.type == "cpu" and not is_traced(boxes):
        from detseg.detect.nms.voting_loops import vote_in_turn  # here: it loads numba

        wide = boxes.dtype if boxes.dtype == torch.float64 else torch.float32
        merged, total = torch.empty(len(kept), 4, dtype=wide), torch.empty(len(kept))
        given = (kept, boxes.to(wide), weights.float(), labels)
        arrays = [np.ascontiguousarray(value.detach().numpy()) for value in given]
        vote_in_turn(*arrays, arrays[1].dtype.type(iou_threshold), merged.numpy(), total.numpy())
        return merged, total
    step = max(1, PAIRS // max(1, len(boxes)))
    parts = [_vote(part, boxes, weights, labels, iou_threshold) for part in kept.split(step)]
    merged, total = (torch.cat(values) for values in zip(*parts, strict=True))
    return merged, total


def _vote(kept: Tensor, boxes: Tensor, weights: Tensor, labels: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    agrees = (box_iou(boxes[kept], boxes) >= threshold) & (labels[kept, None] == labels)
    agrees |= kept[:, None] == torch.arange(len(boxes), device=boxes.device)
    votes = agrees * weights
    total = votes.sum(1)
    with torch.autocast(boxes.device.type, enabled=False):  # it would multiply in half precision
        merged = votes @ boxes / total[:, None]
    return torch.where(total[:, None] > 0, merged, boxes[kept]), total
