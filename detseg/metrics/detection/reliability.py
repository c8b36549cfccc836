"""Reliability: how often detections of a score are right, against the score (Guo et al. 2017, arXiv:1706.04599).

For detectors, a detection is right where it is matched with an object of its class at IoU 0.5 (Küppers et al. 2020,
arXiv:2004.13546).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.arrays import none_for_nan
from detseg.metrics.detection.loops import HIT, IGNORED
from detseg.metrics.detection.matching import Matches
from detseg.metrics.figure import Figure

BINS, IOU = 10, 0.5
LEAST = 0.1  # there are any number of detections with lower scores, and nearly all of them are false


@dataclass(frozen=True, eq=False)
class Reliability:
    """Detections in B bins of equal width from `LEAST` to 1; NaN in bins without any."""

    edges: NDArray[np.float64]  # (B + 1,)
    counts: NDArray[np.int64]  # (B,)
    scores: NDArray[np.float64]  # (B,) mean score
    right: NDArray[np.float64]  # (B,) share that is right

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of score and share, weighted by the bins' counts."""
        filled = self.counts > 0
        if not filled.any():
            return math.nan
        return float(np.average(np.abs(self.scores - self.right)[filled], weights=self.counts[filled]))

    def to_dict(self) -> dict[str, Any]:
        """Plain Python for `json.dump`, NaN as None."""
        columns = {name: getattr(self, name).tolist() for name in ("edges", "counts", "scores", "right")}
        content: dict[str, Any] = none_for_nan({"error": self.error, **columns})
        return content


def outcomes(matches: Matches) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores (D,) of the detections that count, and whether each is right; none where IoU 0.5 was not measured."""
    at = np.flatnonzero(np.isclose(matches.iou_thresholds, IOU, rtol=0, atol=1e-9))[:1]
    status = matches.status[0, at].reshape(-1)
    counts = np.flatnonzero(status != IGNORED)
    return matches.scores[counts], status[counts] == HIT


def reliability(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Reliability:
    """Of detections with scores (D,), right or not (D,)."""
    first = round(LEAST * BINS)
    edges = np.arange(first, BINS + 1) / BINS
    places = np.minimum(np.searchsorted(edges, scores, side="right") - 1, len(edges) - 2)
    kept = places >= 0
    counts, *sums = (
        np.bincount(places[kept], values, minlength=len(edges) - 1) for values in (None, scores[kept], right[kept])
    )
    with np.errstate(invalid="ignore"):
        means = [values / counts for values in sums]
    return Reliability(edges, counts, *means)


def _error(metrics: Any) -> float:
    """Where there are no objects nothing can be right, whatever its score."""
    return reliability(*outcomes(metrics.matches)).error if metrics.objects else math.nan


ECE = Figure(
    "ECE",
    "calibration error",
    "mean distance of score and share of right detections, scores 0.1 and above",
    _error,
)
