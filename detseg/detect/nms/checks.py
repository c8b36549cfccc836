"""Checks of boxes, scores and labels, and their common form; for all kinds of non-max suppression."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)
Arrays = dict[str, NDArray[Any]]
Order = NDArray[np.int64]


class Rule(NamedTuple):
    """A box is dropped when its IoU with a kept one is strictly greater than the threshold."""

    threshold: np.float32
    distance: bool | None  # True subtracts DIoU's penalty for distant centres; None does not, and compiles to nothing


def check_kinds(given: Mapping[str, Any]) -> bool:
    """Raise ValueError unless kinds, shapes and devices agree; True for numpy, False for torch.

    Args:
        given: "boxes" (N, 4), "scores" (N,) and maybe "labels" (N,).
    """
    boxes = given["boxes"]
    from_numpy = isinstance(boxes, np.ndarray)
    kind: type = np.ndarray if from_numpy else Tensor
    if not all(isinstance(value, kind) for value in given.values()):
        kinds = _listed(given, lambda value: type(value).__name__)
        raise ValueError(f"all inputs must be torch or all numpy, got {kinds}")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (N, 4), got {tuple(boxes.shape)}")
    for name, value in given.items():
        if name != "boxes" and value.shape != boxes.shape[:1]:
            raise ValueError(f"{name} must have shape ({len(boxes)},), one for each box, got {tuple(value.shape)}")
    if not from_numpy and any(value.device != boxes.device for value in given.values()):
        raise ValueError(f"all inputs must be on one device, got {_listed(given, lambda value: value.device)}")
    return from_numpy


def _listed(given: Mapping[str, Any], look: Callable[[Any], object]) -> str:
    return ", ".join(f"{name}: {look(value)}" for name, value in given.items())


def check_threshold(iou_threshold: float, score_threshold: float | None) -> float:
    """Raise ValueError for thresholds out of range; returns the one of IoU rounded to float32.

    The IoU is a float32 number. Compared in float64, the float32 nearest to 0.1 is above 0.1, and a box
    exactly on the threshold would be dropped; compared in one precision it is kept, on every device.
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in [0, 1], got {iou_threshold}")
    if score_threshold is not None and score_threshold != score_threshold:
        raise ValueError("score_threshold must be a number, got NaN")
    return float(np.float32(iou_threshold))


def to_arrays(given: Mapping[str, Any]) -> Arrays:
    """The same as numpy arrays in the computer's memory; float types of 16 bits may become float32."""
    return {name: value if isinstance(value, np.ndarray) else _as_array(value) for name, value in given.items()}


def _as_array(value: Tensor) -> NDArray[Any]:
    # numpy has no bfloat16. `cpu` and `detach` cost as much as all of a small suppression, so only where needed.
    value = value.float() if value.dtype == torch.bfloat16 else value
    value = value.detach() if value.requires_grad else value
    return value.numpy() if value.device.type == "cpu" else value.cpu().numpy()


def like(given: Array, *results: NDArray[Any]) -> tuple[Array, ...]:
    """The results as what was given: tensors on its device, or the numpy arrays that they are."""
    if isinstance(given, Tensor):
        tensors = tuple(map(torch.from_numpy, results))
        return tensors if given.device.type == "cpu" else tuple(tensor.to(given.device) for tensor in tensors)
    return results


def numbers(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """The array as the compiled kernels want it: of this type, contiguous and writeable; copied only if need be."""
    if array.dtype == dtype and array.flags.carray:  # np.require takes ten times as long to find out
        return array
    return np.require(array, dtype, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE"))


def float32_boxes(boxes: NDArray[Any]) -> NDArray[np.float32]:
    """Boxes (N, 4) xyxy as the kernels want them, moved to the origin first where float32 would lose digits otherwise.

    Along an axis whose largest coordinate is more than twice the span of all, coordinates lie within a factor of two of
    each other. Float32 numbers have exact differences then (Sterbenz), so moving changes nothing for those, and keeps
    the digits of wider ones: maps have coordinates in the millions and boxes of a metre.
    """
    if boxes.dtype == np.float32 or len(boxes) == 0 or np.can_cast(boxes.dtype, np.float32):
        return numbers(boxes, np.float32)
    corners = boxes.astype(np.float64).reshape(-1, 2)
    with np.errstate(invalid="ignore", over="ignore"):
        low, high = corners.min(0), corners.max(0)
        far = np.maximum(-low, high) > 2 * (high - low)
        if far.any() and (boxes[:, 2:] >= boxes[:, :2]).all():  # others are to be named as they came
            boxes = (corners - np.where(far, low, 0)).reshape(-1, 4)
        return numbers(boxes, np.float32)


def whole_labels(labels: NDArray[Any] | None) -> NDArray[np.int64]:
    """Labels as int64 that are equal where the labels are; of length 0 without any."""
    if labels is None:
        return np.empty(0, np.int64)
    if labels.dtype.kind == "f":  # their bits tell them apart, once -0.0 is 0.0
        return (labels.astype(np.float64) + 0.0).view(np.int64)
    return numbers(labels, np.int64)


def name_bad_value(boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any] | None = None) -> str:
    """The message for the first bad box, score or label, of which there is one."""
    with np.errstate(invalid="ignore", over="ignore"):
        extents = boxes[:, 2:] - boxes[:, :2]
    findings = [
        ("boxes", boxes, ~np.isfinite(boxes).all(1), "is not finite"),
        ("boxes", boxes, (extents < 0).any(1), "is reversed: x1 <= x2 and y1 <= y2 are needed"),
        ("boxes", boxes, ~np.isfinite(extents).all(1), "is too large for float32"),
        ("scores", scores, ~np.isfinite(scores), "is not finite"),
    ]
    if labels is not None:
        findings.append(("labels", labels, ~np.isfinite(labels), "is not finite"))
    name, values, bad, what = next(finding for finding in findings if finding[2].any())
    index, count = int(bad.argmax()), int(bad.sum())
    more = f" ({count} such {name} in all)" if count > 1 else ""
    return f"{name}[{index}] = {values[index].tolist()} {what}{more}"


def checked_arrays(given: Mapping[str, Any]) -> Arrays:
    """`given` (see `check_kinds`) as arrays; raises ValueError also for bad numbers and negative scores."""
    check_kinds(given)
    arrays = to_arrays(given)
    boxes, scores, labels = arrays["boxes"], arrays["scores"], arrays.get("labels")
    with np.errstate(invalid="ignore", over="ignore"):
        boxes = numbers(boxes, np.float32)  # other types end sooner, and those without a sign turn round
        in_single = numbers(scores, np.float32)
        extents = boxes[:, 2:] - boxes[:, :2]
        fine = ((extents >= 0) & (extents < np.inf)).all()
    if not (fine and np.isfinite(in_single).all() and (labels is None or np.isfinite(labels).all())):
        raise ValueError(name_bad_value(boxes, in_single, labels))
    negative = scores < 0
    if negative.any():
        raise ValueError(f"scores[{int(negative.argmax())}] = {scores[negative][0]} is negative")
    return arrays
