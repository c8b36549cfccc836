"""Detections whose classes are the nodes of a tree: AP level by level, and what objects come out as.

At a level an object counts as its ancestor there, so a rose found as Rosaceae is right at the level of families.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import methodcaller
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from detseg.boxes import box_iou
from detseg.data.annotations import Annotations
from detseg.data.class_tree import SURE, ClassTree
from detseg.metrics.arrays import as_numpy, none_for_nan
from detseg.metrics.detection.average_precision import DetectionMetrics
from detseg.metrics.detection.evaluator import DetectionEvaluator
from detseg.metrics.detection.inputs import Detections
from detseg.metrics.figure import Figure, Metric

# What an object with a node as its label comes out as.
OUTCOMES = {
    "exact": "its own node",
    "above": "a node above its own",
    "below": "a node below its own",
    "wrong": "a node of another branch",
    "missed": "not found",
}
# An object comes out as the best detection that `detseg predict` shows on it.
_IOU, _SCORE = 0.5, 0.3
OUTCOME_NOTE = f"by the best detection with a score of {_SCORE:g} and an IoU of {_IOU:g}, at its deepest sure node"


class Outcomes(NamedTuple):
    """What objects come out as, counted by the node they are labelled with."""

    names: tuple[str, ...]  # (V,)
    counts: NDArray[np.int64]  # (V, 5), columns as `OUTCOMES`


@dataclass(frozen=True, eq=False, kw_only=True)
class TreeMetrics(DetectionMetrics):
    """Metrics at the leaves, as of any detector, and at each level.

    `per_class` has every node: leaves by what is detected as them, inner nodes as they count at their level.
    """

    truth: Annotations = field(repr=False)  # the objects as they count at the leaves
    levels: tuple[DetectionMetrics, ...] = field(repr=False)  # from the roots to the leaves
    outcomes: Outcomes = field(repr=False)

    def shown(self) -> list[Figure]:
        """The figures of any detector, then AP at each level."""
        return [*super().shown(), *level_figures(len(self.levels))]

    def at_level(self, level: int) -> float:
        """mAP@[.5:.95] at a level, counted from 1, the roots'."""
        return self.levels[level - 1].map

    def to_dict(self, *, curves: bool = False) -> dict[str, Any]:
        """See `DetectionMetrics`; with the figures of each level and the outcomes of each node with objects."""
        names, counts = self.outcomes
        outcomes = {
            name: dict(zip(OUTCOMES, row, strict=True))
            for name, row in zip(names, counts.tolist(), strict=True)
            if any(row)
        }
        levels = [{"level": i, "figures": level.figures()} for i, level in enumerate(self.levels, 1)]
        content: dict[str, Any] = none_for_nan({"levels": levels, "outcomes": outcomes})
        return super().to_dict(curves=curves) | content


def level_figures(levels: int) -> list[Figure]:
    """AP of each of so many levels of a tree, from the roots down."""
    meaning = "mAP@[.5:.95] of the nodes at this level of the tree; an ancestor counts as right"
    return [Figure(f"AP_level{i}", f"AP level {i}", meaning, methodcaller("at_level", i)) for i in range(1, levels + 1)]


def objects_at(data: Annotations, tree: ClassTree, level: int) -> Annotations:
    """The objects as they count at a level of the tree whose nodes are the categories.

    Of an object that is labelled above the level it is not known which node it is: it is ignored for all of them, as a
    crowd region of each.
    """
    cut = tree.cut(level)[data.labels]
    known = np.flatnonzero(cut >= 0)
    present = np.unique(cut[known])
    rows, labels = [known], [cut[known]]
    for label in np.unique(data.labels[cut < 0]).tolist():
        unsure = np.flatnonzero(data.labels == label)
        below = present[(tree.paths[present] == label).any(1)]
        rows.append(np.repeat(unsure, len(below)))
        labels.append(np.tile(below, len(unsure)))
    row, new = np.concatenate(rows), np.concatenate(labels)
    order = np.argsort(row, kind="stable")
    row, new, ignored = row[order], new[order], np.arange(len(row))[order] >= len(known)
    return replace(
        data,
        **data.take_objects(row)
        | {"labels": new.astype(np.int32), "iscrowd": data.iscrowd[row] | ignored, "ids": np.arange(1, len(row) + 1)},
    )


def at_level(found: Mapping[str, Any], level: int) -> dict[str, Any]:
    """The detections of one level among an image's of all levels, which have a `level`; without that key."""
    chosen = as_numpy(found["level"]) == level
    return {name: as_numpy(value)[chosen] for name, value in found.items() if name != "level"}


class TreeEvaluator(Metric):
    """Collects detections of all levels of a tree and evaluates each level by itself.

    Args:
        data: images and objects; their categories are the nodes.
        tree: of the nodes.
        options: as for `DetectionEvaluator`.
    """

    def __init__(self, data: Annotations, tree: ClassTree, **options: Any) -> None:
        self.tree, self.names = tree, data.names
        truths = [objects_at(data, tree, level) for level in range(1, tree.levels + 1)]
        self.levels = [DetectionEvaluator(truth, **options) for truth in truths]
        self._data, self._leaves = data, truths[-1]
        self._row = {number: row for row, number in enumerate(data.image_ids.tolist())}
        self._pairs: dict[int, NDArray[np.int64]] = {}  # by image: (n, 2) an object's node and what it came out as

    def update(self, predictions: Iterable[Mapping[str, Any]], targets: Any, image_ids: Any = None) -> None:
        """Add images: detections with a `level`, targets as of `DetectionEvaluator`, of which the ids alone count."""
        found = list(predictions)
        numbers = [int(number) for number in (targets if image_ids is None else image_ids)]
        for level, evaluator in enumerate(self.levels, 1):
            evaluator.update([at_level(one, level) for one in found], None, np.array(numbers, np.int64))
        for number, one in zip(numbers, found, strict=True):
            self._pairs[number] = self._outcome_of(number, at_level(one, SURE))

    def merge(self, other: Self) -> None:
        """Add the images of another evaluator."""
        for mine, theirs in zip(self.levels, other.levels, strict=True):
            mine.merge(theirs)
        self._pairs |= other._pairs

    def compute(self) -> TreeMetrics:
        """The metrics of all images."""
        levels = tuple(evaluator.compute() for evaluator in self.levels)
        # Leaves above the deepest level count at every level from theirs on; at the deepest all leaves do.
        level_of = np.where(self.tree.leaves, self.tree.levels, self.tree.depth).tolist()
        per_class = tuple(levels[level - 1].per_class[node] for node, level in enumerate(level_of))
        given = vars(levels[-1]) | {"per_class": per_class}
        return TreeMetrics(**given, truth=self._leaves, levels=levels, outcomes=self._outcomes())

    def _outcome_of(self, number: int, found: Mapping[str, Any]) -> NDArray[np.int64]:
        """(n, 2) the objects' nodes in an image, crowds left out, and the nodes they came out as, -1 of missed ones."""
        mine = self._data.objects(self._row[number])
        real = ~self._data.iscrowd[mine]
        boxes, labels = self._data.boxes[mine][real], self._data.labels[mine][real].astype(np.int64)
        clear = found["scores"] >= _SCORE
        if not len(labels) or not clear.any():
            return np.stack([labels, np.full_like(labels, -1)], 1)
        score = np.where(box_iou(boxes, found["boxes"][clear]) >= _IOU, found["scores"][clear], 0.0)
        best = np.where(score.max(1) > 0, found["labels"][clear][score.argmax(1)], -1)
        return np.stack([labels, best], 1)

    def _outcomes(self) -> Outcomes:
        pairs = np.concatenate([np.zeros((0, 2), np.int64), *self._pairs.values()])
        label, found = pairs.T
        paths = np.concatenate([self.tree.paths, np.full((1, self.tree.levels), -2)])  # the last row is of -1
        tests = [
            found < 0,
            found == label,
            (paths[label] == found[:, None]).any(1),
            (paths[found] == label[:, None]).any(1),
        ]
        kind = np.select(tests, [4, 0, 1, 2], 3)
        counts = np.zeros((len(self.names), len(OUTCOMES)), np.int64)
        np.add.at(counts, (label, kind), 1)
        return Outcomes(self.names, counts)


@dataclass(frozen=True, eq=False)
class TreeDetections(Detections):
    """The detections at the leaves of a tree, with the metrics at all levels."""

    metrics: TreeMetrics | None = None

    @classmethod
    def of(cls, predictions: Sequence[Mapping[str, Any]], data: Annotations, tree: ClassTree, **options: Any) -> Self:
        """From one prediction an image of `data`, each with all levels, as `TreeEvaluator` wants them."""
        evaluator = TreeEvaluator(data, tree, **options)
        evaluator.update(predictions, data.image_ids)
        leaves = [at_level(found, tree.levels) for found in predictions]
        ids = [category.id for category in data.categories]
        found = Detections.from_predictions(leaves, data.image_ids.tolist(), ids)
        return cls(**vars(found), metrics=evaluator.compute())
