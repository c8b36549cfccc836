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
_NOT_OF_NUMPY = {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}


class Rule(NamedTuple):
    """A box is dropped when its IoU with a kept one is strictly greater than the threshold."""

    threshold: np.floating[Any]  # of the boxes' type
    distance: bool | None  # True subtracts DIoU's penalty for distant centres; None does not, and compiles to nothing


def check_kinds(given: dict[str, Any]) -> bool:
    """Raise ValueError unless kinds, shapes and devices agree; True for numpy, False for torch.

    Args:
        given: "boxes" (N, 4), "scores" (N,) and maybe "labels" (N,); lists among them become numpy arrays.
    """
    boxes = given["boxes"]
    if not isinstance(boxes, Tensor) and all(isinstance(value, list | tuple | np.ndarray) for value in given.values()):
        given.update({name: _from_list(name, value) for name, value in given.items()})
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
        if value.dtype.kind not in "fiub" if from_numpy else value.dtype.is_complex:
            raise ValueError(f"{name} must be numbers, got {value.dtype}")
    if not from_numpy and any(value.device != boxes.device for value in given.values()):
        raise ValueError(f"all inputs must be on one device, got {_listed(given, lambda value: value.device)}")
    return from_numpy


def _from_list(name: str, value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    try:
        return np.asarray(value).reshape((0, 4) if name == "boxes" and len(value) == 0 else np.shape(value))
    except ValueError as error:
        raise ValueError(f"{name} must be rows of the same length: {error}") from error


def _listed(given: Mapping[str, Any], look: Callable[[Any], object]) -> str:
    return ", ".join(f"{name}: {look(value)}" for name, value in given.items())


def check_thresholds(iou_threshold: float, score_threshold: float | None) -> None:
    """Raise ValueError for thresholds that are no numbers or out of range."""
    if not (is_number(iou_threshold) and 0 <= iou_threshold <= 1):
        raise ValueError(f"iou_threshold must be in [0, 1], got {iou_threshold!r}")
    if score_threshold is not None and not is_number(score_threshold):
        raise ValueError(f"score_threshold must be a number, got {score_threshold!r}")


def check_count(max_detections: int | None) -> None:
    """Raise ValueError unless this is a number of boxes, or None."""
    if max_detections is None or (is_number(max_detections) and max_detections >= 0 and max_detections % 1 == 0):
        return
    raise ValueError(f"max_detections must be a whole number, 0 or more, got {max_detections!r}")


def is_number(value: Any) -> bool:
    """Whether this is one number, of Python, numpy or torch, and not NaN."""
    if type(value) is float or type(value) is int:  # as nearly always: small calls notice
        return value == value
    try:
        return not isinstance(value, str | bytes) and bool(float(value) == float(value))
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


def to_arrays(given: Mapping[str, Any]) -> Arrays:
    """The same as numpy arrays in the computer's memory; float types of 16 bits may become float32."""
    return {name: value if isinstance(value, np.ndarray) else _as_array(value) for name, value in given.items()}


def _as_array(value: Tensor) -> NDArray[Any]:
    # `cpu` and `detach` cost as much as all of a small suppression, so only where needed.
    value = value.float() if value.dtype in _NOT_OF_NUMPY else value
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


def in_floats(values: NDArray[Any]) -> NDArray[Any]:
    """The numbers as the kernels want them: float32, or float64 where their type has more digits than float32 holds.

    Maps have coordinates in the millions and boxes of a metre: in float32, those are no boxes any more.
    """
    single = values.dtype == np.float32 or np.can_cast(values.dtype, np.float32)
    return numbers(values, np.float32 if single else np.float64)


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
        ("boxes", boxes, ~np.isfinite(extents).all(1), "is too large"),
        ("scores", scores, ~np.isfinite(scores), "is not finite"),
    ]
    if labels is not None:
        findings.append(("labels", labels, ~np.isfinite(labels), "is not finite"))
    name, values, bad, what = next(finding for finding in findings if finding[2].any())
    index, count = int(bad.argmax()), int(bad.sum())
    more = f" ({count} such {name} in all)" if count > 1 else ""
    return f"{name}[{index}] = {values[index].tolist()} {what}{more}"


def checked_arrays(given: dict[str, Any]) -> Arrays:
    """`given` (see `check_kinds`) as arrays, boxes and scores `in_floats`; ValueError also for numbers that are bad.

    Negative scores are.
    """
    check_kinds(given)
    arrays = to_arrays(given)
    boxes, scores, labels = arrays["boxes"], arrays["scores"], arrays.get("labels")
    boxes, scores = in_floats(boxes), in_floats(scores)  # other types end sooner, and those without a sign turn round
    with np.errstate(invalid="ignore", over="ignore"):
        extents = boxes[:, 2:] - boxes[:, :2]
        fine = ((extents >= 0) & (extents < np.inf)).all()
    if not (fine and np.isfinite(scores).all() and (labels is None or np.isfinite(labels).all())):
        raise ValueError(name_bad_value(boxes, scores, labels))
    negative = scores < 0
    if negative.any():
        raise ValueError(f"scores[{int(negative.argmax())}] = {scores[negative][0]} is negative")
    return arrays | {"boxes": boxes, "scores": scores}
