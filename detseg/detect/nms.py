"""Non-max suppression: of boxes that overlap much, keep the best scored one.

Greedy: boxes are visited from the highest score down; a visited box that is still there is kept and removes
every later box whose IoU with it is strictly greater than the threshold. Equal scores are visited by rising
index. IoU is computed in float32 whatever the input's type; two boxes without area have IoU 0.
"""

from typing import TypeVar, cast

import numpy as np
import torch
import torchvision  # noqa: F401  (loads the compiled operators below)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Array = TypeVar("Array", Tensor, np.ndarray)

# On the CPU one operator call (about 20 µs, one for each label) costs as much as going twice through this
# many pairs of boxes (about 1 ns each, all labels together).
_PAIRS_A_CALL = 10_000


def nms(
    boxes: Array,
    scores: Array,
    iou_threshold: float,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
) -> Array:
    """Indices (int64, best score first) of the boxes that survive non-max suppression.

    Torch in (any device), torch out on the same device; numpy in, numpy out.

    Args:
        boxes: (N, 4) xyxy, x1 <= x2 and y1 <= y2, any float or integer type.
        scores: (N,), any float or integer type.
        iou_threshold: in [0, 1]; a box is dropped when its IoU with a kept one is strictly greater.
        score_threshold: drop first every box whose score is not strictly greater.
        max_detections: return this many at most.

    Raises:
        ValueError: wrong shapes, lengths or devices, a threshold out of range, NaN or infinite numbers, or a
            reversed box; the message names its index and value.
    """
    return _suppress(boxes, scores, None, iou_threshold, score_threshold, max_detections)


def batched_nms(
    boxes: Array,
    scores: Array,
    labels: Array,
    iou_threshold: float,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
) -> Array:
    """Like `nms`, but a box only removes boxes of its own label.

    Exactly the union of `nms` on each label, for any labels (negative, huge, with holes) and coordinates.
    The usual trick of moving the labels apart by adding an offset, which loses digits of large coordinates,
    is used only in float64 and where its result is proven to be the same. (While torch.compile or
    torch.export trace the call it is used without that proof: IoU within 1e-6 of the threshold may go either
    way.)

    Args:
        boxes: (N, 4) xyxy, as in `nms`.
        scores: (N,).
        labels: (N,) class, or any other group such as class x picture; `max_detections` counts all together.
        iou_threshold, score_threshold, max_detections: as in `nms`.

    Raises:
        ValueError: as `nms`, also for labels of another length or device, or not finite.
    """
    return _suppress(boxes, scores, labels, iou_threshold, score_threshold, max_detections)


def _suppress(
    boxes: Array,
    scores: Array,
    labels: Array | None,
    iou_threshold: float,
    score_threshold: float | None,
    max_detections: int | None,
) -> Array:
    """Both functions: bring the input to one form, suppress, and give back what came in."""
    given = {"boxes": boxes, "scores": scores} | ({} if labels is None else {"labels": labels})
    from_numpy = _check_kinds(given)
    threshold = _check_options(iou_threshold, score_threshold, max_detections)
    tensors = {name: _as_tensor(value) for name, value in given.items()}
    tensors["boxes"] = tensors["boxes"].float()
    keep = _keep(tensors, threshold, score_threshold)[:max_detections]
    return cast(Array, keep.numpy() if from_numpy else keep)


@torch.no_grad()
def _keep(tensors: dict[str, Tensor], threshold: float, score_threshold: float | None) -> Tensor:
    """Kept indices, best first, of checked tensors `boxes` (N, 4), `scores` (N,) and maybe `labels` (N,)."""
    boxes, scores, labels = tensors["boxes"], tensors["scores"], tensors.get("labels")
    if len(boxes) == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    tracing = torch.compiler.is_compiling() or isinstance(boxes, FakeTensor)
    fine = None if tracing else _values_are_fine(boxes, scores, labels)
    # On the CPU looking now costs nothing. On a GPU it would wait for everything queued before; the operator
    # below waits anyway, so the flag is read after it, and meanwhile bad numbers do no harm.
    if fine is not None and boxes.device.type == "cpu" and not fine:
        raise ValueError(_name_bad_value(boxes, scores, labels))

    order = torch.argsort(scores, descending=True, stable=True)
    if score_threshold is not None:
        order = order[scores[order] > score_threshold]
    ordered = boxes[order]
    if labels is None:
        kept = _nms_sorted(ordered, threshold)
    elif tracing:
        kept = _nms_sorted(_moved_apart(ordered, labels[order])[0], threshold)
    else:
        kept = _nms_per_label(ordered, labels[order], threshold)
    if fine is not None and boxes.device.type != "cpu" and not fine:
        raise ValueError(_name_bad_value(boxes, scores, labels))
    return order[kept]


def _nms_sorted(boxes: Tensor, threshold: float) -> Tensor:
    """Positions kept among boxes (N, 4) that are sorted best first, in that order."""
    return torch.ops.torchvision.nms(boxes, _ranks(boxes), threshold)


def _ranks(boxes: Tensor) -> Tensor:
    """Falling scores 0, -1, … 1 - N, for torchvision sorts again and promises nothing about ties."""
    return -torch.arange(boxes.shape[0], dtype=boxes.dtype, device=boxes.device)


def _nms_per_label(boxes: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Positions kept among boxes (N, 4) sorted best first when only equal labels (N,) compete."""
    by_label = torch.argsort(labels, stable=True)  # best first inside each label
    counts = torch.unique_consecutive(labels[by_label], return_counts=True)[1].tolist()
    if boxes.device.type != "cpu" or len(boxes) ** 2 < _PAIRS_A_CALL * len(counts):
        kept = _nms_together(boxes, labels, threshold)
        if kept is not None:
            return kept
    # One operator call a label and nothing else: its overhead is most of the cost with many labels.
    groups = zip(boxes[by_label].split(counts), _ranks(boxes).split(counts), strict=True)
    parts = [torch.ops.torchvision.nms(group, ranks, threshold) for group, ranks in groups]
    starts = np.cumsum([0, *counts[:-1]]).tolist() if counts else []
    parts = [positions + start for positions, start in zip(parts, starts, strict=True)]
    return by_label[torch.cat(parts)].sort().values if parts else by_label


def _nms_together(boxes: Tensor, labels: Tensor, threshold: float) -> Tensor | None:
    """What `_nms_per_label` promises, by two operator calls for all labels; None where they prove nothing.

    The labels are moved apart in float64, where IoU differs a little from the float32 one. So it is done with
    a threshold surely below and one surely above: if both keep the same boxes, so does the true rule. (By
    induction from the best box down: what is kept at the low threshold, no kept box removes at the true one;
    what is dropped at the high threshold, the same kept box removes at the true one.)
    """
    shifted, rounding = _moved_apart(boxes, labels)
    extents = boxes[:, 2:] - boxes[:, :2]
    # Moving rounds a corner by `rounding` and IoU by a few times rounding / extent: below 1e-6 by this check.
    # Extents of zero stay zero. float32 itself rounds IoU by less than 20 * 2**-24 = 1.2e-6 as long as the
    # areas neither overflow nor underflow.
    safe = ((extents == 0) | ((extents > 1e7 * rounding) & (extents < 1e18))).all()
    low = _nms_sorted(shifted, threshold - 4e-6)
    high = _nms_sorted(shifted, threshold + 4e-6)
    return low if bool(safe) and torch.equal(low, high) else None


def _moved_apart(boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) in float64, each label moved to a place of its own, and the rounding error of a corner."""
    values, back = labels.sort()
    place = torch.zeros_like(back)
    place[back] = torch.cat([back.new_zeros(1), (values[1:] != values[:-1]).long()]).cumsum(0)
    wide = boxes.double()
    moved = wide + (place * (wide.max() - wide.min() + 1))[:, None]
    return moved, moved.abs().max().clamp_min(1) * torch.finfo(torch.float64).eps


# ------------------------------------------------------------------ checks


def _check_kinds(given: dict[str, Tensor] | dict[str, np.ndarray]) -> bool:
    """Check kinds, shapes and devices; True for numpy, False for torch."""
    for name, value in given.items():
        if not isinstance(value, Tensor | np.ndarray):
            raise ValueError(f"{name} must be a torch tensor or a numpy array, got {type(value).__name__}")
    kinds = {name: "numpy" if isinstance(value, np.ndarray) else "torch" for name, value in given.items()}
    if len(set(kinds.values())) > 1:
        raise ValueError(f"all inputs must be torch or all numpy, got {_listed(kinds)}")
    boxes = given["boxes"]
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (N, 4), got {tuple(boxes.shape)}")
    for name, value in given.items():
        if name != "boxes" and tuple(value.shape) != (len(boxes),):
            raise ValueError(f"{name} must have shape ({len(boxes)},), one for each box, got {tuple(value.shape)}")
    if kinds["boxes"] == "numpy":
        return True
    devices = {name: str(value.device) for name, value in given.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"all inputs must be on one device, got {_listed(devices)}")
    return False


def _check_options(iou_threshold: float, score_threshold: float | None, max_detections: int | None) -> float:
    """Check the options; returns the IoU threshold rounded to float32.

    The IoU is a float32 number. Compared in float64, the float32 nearest to 0.1 is above 0.1, and a box
    exactly on the threshold would be dropped; compared in one precision it is kept, on every device.
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in [0, 1], got {iou_threshold}")
    if score_threshold is not None and score_threshold != score_threshold:
        raise ValueError("score_threshold must be a number, got NaN")
    if max_detections is not None and (int(max_detections) != max_detections or max_detections < 0):
        raise ValueError(f"max_detections must be a whole number, 0 or more, got {max_detections}")
    return float(np.float32(iou_threshold))


def _as_tensor(value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    # A copy in native byte order and C order: torch cannot wrap foreign, reversed or read-only arrays.
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))


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


def _name_bad_value(boxes: Tensor, scores: Tensor, labels: Tensor | None) -> str:
    """The message for the first bad box, score or label."""
    extents = boxes[:, 2:] - boxes[:, :2]
    findings = [
        ("boxes", boxes, ~boxes.isfinite().all(1), "is not finite"),
        ("boxes", boxes, (extents < 0).any(1), "is reversed: x1 <= x2 and y1 <= y2 are needed"),
        ("boxes", boxes, ~extents.isfinite().all(1), "is too large for float32"),
        ("scores", scores, ~scores.isfinite(), "is not finite"),
    ]
    if labels is not None:
        findings.append(("labels", labels, ~labels.isfinite(), "is not finite"))
    for name, values, bad, what in findings:
        count = int(bad.sum())
        if count:
            index = int(bad.nonzero()[0])
            more = f" ({count} such {name} in all)" if count > 1 else ""
            return f"{name}[{index}] = {values[index].tolist()} {what}{more}"
    raise AssertionError("called without a bad value")


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())
