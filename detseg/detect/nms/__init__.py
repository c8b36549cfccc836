"""Hard non-max suppression: of boxes that overlap much, keep the best scored one.

Greedy: boxes are visited from the highest score down; a visited box that is still there is kept and removes
every later box whose IoU with it is strictly greater than the threshold. Equal scores are visited by rising
index. IoU is computed in float64 for boxes of float64 or of integers that float32 does not hold, in float32 for all
others, and compared with the threshold in that precision; two boxes without area have IoU 0.

There are four ways to the same indices:

- `few` does a handful of boxes in one go.
- `on_cpu` checks and sorts more. Then, group by group, `dense` compares each kept box with all that are left, which is
  fastest where there are few boxes or few are kept; or `nearby` compares each box with those near it, found by a
  grid, which is fastest where many boxes are kept on a large canvas.
- On other devices, and where torch traces the call, `by_torchvision` uses torchvision's operator. It knows no DIoU, so
  those boxes are brought to the CPU.

`soft` lowers the scores of overlapping boxes, `fusion` averages them. All begin with `checks`.
"""

from functools import cache
from typing import Any, Literal

from detseg.detect.nms.checks import Array, check_count, check_kinds, check_thresholds, like, to_arrays
from detseg.tracing import is_traced

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

    Torch in (any device), torch out on the same device; numpy or lists in, numpy out.

    Args:
        boxes: (N, 4) xyxy, x1 <= x2 and y1 <= y2, any float or integer type; float64 keeps its digits.
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
    given = {"boxes": boxes, "scores": scores}
    return _suppress(given, iou_threshold, score_threshold, max_detections, metric)


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

    `labels` (N,) is the class, or any other group such as class x image; `max_detections` counts all together. The
    result is exactly the union of `nms` on each label, for any labels (negative, huge, with holes) and coordinates.
    (While torch.compile or torch.export trace the call, labels are moved apart by an offset in float64: IoU within
    1e-6 of the threshold may go either way.) Raises ValueError as `nms`, also for labels.
    """
    given = {"boxes": boxes, "scores": scores, "labels": labels}
    return _suppress(given, iou_threshold, score_threshold, max_detections, metric)


@cache
def _on_cpu() -> Any:
    """The page that loads numba, half a second; not everyone who imports nms calls it."""
    from detseg.detect.nms import on_cpu

    return on_cpu


def _suppress(
    given: dict[str, Any],
    iou_threshold: float,
    score_threshold: float | None,
    max_detections: int | None,
    metric: Metric,
) -> Any:
    """Both functions: check, choose by device, and give back what came in."""
    from_numpy = check_kinds(given)
    check_thresholds(iou_threshold, score_threshold)
    check_count(max_detections)
    if metric not in ("iou", "diou"):
        raise ValueError(f"metric must be 'iou' or 'diou', got {metric!r}")
    if not from_numpy:
        tracing = is_traced(given["boxes"])
        if tracing and metric == "diou":
            raise ValueError("metric='diou' cannot be traced; use 'iou' in models that are exported or compiled")
        if metric == "iou" and (tracing or given["boxes"].device.type != "cpu"):
            from detseg.detect.nms.by_torchvision import keep_by_torchvision  # here: torchvision takes seconds to load

            limits: dict[str, Any] = {"threshold": iou_threshold, "score_threshold": score_threshold}
            kept = keep_by_torchvision(**given, **limits, tracing=tracing)
            return kept if max_detections is None else kept[: int(max_detections)]
    arrays = given if from_numpy else to_arrays(given)
    penalty = True if metric == "diou" else None
    rule = {"iou_threshold": iou_threshold, "distance": penalty, "score_threshold": score_threshold}
    kept = _on_cpu().keep_on_cpu(**arrays, **rule, max_detections=max_detections)
    return like(given["boxes"], kept)[0]
