"""Error analysis: the kinds of errors and what each costs, after TIDE (Bolya et al. 2020, arXiv:2008.08115).

Each false detection and each object not found has one kind of error. Its cost is the gain in AP at IoU 0.5 when
all errors of this kind, and no others, are corrected. The gains do not add up to the whole distance to 1.

With t_f = 0.5 and t_b = 0.1, and the first line that holds for a false detection deciding:

| error | the detection | corrected by |
|---|---|---|
| localisation | IoU with an object of its class in [t_b, t_f) | setting its box right |
| classification | IoU with an object of another class from t_f on | setting its class right |
| duplicate | IoU with an object of its class from t_f on, which a better one has found | leaving it out |
| background | IoU below t_b with every object | leaving it out |
| both | IoU in [t_b, t_f) with an object of another class | leaving it out |

"missed" are objects not found that no localisation or classification error would find when corrected; they are
taken from the count of objects. Setting a box or class right makes a detection find its object, if that has not
been found and no better scored detection with this error has the same object; else the detection is left out.
Crowd regions and the limit of detections are COCO's: a detection in a crowd region of its class is ignored.

The authors' own program (tidecv 1.0.1) differs in these ways:
- Detections with a localisation error and with a classification error compete for an object, though only one of the
  errors is corrected; the gains of these two are a little lower there.
- A detection ignored for a crowd region is none of the false ones, yet it is counted as an error, and the object it
  would be meant for is then not missed.
- Its levels of recall are k / 100, pycocotools' `numpy.linspace(0, 1, 101)`, of which ten are one rounding higher; so
  a recall of exactly 0.35 reaches the level there and not here.
- A class without objects in which something is found counts as AP 0; here, as in COCO, it does not count. A class left
  without objects and detections by correcting an error leaves its mean; here it counts as 1.
- Its limit of detections is for an image, not for each class of an image, and gains below 0 are set to 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.kernels import compiled
from detseg.metrics.arrays import none_for_nan
from detseg.metrics.detection.average_precision import RECALL_LEVELS
from detseg.metrics.detection.inputs import IoUType, read_found, read_truth
from detseg.metrics.detection.matching import Overlaps, find_overlaps

# The kinds of a detection's error are their positions here; "missed" is of objects only.
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)
# A detection without an error has found an object. One that is ignored lies in a crowd region, or beyond the
# greatest number of detections.
CORRECT, IGNORED = -1, -2


@dataclass(frozen=True)
class ErrorCost:
    """How often an error happens, and the AP that correcting it alone would add."""

    gain: float  # NaN where the ground truth has no objects
    count: int


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """The cost of each kind of error."""

    ap: float  # at IoU `foreground`, as it is
    foreground: float  # t_f
    background: float  # t_b
    errors: dict[str, ErrorCost]  # by KINDS
    false_positives: ErrorCost  # every false detection left out
    false_negatives: ErrorCost  # every object not found taken from the count
    kinds: NDArray[np.int8]  # (D,) of each detection in the order given: position in KINDS, CORRECT or IGNORED
    missed: NDArray[np.int64]  # positions of the missed objects among those of the ground truth

    def to_dict(self) -> dict[str, Any]:
        """As plain Python, NaN as None, without the two lists."""
        costs = self.errors | {"false_positives": self.false_positives, "false_negatives": self.false_negatives}
        content = {name: getattr(self, name) for name in ("ap", "foreground", "background")}
        return none_for_nan(content | {"errors": {name: vars(cost) for name, cost in costs.items()}})


def analyse_errors(
    ground_truth: Any,
    detections: Any,
    iou_type: IoUType = "bbox",
    *,
    foreground: float = 0.5,
    background: float = 0.1,
    max_detections: int = 100,
) -> ErrorAnalysis:
    """The cost of each kind of error.

    Ground truth and detections are as in `evaluate_detections`, `foreground` and `background` t_f and t_b. The best
    `max_detections` of each image and class count, as in COCO. Raises ValueError unless t_b lies in (0, t_f), t_f in
    (t_b, 1].
    """
    if not 0 < background < foreground <= 1:
        raise ValueError(
            f"0 < background < foreground <= 1 must hold, got background {background}, foreground {foreground}"
        )
    truth = read_truth(ground_truth, iou_type)
    found = read_found(detections, truth, iou_type)
    overlaps = find_overlaps(truth, found, iou_type, at_least=background, max_detections=max_detections)
    return errors_of(overlaps, len(found.scores), foreground=foreground, background=background)


def errors_of(
    overlaps: Overlaps, detections: int, *, foreground: float = 0.5, background: float = 0.1
) -> ErrorAnalysis:
    """The same from overlaps that were found with `at_least` up to `background`, of so many detections in all."""
    o = overlaps
    least = min(foreground, 1 - 1e-10)  # as pycocotools has it
    pairs = (o.labels, o.start, o.objects, o.ious, o.object_labels, o.iscrowd)
    kind, target, finder = _find_errors(pairs, least, background)

    real = ~o.iscrowd
    unfound = real & (finder < 0)
    covered = np.zeros(len(real), dtype=bool)
    covered[target[(kind == CLASSIFICATION) | (kind == LOCALISATION)]] = True
    missed = unfound & ~covered
    scene = _Scene(o, kind, np.bincount(o.object_labels[real], minlength=o.classes))
    ap = scene.without()
    gains = {name: scene.without(number) - ap for number, name in enumerate(KINDS[:MISSED])}
    for number in (CLASSIFICATION, LOCALISATION):
        gains[KINDS[number]] = scene.corrected(number, target, unfound) - ap
    gains["missed"] = scene.fewer(missed) - ap
    counts = {name: int((kind == number).sum()) for number, name in enumerate(KINDS)} | {"missed": int(missed.sum())}
    kinds = np.full(detections, IGNORED, np.int8)
    kinds[o.source] = kind
    return ErrorAnalysis(
        ap=ap,
        foreground=foreground,
        background=background,
        errors={name: ErrorCost(gains[name], counts[name]) for name in KINDS},
        false_positives=ErrorCost(scene.without(*range(MISSED)) - ap, int((kind >= 0).sum())),
        false_negatives=ErrorCost(scene.fewer(unfound) - ap, int(unfound.sum())),
        kinds=kinds,
        missed=np.flatnonzero(missed),
    )


@compiled
def _find_errors(pairs: Any, least: float, background: float) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The kind of each detection's error, or CORRECT or IGNORED; the object it was meant for; each object's finder.

    COCO's matching: a detection takes the object of its class with the highest IoU among those that no better scored
    one has taken; of equal ones the later. One that finds none but lies in a crowd region of its class is ignored.
    """
    labels, start, objects, ious, object_labels, crowd = pairs
    kind = np.full(len(labels), BACKGROUND, np.int8)
    target = np.full(len(labels), -1, np.int64)
    finder = np.full(len(object_labels), -1, np.int64)
    for d in range(len(labels)):
        best, highest, in_crowd = -1, least, False
        own, other = -1, -1
        own_iou, other_iou = 0.0, 0.0
        for pair in range(start[d], start[d + 1]):
            m, iou = objects[pair], ious[pair]
            if object_labels[m] != labels[d]:
                if iou > other_iou and not crowd[m]:
                    other, other_iou = m, iou
            elif crowd[m]:
                in_crowd = in_crowd or iou >= least
            else:
                if iou >= highest and finder[m] < 0:
                    best, highest = m, iou
                if iou > own_iou:
                    own, own_iou = m, iou
        if best >= 0:
            kind[d] = CORRECT
            finder[best] = d
        elif in_crowd:
            kind[d] = IGNORED
        elif background <= own_iou < least:
            kind[d] = LOCALISATION
            target[d] = own
        elif other_iou >= least:
            kind[d] = CLASSIFICATION
            target[d] = other
        elif own_iou >= least:
            kind[d] = DUPLICATE
        elif other_iou >= background:
            kind[d] = BOTH
    return kind, target, finder


class _Scene:
    """The detections that count, best first, and what their AP would be if some of them were other than they are."""

    def __init__(self, overlaps: Overlaps, kind: NDArray[np.int8], objects: NDArray[np.int64]) -> None:
        order = np.argsort(-overlaps.scores, kind="stable")
        self._order = order[kind[order] != IGNORED]
        self._labels = overlaps.labels[self._order]
        self._kind = kind[self._order]
        self._object_labels = overlaps.object_labels
        self._objects = objects  # (K,)

    def without(self, *kinds: int) -> float:
        """The AP when the detections with these errors are left out."""
        kept = ~np.isin(self._kind, kinds)
        return self._mean(self._labels[kept], self._kind[kept] == CORRECT, self._objects)

    def corrected(self, kind: int, target: NDArray[np.int64], unfound: NDArray[np.bool_]) -> float:
        """The AP when the detections with this error find their targets, the best of each unfound one."""
        mine = np.flatnonzero(self._kind == kind)
        aims = target[self._order[mine]]
        mine, aims = mine[unfound[aims]], aims[unfound[aims]]
        aims, best = np.unique(aims, return_index=True)  # of several the first, which has the best score
        mine = mine[best]
        labels, hits, kept = self._labels.copy(), self._kind == CORRECT, self._kind != kind
        labels[mine], hits[mine], kept[mine] = self._object_labels[aims], True, True
        return self._mean(labels[kept], hits[kept], self._objects)

    def fewer(self, gone: NDArray[np.bool_]) -> float:
        """The AP when these objects (M,) do not count."""
        left = self._objects - np.bincount(self._object_labels[gone], minlength=len(self._objects))
        return self._mean(self._labels, self._kind == CORRECT, left)

    def _mean(self, labels: NDArray[np.int64], hits: NDArray[np.bool_], objects: NDArray[np.int64]) -> float:
        """Mean AP over the classes that have objects in the ground truth; detections best first."""
        by_label = np.argsort(labels, kind="stable")
        of_class = np.split(hits[by_label], np.searchsorted(labels[by_label], np.arange(1, len(objects))))
        aps = [_average_precision(of_class[k], int(objects[k])) for k in np.flatnonzero(self._objects)]
        return float(np.mean(aps)) if aps else float("nan")


def _average_precision(hits: NDArray[np.bool_], objects: int) -> float:
    """COCO's AP of one class at one IoU threshold; `hits` (D,) best first.

    A class with nothing (left) to find is perfect when nothing is falsely found in it, else it counts 0.
    """
    if objects == 0:
        return float(len(hits) == 0)
    at = np.flatnonzero(hits)
    found = np.arange(1, len(at) + 1)
    precision = np.maximum.accumulate((found / (at + 1))[::-1])[::-1]
    first = np.searchsorted(found / objects, RECALL_LEVELS, side="left")
    return float(precision[first[first < len(at)]].sum() / len(RECALL_LEVELS))
