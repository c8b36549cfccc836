"""Non-max suppression of numpy arrays: brings them to the compiled kernels and chooses between these."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.detect.nms.checks import name_bad_value, numbers, whole_labels

# Comparing all boxes is faster than looking for neighbours when there are few of them, or when so few fit beside
# each other on the image that few will be kept (benchmarks/nms.py).
_FEW_BOXES, _FEW_BESIDE = 500, 400

Order = NDArray[np.int64]


@cache
def _kernels() -> tuple[Any, Any]:
    """The compiled modules. Numba takes half a second to load, and not everyone who imports nms calls it."""
    from detseg.detect.nms import dense, nearby

    return dense, nearby


def keep_on_cpu(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any] | None,
    threshold: float,
    *,
    score_threshold: float | None,
    max_detections: int | None,
    distance: bool,
) -> Order:
    """Kept indices, best first, of boxes (N, 4), scores (N,) and maybe labels (N,), whose shapes are checked.

    Raises:
        ValueError: a number is not finite or a box is reversed.
    """
    single = numbers(boxes, np.float32)
    survey = np.empty(5)
    order = _best_first(single, boxes, scores, labels, score_threshold, survey)
    limit = len(order) if max_detections is None else min(int(max_detections), len(order))
    if limit == 0:
        return order[:0]
    task = _Task(single, np.float32(threshold), True if distance else None, survey)
    if labels is None:
        return task.of_one_group(order, limit)
    survives = np.zeros(len(single), bool)
    survives[task.of_groups(*_grouped(order, whole_labels(labels)), limit)] = True
    return order[survives[order]][:limit]


def _best_first(
    single: NDArray[np.float32],
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any] | None,
    score_threshold: float | None,
    survey: NDArray[np.float64],
) -> Order:
    """Indices of the boxes above the score threshold by falling score, equal scores by rising index."""
    kernels, _ = _kernels()
    # Larger types have digits that the kernel's float32 cannot hold.
    exact = scores.dtype.kind == "f" and scores.dtype.itemsize <= 4
    in_single = numbers(scores, np.float32) if exact else np.zeros(len(scores), np.float32)
    lowest = -np.inf if score_threshold is None or not exact else score_threshold
    order = np.empty(len(single), np.int64)
    keys, starts = np.empty((2, len(single)), np.uint64), np.zeros(kernels.DIGITS * 256, np.int64)
    bits = in_single.view(np.uint32)
    count = kernels.best_first(single, in_single, bits, np.float32(lowest), keys[0], keys[1], starts, order, survey)
    others = [values for values in (labels, None if exact else scores) if values is not None]
    if count < 0 or not all(np.isfinite(values).all() for values in others if values.dtype.kind == "f"):
        raise ValueError(name_bad_value(single, scores, labels))
    if exact:
        return order[:count]
    order = np.argsort(-scores if scores.dtype.kind == "f" else np.invert(scores), kind="stable")
    return order if score_threshold is None else order[scores[order] > score_threshold]


def _grouped(order: Order, labels: NDArray[np.int64]) -> tuple[Order, NDArray[np.int64]]:
    """`order` by label, and where each label starts in it."""
    kernels, _ = _kernels()
    lowest, highest = int(labels.min()), int(labels.max())
    if highest - lowest > 4 * len(labels) + 1000:
        labels = np.unique(labels, return_inverse=True)[1]
        lowest, highest = 0, int(labels.max())
    starts, grouped = np.zeros(highest - lowest + 2, np.int64), np.empty_like(order)
    kernels.group(order, labels, lowest, starts, grouped)
    return grouped, starts


class _Task:
    """Boxes (N, 4) and what is asked; `survey` is from `best_first`."""

    def __init__(
        self, boxes: NDArray[np.float32], threshold: np.float32, distance: bool | None, survey: NDArray[np.float64]
    ) -> None:
        self._boxes, self._threshold, self._distance, self._survey = boxes, threshold, distance, survey

    def of_one_group(self, order: Order, limit: int) -> Order:
        """Kept ones of `order`, best first."""
        if self._densely(len(order)):
            return self._dense(order, np.array([0, len(order)]), limit, len(order))
        # The index does not go from the best box down. What is kept of the best boxes does not depend on the others,
        # so a limit that is far off is tried on a part.
        most = max(4 * limit, 1000)
        kept = self._nearby(order[:most])
        while len(kept) < limit and most < len(order):
            most *= 4
            kept = self._nearby(order[:most])
        return kept[:limit]

    def of_groups(self, order: Order, starts: NDArray[np.int64], limit: int) -> Order:
        """Kept ones of each group order[starts[g]:starts[g + 1]], group after group."""
        sizes = np.diff(starts)
        if self._densely(int(sizes.max())):
            return self._dense(order, starts, limit, int(sizes.max()))
        few = sizes <= _FEW_BOXES
        large = [self.of_one_group(order[starts[g] : starts[g + 1]], limit) for g in np.flatnonzero(~few)]
        small = order[np.repeat(few, sizes)]
        starts = np.concatenate([[0], np.cumsum(sizes[few])])
        return np.concatenate([self._dense(small, starts, limit, _FEW_BOXES), *large])

    def _densely(self, count: int) -> bool:
        _, nearby = _kernels()
        smallest, beside = self._survey[3:]
        return bool(count <= _FEW_BOXES or beside <= _FEW_BESIDE or smallest < nearby.SMALLEST_SOUND_AREA)

    def _dense(self, order: Order, starts: NDArray[np.int64], limit: int, largest: int) -> Order:
        kernels, _ = _kernels()
        columns, dropped = np.empty((5, largest), np.float32), np.empty(largest, np.uint8)
        kept = np.empty(len(order), np.int64)
        count = kernels.suppress_densely(
            self._boxes, order, starts, self._threshold, self._distance, limit, columns, dropped, kept
        )
        return kept[:count]

    def _nearby(self, order: Order) -> Order:
        _, nearby = _kernels()
        count = len(order)
        slots = 1 << max(6, (count - 1).bit_length())
        near, sides, kept = np.empty((count, 6), np.float32), np.empty(3, np.float32), np.empty(count, np.int64)
        found = nearby.suppress_nearby(
            self._boxes,
            order,
            self._survey[:3],
            self._threshold,
            self._distance,
            np.zeros((slots, 4), np.int32),
            np.zeros((nearby.LEVELS, 2), np.int64),
            sides,
            sides.view(np.int32),
            near,
            near.view(np.int32),
            np.empty(len(self._boxes), np.int32),
            np.zeros(count, bool),
            kept,
        )
        return kept[:found]
