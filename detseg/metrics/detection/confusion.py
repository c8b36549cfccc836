"""The confusion matrix of detections, and the score thresholds with the best F1."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.kernels import compiled
from detseg.metrics.arrays import most_confused, none_for_nan
from detseg.metrics.detection.inputs import IoUType, read_found, read_truth
from detseg.metrics.detection.loops import IGNORED
from detseg.metrics.detection.matching import Matches, Overlaps, find_overlaps


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often objects of one class were detected as another.

    `counts[i, j]` objects of class i were detected as class j. The last row counts detections where there is no
    object, the last column objects that were not detected.
    """

    counts: NDArray[np.int64]  # (K + 1, K + 1)
    names: tuple[str, ...]  # (K,)
    score_threshold: float
    iou_threshold: float

    def most_frequent(self, most: int = 10) -> list[tuple[str, str, int]]:
        """(true class, detected class, count) of the commonest mix-ups of two classes, the commonest first."""
        return most_confused(self.counts[:-1, :-1], self.names, most)

    def to_dict(self) -> dict[str, Any]:
        """As plain Python; rows are the true classes, columns the detected ones."""
        thresholds = {"score_threshold": self.score_threshold, "iou_threshold": self.iou_threshold}
        return thresholds | {"classes": [*self.names, "background"], "counts": self.counts.tolist()}


@dataclass(frozen=True)
class BestThreshold:
    """The score with the best F1: keep detections from this score on."""

    score: float  # NaN where nothing is found at all
    precision: float
    recall: float
    f1: float  # harmonic mean of the two; all are NaN for a class without objects


@dataclass(frozen=True)
class BestThresholds:
    """The best score for each class, and the best one for all classes together."""

    overall: BestThreshold
    per_class: tuple[BestThreshold, ...]  # (K,)
    iou_threshold: float

    def to_dict(self) -> dict[str, Any]:
        """As plain Python, NaN as None."""
        return none_for_nan(asdict(self))


def confusion_matrix(
    ground_truth: Any,
    detections: Any,
    iou_type: IoUType = "bbox",
    *,
    score_threshold: float,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
) -> Confusion:
    """Match detections with objects whatever their classes, and count which class was detected as which.

    In each image the pair with the highest IoU is matched first, then the next of those still free; of equal
    ones the better scored detection. Detections that match nothing but lie in a crowd region of their class are
    not counted, nor are crowd regions.

    Args:
        ground_truth, detections, iou_type: as in `evaluate_detections`.
        score_threshold: detections below are left out. A low one fills the last row with weak detections.
        iou_threshold: pairs below are not matched; in (0, 1].
        max_detections: the best so many of each image and class take part.
    """
    truth = read_truth(ground_truth, iou_type)
    found = read_found(detections, truth, iou_type)
    overlaps = find_overlaps(truth, found, iou_type, at_least=iou_threshold, max_detections=max_detections)
    return confusion_of(overlaps, truth.names, score_threshold=score_threshold, iou_threshold=iou_threshold)


def confusion_of(
    overlaps: Overlaps, names: tuple[str, ...], *, score_threshold: float, iou_threshold: float = 0.5
) -> Confusion:
    """The same from overlaps that were found with `at_least` up to `iou_threshold`."""
    o, classes = overlaps, overlaps.classes
    detection = np.repeat(np.arange(len(o.scores)), np.diff(o.start))  # of each pair
    counted = o.scores >= score_threshold
    near = counted[detection] & (o.ious >= min(iou_threshold, 1 - 1e-10))
    crowd = o.iscrowd[o.objects]
    pairs = np.flatnonzero(near & ~crowd)
    pairs = pairs[np.argsort(-o.ious[pairs], kind="stable")]
    partner = np.full(len(o.scores), -1, np.int64)  # the object of each detection
    _match_greedily(detection[pairs], o.objects[pairs], partner, np.zeros(len(o.iscrowd), bool))

    in_crowd = np.zeros(len(o.scores), dtype=bool)
    in_crowd[detection[near & crowd & (o.object_labels[o.objects] == o.labels[detection])]] = True
    matched = partner >= 0
    lone = counted & ~matched & ~in_crowd
    unfound = ~o.iscrowd
    unfound[partner[matched]] = False
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    np.add.at(counts, (o.object_labels[partner[matched]], o.labels[matched]), 1)
    counts[-1, :-1] = np.bincount(o.labels[lone], minlength=classes)
    counts[:-1, -1] = np.bincount(o.object_labels[unfound], minlength=classes)
    return Confusion(counts, names, score_threshold, iou_threshold)


@compiled
def _match_greedily(detection: NDArray[Any], objects: NDArray[Any], partner: NDArray[Any], taken: NDArray[Any]) -> None:
    """Write to `partner` the object of each detection: pairs (P,) go in their order while both sides are free."""
    for pair in range(len(detection)):
        if partner[detection[pair]] < 0 and not taken[objects[pair]]:
            partner[detection[pair]] = objects[pair]
            taken[objects[pair]] = True


# ------------------------------------------------------------------ best thresholds


def best_thresholds(matches: Matches, iou_threshold: float = 0.5) -> BestThresholds:
    """The score threshold of each class with the best F1.

    Of several equally good scores the highest is given. Matching goes by falling score, so the detections above a
    score are matched as if those below had never been there. Raises ValueError without matches at this IoU threshold.
    """
    at = np.flatnonzero(np.isclose(matches.iou_thresholds, iou_threshold))
    if not len(at):
        raise ValueError(f"no matches at IoU {iou_threshold}; there are {matches.iou_thresholds.tolist()}")
    status, objects = matches.status[0, at[0]], matches.object_counts()[0]
    of_class = [np.split(values, matches.label_start[1:-1]) for values in (matches.scores, status)]
    per_class = tuple(_best_threshold(*row) for row in zip(*of_class, objects.tolist(), strict=True))
    order = np.argsort(-matches.scores, kind="stable")
    overall = _best_threshold(matches.scores[order], status[order], int(objects.sum()))
    return BestThresholds(overall, per_class, iou_threshold)


def _best_threshold(scores: NDArray[np.float64], status: NDArray[np.int8], objects: int) -> BestThreshold:
    """The best cut through detections (D,) sorted by falling score; equal scores stay together."""
    nan = float("nan")
    if objects == 0:
        return BestThreshold(nan, nan, nan, nan)
    counted = status != IGNORED
    scores, hits = scores[counted], np.cumsum(status[counted])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], np.ones(min(1, len(scores)), dtype=bool)))
    if not len(last) or hits[-1] == 0:
        return BestThreshold(nan, nan, 0.0, 0.0)
    f1 = 2 * hits[last] / (last + 1 + objects)
    best = int(f1.argmax())
    cut = last[best]
    return BestThreshold(float(scores[cut]), float(hits[cut] / (cut + 1)), float(hits[cut] / objects), float(f1[best]))
