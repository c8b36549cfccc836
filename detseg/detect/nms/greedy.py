"""Non-max suppression: of boxes that overlap much, keep the best scored one.

Greedy: boxes are visited from the highest score down; a visited box that is still there is kept and removes
every later box whose IoU with it is strictly greater than the threshold. Equal scores are visited by rising
index. IoU is computed in float32 whatever the input's type; two boxes without area have IoU 0.

On CPUs `detseg.detect.nms.cpu` does the work, on other devices torchvision's kernel; both give the same indices.
There is no such kernel for DIoU: its boxes are brought to the CPU.
"""

from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from detseg.detect.nms.by_torchvision import keep_by_torchvision
from detseg.detect.nms.checks import check_kinds, check_threshold, name_bad_value, to_arrays, values_are_fine
from detseg.detect.nms.cpu import keep_on_cpu

Array = TypeVar("Array", Tensor, np.ndarray)
Metric = Literal["iou", "diou"]


def nms(
    boxes: Array,
    scores: Array,
    iou_threshold: float,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
    metric: Metric = "iou",
) -> Array:
    """Indices (int64, best score first) of the boxes that survive non-max suppression.

    Torch in (any device), torch out on the same device; numpy in, numpy out.

    Args:
        boxes: (N, 4) xyxy, x1 <= x2 and y1 <= y2, any float or integer type.
        scores: (N,), any float or integer type.
        iou_threshold: in [0, 1]; a box is dropped when its IoU with a kept one is strictly greater.
        score_threshold: drop first every box whose score is not strictly greater.
        max_detections: return this many at most, and stop there.
        metric: "diou" lowers the IoU by the distance of the centres, so that neighbours in a crowd are kept
            (Zheng et al. 2020, arXiv:1911.08287).

    Raises:
        ValueError: wrong shapes, lengths or devices, a threshold out of range, NaN or infinite numbers, or a
            reversed box; the message names its index and value.
    """
    return _suppress(boxes, scores, None, iou_threshold, score_threshold, max_detections, metric)


def batched_nms(
    boxes: Array,
    scores: Array,
    labels: Array,
    iou_threshold: float,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
    metric: Metric = "iou",
) -> Array:
    """Like `nms`, but a box only removes boxes of its own label.

    Exactly the union of `nms` on each label, for any labels (negative, huge, with holes) and coordinates. (While
    torch.compile or torch.export trace the call, labels are moved apart by an offset in float64: IoU within
    1e-6 of the threshold may go either way.)

    Args:
        boxes: (N, 4) xyxy, as in `nms`.
        scores: (N,).
        labels: (N,) class, or any other group such as class x image; `max_detections` counts all together.
        iou_threshold, score_threshold, max_detections, metric: as in `nms`.

    Raises:
        ValueError: as `nms`, also for labels of another length or device, or not finite.
    """
    return _suppress(boxes, scores, labels, iou_threshold, score_threshold, max_detections, metric)


def _suppress(
    boxes: Array,
    scores: Array,
    labels: Array | None,
    iou_threshold: float,
    score_threshold: float | None,
    max_detections: int | None,
    metric: Metric,
) -> Array:
    """Both functions: bring the input to one form, suppress, and give back what came in."""
    given: dict[str, Any] = {"boxes": boxes, "scores": scores} | ({} if labels is None else {"labels": labels})
    from_numpy = check_kinds(given)
    threshold = check_threshold(iou_threshold, score_threshold)
    if max_detections is not None and not (max_detections >= 0 and max_detections % 1 == 0):
        raise ValueError(f"max_detections must be a whole number, 0 or more, got {max_detections}")
    if metric not in ("iou", "diou"):
        raise ValueError(f"metric must be 'iou' or 'diou', got {metric!r}")
    tracing = torch.compiler.is_compiling() or isinstance(boxes, FakeTensor)
    if not from_numpy and tracing and metric == "diou":
        raise ValueError("metric='diou' cannot be traced; use 'iou' in models that are exported or compiled")
    if not from_numpy and metric == "iou" and (tracing or given["boxes"].device.type != "cpu"):
        elsewhere: Any = _keep_elsewhere(given, threshold, score_threshold, tracing)
        elsewhere = elsewhere if max_detections is None else elsewhere[: int(max_detections)]
        return elsewhere
    arrays = given if from_numpy else to_arrays(given)
    kept: Any = keep_on_cpu(
        arrays["boxes"],
        arrays["scores"],
        arrays.get("labels"),
        threshold,
        score_threshold=score_threshold,
        max_detections=max_detections,
        distance=metric == "diou",
    )
    kept = kept if from_numpy else torch.from_numpy(kept).to(given["boxes"].device)
    return kept


def _keep_elsewhere(given: dict[str, Tensor], threshold: float, score_threshold: float | None, tracing: bool) -> Tensor:
    """Kept indices, best first, on the tensors' device."""
    boxes, scores, labels = given["boxes"].detach().float(), given["scores"].detach(), given.get("labels")
    if len(boxes) == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    # Looking at the flag now would wait for everything queued before. The operator below waits anyway, so it is
    # read after that; bad numbers do no harm meanwhile.
    fine = None if tracing else values_are_fine(boxes, scores, labels)
    kept = keep_by_torchvision(
        boxes,
        scores,
        labels,
        threshold,
        score_threshold=score_threshold,
        tracing=tracing,
    )
    if fine is not None and not fine:
        arrays = to_arrays({**given, "boxes": boxes})
        raise ValueError(name_bad_value(arrays["boxes"], arrays["scores"], arrays.get("labels")))
    return kept
