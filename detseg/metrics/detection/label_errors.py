"""Labels that are probably wrong: where confident detections and the annotation contradict each other.

The kinds of errors and their scores from the detector's confidence follow ObjectLab (U. Tkachenko, A. Thyagarajan and
J. Mueller, "ObjectLab: Automated Diagnosis of Mislabeled Images in Object Detection Data", 2023); boxes without an
object are told apart from badly placed ones. A detector that was trained on the same labels has learnt some of their
errors: detections of images that it has not seen find more (out-of-fold, by cross-validation).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.box_formats import overlap
from detseg.data.annotations import Annotations
from detseg.data.checks.box_doubts import as_box
from detseg.data.checks.doubts import Doubt, Kind, ranked, sound_objects
from detseg.metrics.detection.confusion import best_thresholds
from detseg.metrics.detection.inputs import Found, read_found, read_truth
from detseg.metrics.detection.matching import Overlaps, find_overlaps, match

FOUND = 0.5  # IoU from which a detection is on an object
BADLY = (0.3, 0.6)  # IoU of a box that is on the object, but not well
NEAR = 0.2  # IoU; below, a detection says nothing about an object
KNOWN = 0.5  # share of a class's objects that are found; below, one that is not found is nothing unusual
WEAK = 0.05  # score; below, a detection says nothing at all

KINDS = {
    "missing": Kind(
        "objects that may lack a box",
        f"confident detections, IoU below {FOUND} with every annotated box; score: confidence x (1 - the highest IoU)",
    ),
    "wrong-class": Kind(
        "objects that may have the wrong class",
        f"confident detections of another class, IoU of {FOUND} or more; score: confidence less that of the own class",
    ),
    "badly-placed": Kind(
        "boxes that may be badly placed",
        f"confident detections of the class, the best of them with an IoU of {BADLY[0]} to {BADLY[1]}; score: "
        "confidence x (1 - IoU)",
    ),
    "spurious": Kind(
        "boxes that may hold no object",
        f"no detection of any class with a score of {WEAK} or more has an IoU of {NEAR} or more, of a class of which "
        "half or more is found; score: the share that is found",
    ),
}
"""Confident is a detection from the score on with which its class has the best F1."""


class _Pairs(NamedTuple):
    """P detections beside objects: positions in the detections and the objects, and what is known of each pair."""

    detection: NDArray[np.int64]
    object: NDArray[np.int64]
    iou: NDArray[np.float64]  # for crowd regions the share of the detection that lies in it
    crowd: NDArray[np.bool_]
    same: NDArray[np.bool_]  # class

    def where(self, chosen: NDArray[np.bool_]) -> "_Pairs":
        """Some of the pairs."""
        return _Pairs(
            self.detection[chosen], self.object[chosen], self.iou[chosen], self.crowd[chosen], self.same[chosen]
        )


def label_errors(data: Annotations, detections: Any) -> list[Doubt]:
    """What is probably wrong in an annotation by the detections of its images; the worst of each kind first.

    Crowd objects are not examined, nor detections in them. `image` and `object` of the doubts are positions in `data`.

    Args:
        data: objects with unsound boxes or classes are left out, for they are problems already.
        detections: as for `evaluate_detections`; down to scores of `WEAK`, or objects found weakly seem spurious.

    Raises:
        ValueError: ids of images or categories are not unique, or those of detections are unknown.
    """
    rows = np.flatnonzero(sound_objects(data) | (data.iscrowd & np.isfinite(data.boxes).all(1) & (data.labels >= 0)))
    truth = read_truth(replace(data, **data.take_objects(rows)), "bbox")
    found = read_found(detections, truth, "bbox")
    if not len(rows) or not len(found.scores):
        return []
    overlaps = find_overlaps(truth, found, "bbox", at_least=NEAR)
    return ranked(_Examination(data, rows, found, overlaps, _thresholds(truth, found)).doubts(), KINDS)


def _thresholds(truth: Any, found: Found) -> NDArray[np.float64]:
    """(K,) the score from which a detection of each class is confident: of classes without any, that of all."""
    best = best_thresholds(match(truth, found, "bbox", iou_thresholds=[FOUND]), FOUND)
    own = np.array([row.score for row in best.per_class], np.float64)
    return np.where(np.isnan(own), best.overall.score, own)


class _Examination:
    """One comparison of detections with the objects `rows` of an annotation."""

    def __init__(
        self,
        data: Annotations,
        rows: NDArray[np.int64],
        found: Found,
        overlaps: Overlaps,
        thresholds: NDArray[np.float64],
    ) -> None:
        o = overlaps
        self.data, self.rows, self.thresholds = data, rows, thresholds
        self.labels, self.scores, self.object_labels, self.crowd = o.labels, o.scores, o.object_labels, o.iscrowd
        xywh = found.boxes[o.source]
        self.boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
        position = {int(number): place for place, number in enumerate(data.image_ids.tolist())}
        self.images = np.array([position[number] for number in found.image_ids[o.source].tolist()], np.int64)
        self.confident = self.scores >= thresholds[self.labels]  # not where a threshold is NaN
        detection = np.repeat(np.arange(len(o.scores)), np.diff(o.start))
        objects = o.objects.astype(np.int64)
        same = self.labels[detection] == self.object_labels[objects]
        self.pairs = _Pairs(detection, objects, o.ious, self.crowd[objects], same)
        self.real = self.pairs.where(~self.pairs.crowd)

    def doubts(self) -> list[Doubt]:
        """All kinds; a detection that tells of a badly placed box or a wrong class tells of no missing one."""
        placed, used = self._badly_placed()
        swapped = list(self._wrong_class())
        return [*self._missing(used), *swapped, *placed, *self._spurious()]

    def _highest(self, pairs: _Pairs) -> NDArray[np.float64]:
        """(D,) the highest IoU of each detection among pairs, 0 for none."""
        highest = np.zeros(len(self.scores))
        np.maximum.at(highest, pairs.detection, pairs.iou)
        return highest

    def _missing(self, used: NDArray[np.bool_]) -> Iterator[Doubt]:
        near = self._highest(self.real)
        in_crowd = self._highest(self.pairs.where(self.pairs.crowd)) >= FOUND
        chosen = np.flatnonzero(self.confident & (near < FOUND) & ~in_crowd & ~used)  # an image's best first
        owners, starts = np.unique(self.images[chosen], return_index=True)
        for image, own in zip(owners.tolist(), np.split(chosen, starts[1:]), strict=False):
            ious = np.triu(overlap(self.boxes[own], self.boxes[own]) >= FOUND, 1)
            kept: list[int] = []
            for k in range(len(own)):  # of several on one place the first
                if not ious[kept, k].any():
                    kept.append(k)
            for d in own[kept].tolist():
                score = float(self.scores[d] * (1 - near[d]))
                place = ", ".join(f"{value:.0f}" for value in self.boxes[d])
                what = f"no box on what looks like {self._sure(d)}, at ({place})"
                yield Doubt("missing", what, score, image=image, boxes=(as_box(self.boxes[d]),))

    def _wrong_class(self) -> Iterator[Doubt]:
        on = self.real.where(self.real.iou >= FOUND)
        own = np.zeros(len(self.rows))
        same = on.where(on.same)
        np.maximum.at(own, same.object, self.scores[same.detection])
        elsewhere = self._highest(same) >= FOUND  # it is on an object of its class
        other = on.where(~on.same & self.confident[on.detection] & ~elsewhere[on.detection])
        for k in _best_of_each(other.object, self.scores[other.detection]).tolist():
            d, g = int(other.detection[k]), int(other.object[k])
            score = float(self.scores[d] - own[g])
            if score > 0:
                what = f"{self._name(g)}, but it looks like {self._sure(d)}; like {self._name(g)} {own[g]:.2f}"
                yield self._of_object("wrong-class", g, what, score, d)

    def _badly_placed(self) -> tuple[list[Doubt], NDArray[np.bool_]]:
        """The doubts, and (D,) the detections that they come from."""
        used = np.zeros(len(self.scores), bool)
        doubts = []
        pairs = self.real.where(self.real.same & self.confident[self.real.detection])
        for k in _best_of_each(pairs.object, pairs.iou).tolist():
            d, g, iou = int(pairs.detection[k]), int(pairs.object[k]), float(pairs.iou[k])
            if BADLY[0] <= iou <= BADLY[1] and iou >= self._best_same(d):
                used[d] = True
                what = f"the box of {self._name(g)} overlaps {self._sure(d)} by an IoU of {iou:.2f} only"
                doubts.append(self._of_object("badly-placed", g, what, float(self.scores[d] * (1 - iou)), d))
        return doubts, used

    def _best_same(self, d: int) -> float:
        """The highest IoU of a detection with an object of its class: where another is nearer, it is that one's."""
        start, stop = np.searchsorted(self.real.detection, [d, d + 1])
        own = self.real.iou[start:stop][self.real.same[start:stop]]
        return float(own.max(initial=0))

    def _spurious(self) -> Iterator[Doubt]:
        touched, found = np.zeros((2, len(self.rows)), bool)
        seen = self.real.where(self.scores[self.real.detection] >= WEAK)
        touched[seen.object] = True
        found[seen.object[seen.same & (seen.iou >= FOUND)]] = True
        for g in np.flatnonzero(~touched & ~self.crowd).tolist():
            of_class = (self.object_labels == self.object_labels[g]) & ~self.crowd
            share = float(found[of_class].mean())
            if share < KNOWN:
                continue
            what = f"nothing is found on the box of {self._name(g)}; {share:.0%} of its class are found"
            yield self._of_object("spurious", g, what, share, None)

    def _of_object(self, kind: str, g: int, what: str, score: float, d: int | None) -> Doubt:
        row = int(self.rows[g])
        boxes = () if d is None else (as_box(self.boxes[d]),)
        return Doubt(kind, what, score, image=int(self.data.image_index[row]), object=row, boxes=boxes)

    def _name(self, g: int) -> str:
        return self.data.names[self.object_labels[g]]

    def _sure(self, d: int) -> str:
        label = self.labels[d]
        return f"{self.data.names[label]} {self.scores[d]:.2f} (confident from {self.thresholds[label]:.2f})"


def _best_of_each(groups: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions of the highest value of each group, the first of equal ones."""
    order = np.lexsort((-values, groups))
    return order[np.unique(groups[order], return_index=True)[1]]
