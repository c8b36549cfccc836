"""Calibration: is a classifier right as often as its confidence promises (Guo et al. 2017, arXiv:1706.04599)?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15  # as in the paper


@dataclass(frozen=True, eq=False)
class Calibration:
    """Is a classifier that is 80 % sure right in 80 % of the cases? In B bins of equal width; NaN in empty ones."""

    edges: NDArray[np.float64]  # (B + 1,) a bin holds what is above its lower edge, up to and with its upper one
    counts: NDArray[np.int64]  # (B,)
    confidence: NDArray[np.float64]  # (B,) mean of the highest probability
    accuracy: NDArray[np.float64]  # (B,)

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap between the two, by the number of images."""
        there = self.counts > 0
        gaps = np.abs(self.accuracy - self.confidence)[there]
        return float(np.average(gaps, weights=self.counts[there]))


def calibrate(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS) -> Calibration:
    """Compare confidence (N,) in 0..1 with whether it was right (N,), in bins of equal width (Guo et al. 2017)."""
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bin_of, values, minlength=bins) / counts for values in (confidence, right)]
    return Calibration(edges, counts.astype(np.int64), means[0], means[1])
