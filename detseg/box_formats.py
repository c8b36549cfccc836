"""The one conversion between box formats. Readers of files use it too, so it does not load torch by itself."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Literal, TypeVar, cast, get_args

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

BoxFormat = Literal["xyxy", "xywh", "cxcywh"]
Array = TypeVar("Array", "Tensor", np.ndarray)


def convert_boxes(boxes: Array, source: BoxFormat, target: BoxFormat) -> Array:
    """Boxes (..., 4) from one format to another: torch in, torch out; numpy in, numpy out.

    Formats: "xyxy" (two corners), "xywh" (corner x1, y1 and size), "cxcywh" (centre and size). A float dtype
    stays; integers become int64, or floats where a centre needs halves. Always returns new memory.

    Raises:
        ValueError: unknown format or last dimension not 4.
    """
    formats = get_args(BoxFormat)
    for name, value in (("source", source), ("target", target)):
        if value not in formats:
            raise ValueError(unknown_name(name, value, formats))
    boxes = _without_wrapping(checked_boxes("boxes", boxes))
    if source == target:
        return boxes.copy() if isinstance(boxes, np.ndarray) else boxes.clone()
    first, second, third, fourth = (boxes[..., i] for i in range(4))
    # Everything passes through (x1, y1, width, height).
    if source == "xyxy":
        x1, y1, width, height = first, second, third - first, fourth - second
    elif source == "xywh":
        x1, y1, width, height = first, second, third, fourth
    else:
        x1, y1, width, height = first - third / 2, second - fourth / 2, third, fourth
    if target == "xyxy":
        # From a corner pair or a corner and a size only; from a centre, add the half to the centre: it rounds
        # once less.
        if source == "cxcywh":
            columns = (x1, y1, first + third / 2, second + fourth / 2)
        else:
            columns = (x1, y1, x1 + width, y1 + height)
    elif target == "xywh":
        columns = (x1, y1, width, height)
    else:
        columns = (x1 + width / 2, y1 + height / 2, width, height)
    if isinstance(boxes, np.ndarray):
        return np.stack(columns, axis=-1)
    import torch

    return torch.stack(cast("tuple[Tensor, ...]", columns), dim=-1)


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


def unknown_name(name: str, value: object, known: tuple[str, ...]) -> str:
    """The message for a `value` of the argument `name` that is not among the `known` ones."""
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {name} {value!r}: use one of {', '.join(known)}{hint}"
