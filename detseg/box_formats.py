"""Boxes without torch: the one conversion between formats, which does not load it by itself, and IoU."""

from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

BoxFormat = Literal["xyxy", "xywh", "cxcywh"]
Array = TypeVar("Array", "Tensor", np.ndarray)

# From a centre to corners by the half alone, not through the first corner: that rounds once less.
_FORMULAS: dict[tuple[BoxFormat, BoxFormat], Any] = {
    ("xyxy", "xywh"): lambda x1, y1, x2, y2: (x1, y1, x2 - x1, y2 - y1),
    ("xyxy", "cxcywh"): lambda x1, y1, x2, y2: (x1 + (x2 - x1) / 2, y1 + (y2 - y1) / 2, x2 - x1, y2 - y1),
    ("xywh", "xyxy"): lambda x, y, w, h: (x, y, x + w, y + h),
    ("xywh", "cxcywh"): lambda x, y, w, h: (x + w / 2, y + h / 2, w, h),
    ("cxcywh", "xyxy"): lambda x, y, w, h: (x - w / 2, y - h / 2, x + w / 2, y + h / 2),
    ("cxcywh", "xywh"): lambda x, y, w, h: (x - w / 2, y - h / 2, w, h),
}


def convert_boxes(boxes: Array, source: BoxFormat, target: BoxFormat) -> Array:
    """Boxes (..., 4) from one format to another: torch in, torch out; numpy in, numpy out.

    Formats: "xyxy" (two corners), "xywh" (corner x1, y1 and size), "cxcywh" (centre and size), else ValueError. A
    float dtype stays; integers become int64, or floats where a centre needs halves. Always returns new memory.
    """
    check_name("source", source, get_args(BoxFormat))
    check_name("target", target, get_args(BoxFormat))
    boxes = _without_wrapping(checked_boxes("boxes", boxes))
    columns = tuple(boxes[..., i] for i in range(4))
    if source != target:
        columns = _FORMULAS[source, target](*columns)
    if isinstance(boxes, np.ndarray):
        return np.stack(columns, axis=-1)
    import torch

    return torch.stack(columns, dim=-1)


def _without_wrapping(boxes: Array) -> Array:
    """Integers as int64: sums and differences of small types would wrap around."""
    if isinstance(boxes, np.ndarray):
        return boxes.astype(np.int64) if boxes.dtype.kind in "biu" else boxes
    return boxes if boxes.is_floating_point() else boxes.long()


def checked_boxes(name: str, boxes: Array) -> Array:
    """The boxes; raises ValueError unless their shape is (..., 4)."""
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"{name} must have shape (..., 4), got {tuple(boxes.shape)}")
    return boxes


def check_name(what: str, name: object, known: tuple[str, ...]) -> None:
    """Raise ValueError unless a name is among the known ones."""
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}: use one of {', '.join(known)}")


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU (N, M) of boxes (N, 4) and (M, 4) xyxy; 0 where neither has area; see `detseg.boxes.box_iou`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).clip(0).prod(-1) for box in (a, b))
    return shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-12)
