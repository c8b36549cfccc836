"""Box arithmetic on tensors: formats, clipping and the IoU family.

Boxes are xyxy in absolute pixels and half-open: width = x2 - x1, without the "+ 1" of some older tools.
IoU, GIoU: Rezatofighi et al. 2019. DIoU, CIoU: Zheng et al. 2020.

Every IoU is computed in float32 at least: float16, bfloat16 and integer boxes are widened first, float64 stays.
"""

import math
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from detseg.box_formats import check_name as _check_name
from detseg.box_formats import checked_boxes as _checked
from detseg.box_formats import convert_boxes as convert_boxes

IoUKind = Literal["iou", "giou", "diou", "ciou"]
Array = TypeVar("Array", Tensor, np.ndarray)

# An area below this (square pixels) counts as zero and a ratio over it is 0. The thinnest float32 box with a corner
# at 1 or beyond has an area of 1.4e-14: only rounding dirt lies below. It also bounds the gradient of 1 / area.
_EMPTY = 1e-16
# The lowest height, and the lowest 1 - IoU, that CIoU divides by.
_CIOU_EPS = 1e-7


def box_iou(a: Array, b: Array, kind: IoUKind = "iou") -> Array:
    """IoU, GIoU, DIoU or CIoU (N, M) of every box of `a` (N, 4) with every box of `b` (M, 4), both xyxy.

    `b` may also be (N, M, 4): for each box of `a` others.

    Torch in, torch out, differentiable; numpy in, numpy out; ValueError for both at once, other shapes, another kind.
    Two boxes without area have IoU 0, not NaN; the others as in `paired_iou`.
    """
    return _pairwise({"a": a, "b": b}, lambda rows, columns: _iou_family(rows, columns, kind))


def crowd_iou(boxes: Array, regions: Array) -> Array:
    """Share (N, M) of each box's own area, of `boxes` (N, 4), that lies in each of `regions` (M, 4), both xyxy.

    What COCO takes for IoU where the ground truth is a crowd region (iscrowd=1). A box without area gives 0.
    Torch in, torch out, differentiable; numpy in, numpy out; ValueError for both at once, or other shapes.
    """
    return _pairwise({"boxes": boxes, "regions": regions}, _share)


def paired_iou(a: Tensor, b: Tensor, kind: IoUKind = "iou") -> Tensor:
    """IoU, GIoU, DIoU or CIoU (...) of `a[i]` with `b[i]`, both (..., 4) xyxy of the same shape.

    Gradients are finite for every finite box, also for zero width or height; CIoU's weight alpha carries no
    gradient, as in its paper. With x1 <= x2 and y1 <= y2: IoU lies in [0, 1], the others in [-1, 1] but for
    CIoU, which may fall to -1.5; all are 1 for equal boxes with area and iou >= diou >= ciou, iou >= giou.
    Raises ValueError for other shapes, or another kind.
    """
    if _checked("a", a).shape != _checked("b", b).shape:
        raise ValueError(f"paired_iou: a {tuple(a.shape)} and b {tuple(b.shape)} must have the same shape")
    # Coordinates first, (4, ...): rows are contiguous, so that each step is one fast kernel on x and y together.
    return _iou_family(_widen(a).movedim(-1, 0).contiguous(), _widen(b).movedim(-1, 0).contiguous(), kind)


def _pairwise(sides: dict[str, Array], measure: Callable[[Tensor, Tensor], Tensor]) -> Array:
    """`measure` of every pair of boxes of two named lists, which it gets as (4, N, 1) and (4, 1 or N, M)."""
    for name, boxes in sides.items():
        if _checked(name, boxes).ndim != 2 and not (name == "b" and boxes.ndim == 3):
            raise ValueError(f"{name} must have shape (N, 4), got {tuple(boxes.shape)}")
    from_numpy = {name: isinstance(boxes, np.ndarray) for name, boxes in sides.items()}
    if len(set(from_numpy.values())) > 1:
        kinds = (f"{name}: {'numpy' if numpy else 'torch'}" for name, numpy in from_numpy.items())
        raise ValueError(f"all boxes must be torch or all numpy, got {', '.join(kinds)}")
    rows, columns = (_widen(_as_tensor(boxes)).movedim(-1, 0).contiguous() for boxes in sides.values())
    result = measure(rows[:, :, None], columns if columns.ndim == 3 else columns[:, None])
    return result.numpy() if isinstance(boxes, np.ndarray) else result


def _share(a: Tensor, b: Tensor) -> Tensor:
    """`crowd_iou` (...) of boxes (4, ...)."""
    (a_low, a_high), (b_low, b_high) = a.split(2), b.split(2)
    width, height = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp_min(0).unbind(0)
    own_width, own_height = (a_high - a_low).unbind(0)
    return _ratio(width * height, own_width * own_height)


def _iou_family(a: Tensor, b: Tensor, kind: IoUKind) -> Tensor:
    """`paired_iou` (...) of boxes (4, ...) whose shapes broadcast."""
    _check_name("kind", kind, get_args(IoUKind))
    # split and unbind go back as one concatenation each.
    (a_low, a_high), (b_low, b_high) = a.split(2), b.split(2)
    a_size, b_size = a_high - a_low, b_high - b_low
    a_width, a_height = a_size.unbind(0)
    b_width, b_height = b_size.unbind(0)
    common = torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)  # negative where they are apart
    width, height = common.clamp_min(0).unbind(0)
    overlap = width * height
    union = a_width * a_height + b_width * b_height - overlap
    iou = _ratio(overlap, union)
    if kind == "iou":
        return iou
    # min + max = sum, so the enclosing box needs no second pair of minimum and maximum (slow backward).
    hull_width, hull_height = (a_size + b_size - common).unbind(0)
    if kind == "giou":
        hull = hull_width * hull_height
        return iou - _ratio(hull - union, hull)
    # Twice the distance of the centres; differences first, since they round less than sums of large numbers.
    dx, dy = ((a_low - b_low) + (a_high - b_high)).unbind(0)
    diou = iou - _ratio((dx * dx + dy * dy) / 4, hull_width * hull_width + hull_height * hull_height)
    if kind == "diou":
        return diou
    a_angle = torch.atan(a_width / a_height.clamp_min(_CIOU_EPS))
    b_angle = torch.atan(b_width / b_height.clamp_min(_CIOU_EPS))
    aspect = (4 / math.pi**2) * (a_angle - b_angle).square()
    with torch.no_grad():
        alpha = aspect / (1 - iou + aspect).clamp_min(_CIOU_EPS)
    return diou - alpha * aspect


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) xyxy cut to an image of (height, width) = `size`; those outside have no area, on the border."""
    height, width = size
    x1, y1, x2, y2 = _checked("boxes", boxes).unbind(-1)
    corners = (x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height))
    return torch.stack(corners, dim=-1)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 0 (with zero gradient) where the denominator counts as zero."""
    ratio = numerator / denominator.clamp_min(_EMPTY)
    return torch.where(denominator < _EMPTY, 0, ratio)


def _as_tensor(boxes: Array) -> Tensor:
    if isinstance(boxes, Tensor):
        return boxes
    # A copy: torch takes neither reversed views nor foreign byte orders, and warns of arrays that are read-only.
    return torch.from_numpy(np.array(boxes, boxes.dtype.newbyteorder("="), order="C"))


def _widen(boxes: Tensor) -> Tensor:
    return boxes if boxes.dtype == torch.float64 else boxes.float()
