"""What bootstraps of all tasks share: draws of images, and limits and differences told by them.

How the limits are laid and why stands in `detseg.metrics.bootstrap.detection`.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.detection.records import none_for_nan


@dataclass(frozen=True)
class Interval:
    """A figure and its limits, NaN where they cannot be told."""

    value: float  # of the images as they are
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much better b is than a."""

    a: float
    b: float
    difference: float  # b - a
    low: float
    high: float
    b_better: float  # share of the resamples in which b is better; equal ones count half


@dataclass(frozen=True)
class Comparison:
    """How two sets of predictions of the same images differ.

    A difference whose interval leaves out 0 is hardly due to the choice of images.
    """

    level: float
    resamples: int
    figures: dict[str, Difference]  # by name
    per_class: tuple[Difference, ...]  # (K,) of AP, or of IoU

    def to_dict(self) -> dict[str, Any]:
        """As plain Python, NaN as None."""
        content: dict[str, Any] = none_for_nan(asdict(self))
        return content


def check_options(resamples: int, level: float) -> None:
    """Stop at a number of resamples or a level that makes no sense."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.95, got {level}")


def draw(images: int, rows: range, seed: int) -> NDArray[np.int32]:
    """(len(rows), images) how often each image was drawn; row by row its own generator, whoever draws it."""
    weights = np.empty((len(rows), images), np.int32)
    for i, row in enumerate(rows):
        drawn = np.random.default_rng((seed, row)).integers(0, images, images)
        weights[i] = np.bincount(drawn, minlength=images)
    return weights


def interval_of(value: float, spread: NDArray[np.float64], level: float, can_tell: bool) -> Interval:
    """The value with its limits by the spread (R,), which stay within 0 and 1; NaN if it `can_tell` nothing."""
    low, high = _limits(value, spread, level, can_tell)
    return Interval(value, float(np.maximum(low, 0)), float(np.minimum(high, 1)))


def difference_of(a: float, b: float, gain: NDArray[np.float64], level: float, can_tell: bool) -> Difference:
    """How much better b is than a, by the gain (R,) in each resample."""
    known = gain[~np.isnan(gain)]
    better = float(np.mean((known > 0) + 0.5 * (known == 0))) if can_tell and len(known) else float("nan")
    return Difference(a, b, b - a, *_limits(b - a, gain, level, can_tell), better)


def mean_over_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R,) from (R, K), NaN left out, NaN where nothing is left."""
    there = ~np.isnan(values)
    count = there.sum(axis=1)
    return np.where(count, np.where(there, values, 0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _limits(value: float, spread: NDArray[np.float64], level: float, can_tell: bool) -> tuple[float, float]:
    """The percentiles of the spread (R,), moved so that its mean comes to lie on the value."""
    known = spread[~np.isnan(spread)]
    if not can_tell or not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) - known.mean() + value
    return float(low), float(high)
