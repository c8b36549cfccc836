"""Small things about arrays that metrics of all tasks need."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_numpy(values: Any) -> Any:
    """A torch tensor on any device as numpy; anything else as an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # numpy has no bfloat16
        return values.float().numpy() if values.is_floating_point() and values.itemsize < 4 else values.numpy()
    return np.asarray(values)


def none_for_nan(value: Any) -> Any:
    """The same nested dicts and lists (tuples too) with None in place of NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: none_for_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [none_for_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def divide(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """NaN for a whole of 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def mean_over_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R,) from (R, K), NaN left out, NaN where nothing is left."""
    there = ~np.isnan(values)
    count = there.sum(axis=1)
    return np.where(count, np.where(there, values, 0).sum(axis=1) / np.maximum(count, 1), np.nan)


def most_confused(confusion: NDArray[np.int64], names: Sequence[str], most: int) -> list[tuple[str, str, int]]:
    """(true class, other class, count) of the largest counts of a confusion matrix (K, K) beside its diagonal."""
    between = confusion * (1 - np.eye(len(confusion), dtype=np.int64))
    order = np.argsort(-between, axis=None, kind="stable")[:most]
    rows, columns = (indices.tolist() for indices in np.unravel_index(order, between.shape))
    return [(names[i], names[j], int(between[i, j])) for i, j in zip(rows, columns, strict=True) if between[i, j]]
