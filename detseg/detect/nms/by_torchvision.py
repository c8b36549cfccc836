"""Hard suppression by torchvision's operator: for GPUs, and where torch traces the call."""

import numpy as np
import torch
import torchvision  # noqa: F401  (loads the compiled operators below)
from torch import Tensor

from detseg.detect.nms.checks import name_bad_value, to_arrays
from detseg.tracing import best_first


@torch.no_grad()
def keep_by_torchvision(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None = None,
    *,
    threshold: float,
    score_threshold: float | None,
    tracing: bool,
) -> Tensor:
    """Kept indices (int64), best first, of boxes (N, 4), scores (N,) and maybe labels (N,), on their device.

    While `tracing` (torch.compile, torch.export or a fake tensor mode looks on) nothing may depend on the numbers.
    Otherwise ValueError is raised for one that is not finite, or a reversed box.
    """
    given = {"boxes": boxes, "scores": scores} | ({} if labels is None else {"labels": labels})
    boxes, scores = _in_floats(boxes).detach(), scores.detach()
    if boxes.dtype == torch.float32:
        threshold = float(np.float32(threshold))  # as on CPUs
    if len(boxes) == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    # Looking at the flag now would wait for everything queued before. The operator below waits anyway, so it is
    # read after that; bad numbers do no harm meanwhile.
    fine = None if tracing else _values_are_fine(boxes, scores, labels)
    if scores.is_floating_point() and scores.itemsize < 4:
        scores = scores.float()  # as on CPUs: bfloat16 would round the score threshold
    order = best_first(scores)
    if score_threshold is not None:
        order = order[scores[order] > score_threshold]
    ordered = boxes[order]
    if labels is None:
        kept = _nms_sorted(ordered, threshold)
    elif tracing:
        kept = _nms_sorted(_moved_apart(ordered, labels[order])[0], threshold)
    else:
        kept = _nms_per_label(ordered, labels[order], threshold)
    if fine is not None and not fine:
        raise ValueError(name_bad_value(**to_arrays(given)))
    return order[kept]


def _values_are_fine(boxes: Tensor, scores: Tensor, labels: Tensor | None) -> Tensor:
    """One bool, still on the device: all numbers finite and no box reversed. N >= 1."""
    # x2 - x1 is NaN or infinite when a corner is, so the smallest and the largest extent tell everything.
    smallest, largest = torch.aminmax(boxes[:, 2:] - boxes[:, :2])
    fine = (smallest >= 0) & (largest < torch.inf)
    for values in (scores, labels):
        if values is not None and values.is_floating_point():
            low, high = torch.aminmax(values)
            fine = fine & (low > -torch.inf) & (high < torch.inf)
    return fine


def _in_floats(values: Tensor) -> Tensor:
    """What `checks.in_floats` does to arrays."""
    if values.dtype == torch.float64:
        return values
    if values.is_floating_point() or values.itemsize <= 2:
        return values.float()
    try:
        return values.double()
    except TypeError:  # a device without float64, as Apple's
        return values.float()


def _nms_sorted(boxes: Tensor, threshold: float) -> Tensor:
    """Positions kept among boxes (N, 4) that are sorted best first, in that order."""
    # Reshaped: where the call is traced, all that reads the graph then knows that a box has four numbers.
    return torch.ops.torchvision.nms(boxes.reshape(-1, 4), _ranks(boxes), threshold)


def _ranks(boxes: Tensor) -> Tensor:
    """Falling scores 0, -1, … 1 - N, for torchvision sorts again and promises nothing about ties."""
    return -torch.arange(boxes.shape[0], dtype=boxes.dtype, device=boxes.device)


def _nms_per_label(boxes: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Positions kept among boxes (N, 4) sorted best first when only equal labels (N,) compete."""
    by_label = torch.argsort(labels, stable=True)  # best first inside each label
    counts = torch.unique_consecutive(labels[by_label], return_counts=True)[1].tolist()
    kept = _nms_together(boxes, labels, threshold)
    if kept is not None:
        return kept
    # One operator call a label and nothing else: its overhead is most of the cost with many labels.
    groups = zip(*(x.split(counts) for x in (by_label, boxes[by_label], _ranks(boxes))), strict=True)
    parts = [positions[torch.ops.torchvision.nms(group, ranks, threshold)] for positions, group, ranks in groups]
    return torch.cat(parts).sort().values if parts else by_label


def _nms_together(boxes: Tensor, labels: Tensor, threshold: float) -> Tensor | None:
    """What `_nms_per_label` promises, by two operator calls for all labels; None where they prove nothing.

    The labels are moved apart in float64, where IoU differs a little from the float32 one. So it is done with a
    threshold surely below and one surely above: if both keep the same boxes, so does the true rule (by induction from
    the best box down).
    """
    try:
        shifted, rounding = _moved_apart(boxes, labels)
    except TypeError:  # a device without float64, as Apple's
        return None
    extents = boxes[:, 2:] - boxes[:, :2]
    # Moving rounds a corner by `rounding` and IoU by a few times rounding / extent: below 1e-6 by this check.
    # Extents of zero stay zero. float32 itself rounds IoU by less than 20 * 2**-24 = 1.2e-6 as long as the
    # areas neither overflow nor underflow.
    safe = ((extents == 0) | ((extents > 1e7 * rounding) & (extents < 1e18))).all()
    low = _nms_sorted(shifted, threshold - 4e-6)
    high = _nms_sorted(shifted, threshold + 4e-6)
    return low if bool(safe) and torch.equal(low, high) else None


def _moved_apart(boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) in float64, each label moved to a place of its own, and the rounding error of a corner; N >= 0."""
    values, back = labels.sort()
    before = (torch.arange(values.shape[0], device=values.device) - 1).clamp_min(0)
    place = torch.zeros_like(back)
    place[back] = (values != values[before]).long().cumsum(0)
    wide = boxes.double()
    corners = torch.cat([wide.flatten(), wide.new_zeros(1)])
    moved = wide + (place * (corners.max() - corners.min() + 1))[:, None]
    largest = torch.cat([moved.flatten(), moved.new_ones(1)]).abs().max()
    return moved, largest * torch.finfo(torch.float64).eps
