"""Hard non-max suppression: of boxes that overlap much, keep the best scored one.

Greedy: boxes are visited from the highest score down; a visited box that is still there is kept and removes
every later box whose IoU with it is strictly greater than the threshold. Equal scores are visited by rising
index. IoU is computed in float32 whatever the input's type; two boxes without area have IoU 0.

There are three ways to the same indices, and this page chooses:

- On CPUs `order` checks and sorts. Then, group by group, `dense` compares each kept box with all that are left, which
  is fastest where there are few boxes or few are kept; or `nearby` compares each box with those near it, found by a
  grid, which is fastest where many boxes are kept on a large canvas.
- On other devices, and where torch traces the call, `by_torchvision` uses torchvision's operator. It knows no DIoU, so
  those boxes are brought to the CPU.
"""

from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import FakeTensor

from detseg.detect.nms.by_torchvision import keep_by_torchvision
from detseg.detect.nms.checks import (
    Array,
    Order,
    Rule,
    check_kinds,
    check_threshold,
    float32_boxes,
    to_arrays,
    whole_labels,
)

Metric = Literal["iou", "diou"]

# Comparing all boxes is faster than looking for neighbours when there are few of them, or when so few fit beside
# each other on the image that few will be kept: where the times of benchmarks/nms.py cross, clustered against sparse.
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
        labels: (N,) class, or any other group such as class x image; `max_detections` counts all together.

    Raises:
        ValueError: as `nms`, also for labels of another length or device, or not finite.
    """
    return _suppress(boxes, scores, labels, iou_threshold, score_threshold, max_detections, metric)


@cache
def _compiled() -> tuple[Any, Any, Any]:
    """The pages that load numba, half a second; not everyone who imports nms calls it."""
    from detseg.detect.nms import dense, nearby, order

    return order, dense, nearby


def _suppress(
    boxes: Array,
    scores: Array,
    labels: Array | None,
    iou_threshold: float,
    score_threshold: float | None,
    max_detections: int | None,
    metric: Metric,
) -> Array:
    """Both functions: check, choose by device, and give back what came in."""
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
        found: Any = keep_by_torchvision(
            given["boxes"],
            given["scores"],
            given.get("labels"),
            threshold,
            score_threshold=score_threshold,
            tracing=tracing,
        )
        return found if max_detections is None else found[: int(max_detections)]
    arrays = given if from_numpy else to_arrays(given)
    rule = Rule(np.float32(threshold), True if metric == "diou" else None)
    kept: Any = keep_on_cpu(
        arrays["boxes"], arrays["scores"], arrays.get("labels"), rule, score_threshold, max_detections
    )
    kept = kept if from_numpy else torch.from_numpy(kept).to(given["boxes"].device)
    return kept


def keep_on_cpu(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any] | None,
    rule: Rule,
    score_threshold: float | None,
    max_detections: int | None,
) -> Order:
    """Kept indices, best first, of boxes (N, 4), scores (N,) and maybe labels (N,), whose shapes are checked.

    Raises:
        ValueError: a number is not finite or a box is reversed.
    """
    ordering, *_ = _compiled()
    single = float32_boxes(boxes)
    order, survey = ordering.best_first(single, scores, labels, score_threshold)
    limit = len(order) if max_detections is None else min(int(max_detections), len(order))
    if limit == 0:
        return order[:0]
    if labels is None:
        return _keep_of_one(single, order, survey, rule, limit)
    grouped, starts = ordering.by_label(order, whole_labels(labels))
    survives = np.zeros(len(single), bool)
    survives[_keep_of_each(single, grouped, starts, survey, rule, limit)] = True
    return order[survives[order]][:limit]


def _keep_of_one(boxes: NDArray[np.float32], order: Order, survey: Any, rule: Rule, limit: int) -> Order:
    """Kept ones of `order`, best first, as if all were of one label."""
    _, dense, nearby = _compiled()
    if _few_are_kept(len(order), survey):
        return dense.suppress_densely(boxes, order, np.array([0, len(order)]), rule, limit, len(order))
    # The index does not go from the best box down. What is kept of the best boxes does not depend on the others,
    # so a limit that is far off is tried on a part.
    most = max(4 * limit, 1000)
    kept = nearby.suppress_nearby(boxes, order[:most], survey.canvas, rule)
    while len(kept) < limit and most < len(order):
        most *= 4
        kept = nearby.suppress_nearby(boxes, order[:most], survey.canvas, rule)
    return kept[:limit]


def _keep_of_each(
    boxes: NDArray[np.float32], order: Order, starts: NDArray[np.int64], survey: Any, rule: Rule, limit: int
) -> Order:
    """Kept ones of each group order[starts[g]:starts[g + 1]], group after group."""
    _, dense, _ = _compiled()
    sizes = np.diff(starts)
    largest = int(sizes.max())
    if _few_are_kept(largest, survey):
        return dense.suppress_densely(boxes, order, starts, rule, limit, largest)
    few = sizes <= _FEW_BOXES
    groups = (order[starts[g] : starts[g + 1]] for g in np.flatnonzero(~few))
    large = [_keep_of_one(boxes, group, survey, rule, limit) for group in groups]
    small, starts = order[np.repeat(few, sizes)], np.concatenate([[0], np.cumsum(sizes[few])])
    return np.concatenate([dense.suppress_densely(boxes, small, starts, rule, limit, _FEW_BOXES), *large])


def _few_are_kept(count: int, survey: Any) -> bool:
    """Whether the dense way is faster for so many boxes, or the only one that float32 allows."""
    _, _, nearby = _compiled()
    sound = survey.smallest >= nearby.SMALLEST_SOUND_AREA
    return count <= _FEW_BOXES or survey.beside <= _FEW_BESIDE or not sound
