"""Non-max suppression: of boxes that overlap much, keep the best scored one.

Greedy: boxes are visited from the highest score down; a visited box that is still there is kept and removes
every later box whose IoU with it is strictly greater than the threshold. Equal scores are visited by rising
index. IoU is computed in float32 whatever the input's type; two boxes without area have IoU 0.

On CPUs `detseg.detect.nms_kernels` does the work, on other devices torchvision's kernel; both give the same indices.
"""

from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from detseg.detect.nms_checks import (
    Arrays,
    check_kinds,
    check_threshold,
    name_bad_value,
    numbers,
    to_arrays,
    values_are_fine,
    whole_labels,
)
from detseg.detect.nms_torch import keep_by_torchvision

Array = TypeVar("Array", Tensor, np.ndarray)
Metric = Literal["iou", "diou"]

# Comparing all boxes is faster than looking for neighbours when there are few of them, or when so few fit beside
# each other on the picture that few will be kept (benchmarks/nms.py).
_FEW_BOXES, _FEW_BESIDE = 500, 400


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
        labels: (N,) class, or any other group such as class x picture; `max_detections` counts all together.
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
    if max_detections is not None and (int(max_detections) != max_detections or max_detections < 0):
        raise ValueError(f"max_detections must be a whole number, 0 or more, got {max_detections}")
    if metric not in ("iou", "diou"):
        raise ValueError(f"metric must be 'iou' or 'diou', got {metric!r}")
    tracing = torch.compiler.is_compiling() or isinstance(boxes, FakeTensor)
    kept: Any
    if from_numpy:
        kept = _keep_on_cpu(given, threshold, score_threshold, max_detections, metric)
    elif not tracing and given["boxes"].device.type == "cpu":
        kept = torch.from_numpy(_keep_on_cpu(to_arrays(given), threshold, score_threshold, max_detections, metric))
    else:
        kept = _keep_elsewhere(given, threshold, score_threshold, metric, tracing)[:max_detections]
    return kept


def _keep_on_cpu(
    given: Arrays, threshold: float, score_threshold: float | None, max_detections: int | None, metric: Metric
) -> NDArray[np.int64]:
    """Kept indices, best first, of checked arrays `boxes` (N, 4), `scores` (N,) and maybe `labels` (N,)."""
    # Imported when first needed: numba takes half a second, and not everyone who imports this calls it.
    from detseg.detect.nms_kernels import SMALLEST_SOUND_AREA, suppress_densely, suppress_nearby, survey

    boxes = numbers(given["boxes"], np.float32)
    order = _best_first(boxes, given, score_threshold)
    kept = np.empty(len(order), np.int64)
    limit = len(order) if max_detections is None else min(int(max_detections), len(order))
    distance = metric == "diou"
    if limit == 0:
        return kept[:0]
    labels = whole_labels(given.get("labels"))
    smallest, beside = survey(boxes, order)
    if len(labels) == 0 and (len(order) <= _FEW_BOXES or beside <= _FEW_BESIDE):
        return kept[: suppress_densely(boxes, order, threshold, distance, limit, kept)]
    if smallest >= SMALLEST_SOUND_AREA:
        return kept[: suppress_nearby(boxes, labels, order, threshold, distance, limit, kept)]
    survives = np.zeros(len(boxes), bool)
    for label in np.unique(labels[order]) if len(labels) else [None]:
        group = order if label is None else order[labels[order] == label]
        survives[kept[: suppress_densely(boxes, group, threshold, distance, len(group), kept)]] = True
    return order[survives[order]][:limit]


def _best_first(boxes: NDArray[np.float32], given: Arrays, score_threshold: float | None) -> NDArray[np.int64]:
    """Indices of the boxes above the score threshold by falling score, equal scores by rising index.

    Raises:
        ValueError: a number is not finite or a box is reversed.
    """
    from detseg.detect.nms_kernels import indices_of, sort_keys

    scores = given["scores"]
    # Larger types have digits that a key cannot hold.
    single = scores.dtype.kind == "f" and scores.dtype.itemsize <= 4
    in_keys = numbers(scores, np.float32) if single else np.zeros(len(scores), np.float32)
    keys = np.empty(len(boxes), np.uint64)
    lowest = -np.inf if score_threshold is None or not single else score_threshold
    count = sort_keys(boxes, in_keys, np.float32(lowest), keys)
    others = (value for name, value in given.items() if name == "labels" or (name == "scores" and not single))
    if count < 0 or not all(np.isfinite(value).all() for value in others if value.dtype.kind == "f"):
        raise ValueError(name_bad_value(boxes, scores, given.get("labels")))
    if not single:
        falling = -scores if scores.dtype.kind == "f" else np.invert(scores)
        order = np.argsort(falling, kind="stable")
        return order if score_threshold is None else order[scores[order] > score_threshold]
    keys = keys[:count]
    keys.sort()
    order = np.empty(count, np.int64)
    indices_of(keys, order)
    return order


def _keep_elsewhere(
    given: dict[str, Tensor], threshold: float, score_threshold: float | None, metric: Metric, tracing: bool
) -> Tensor:
    """Kept indices, best first, on the tensors' device."""
    boxes, scores, labels = given["boxes"].detach().float(), given["scores"].detach(), given.get("labels")
    if len(boxes) == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    if tracing and metric == "diou":
        raise ValueError("metric='diou' cannot be traced; use 'iou' in models that are exported or compiled")
    # Looking at the flag now would wait for everything queued before. The operator below waits anyway, so it is
    # read after that; bad numbers do no harm meanwhile.
    fine = None if tracing else values_are_fine(boxes, scores, labels)
    kept = keep_by_torchvision(
        boxes,
        scores,
        labels,
        threshold,
        score_threshold=score_threshold,
        distance=metric == "diou",
        tracing=tracing,
    )
    if fine is not None and not fine:
        arrays = to_arrays({"boxes": boxes, **given})
        raise ValueError(name_bad_value(arrays["boxes"], arrays["scores"], arrays.get("labels")))
    return kept
