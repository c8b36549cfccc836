"""AP of a data set in which every image counts as often as its weight says, without matching anything again."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.detection.average_precision import RECALL_LEVELS
from detseg.metrics.detection.loops import HIT, MISS, compiled
from detseg.metrics.detection.matching import Matches


class Events(NamedTuple):
    """The detections that are no misses, hits above all: between them precision only falls."""

    images: NDArray[np.int32]  # (D,) of all detections
    label_start: NDArray[np.int64]  # (K + 1,)
    needed: NDArray[np.int64]  # (K,) detections of the class up to its last event
    places: NDArray[np.int32]  # (E,) among the detections of the class; by threshold, class, falling score
    event_images: NDArray[np.int32]  # (E,)
    hits: NDArray[np.bool_]  # (E,) whether it is a hit, or not judged
    start: NDArray[np.int64]  # (T, K + 1) the events of each threshold and class
    object_images: NDArray[np.int32]  # (C,) of the objects that count
    object_labels: NDArray[np.int32]  # (C,)


def average_precisions(matches: Matches, weights: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """AP of weighted images: (R, T, K), NaN where a class has no objects.

    Args:
        matches: of N images, T IoU thresholds and K classes; their first area range is used.
        weights: (R, N) how often each image counts, not negative.

    Raises:
        ValueError: the weights have another shape, or one is negative.
    """
    if weights.ndim != 2 or weights.shape[1] != matches.num_images:
        raise ValueError(f"weights must have shape (R, {matches.num_images}), a column an image, got {weights.shape}")
    if weights.size and weights.min() < 0:
        raise ValueError(f"weights must not be negative, got {weights.min()}")
    return weighted_aps(events_of(matches), np.ascontiguousarray(weights, dtype=np.int32))


def events_of(matches: Matches) -> Events:
    """What `weighted_aps` needs of the matches, whatever the weights."""
    status, label_start = matches.status[0], matches.label_start
    thresholds, count = status.shape
    events = np.flatnonzero(status != MISS)  # by threshold, then detection
    start = np.searchsorted(events, np.arange(thresholds)[:, None] * count + label_start)
    detections = events % max(1, count)
    first = np.repeat(label_start[:-1], np.diff(label_start))
    after = np.append(detections + 1, 0)[start[:, 1:] - 1]
    some = start[:, 1:] > start[:, :-1]
    return Events(
        images=matches.images,
        label_start=label_start,
        needed=np.where(some, after - label_start[:-1], 0).max(axis=0),
        places=(detections - first[detections]).astype(np.int32),
        event_images=matches.images[detections],
        hits=status.reshape(-1)[events] == HIT,
        start=start,
        object_images=matches.object_images[matches.counted[0]],
        object_labels=matches.object_labels[matches.counted[0]],
    )


def weighted_aps(events: Events, weights: NDArray[np.int32]) -> NDArray[np.float64]:
    """As `average_precisions`, of contiguous weights that are known to be right."""
    return np.asarray(_accumulate(weights, RECALL_LEVELS, *events))


@compiled
def _accumulate(
    weights: NDArray[np.int32],
    levels: NDArray[np.float64],
    images: NDArray[np.int32],
    label_start: NDArray[np.int64],
    needed: NDArray[np.int64],
    places: NDArray[np.int32],
    event_images: NDArray[np.int32],
    hits: NDArray[np.bool_],
    start: NDArray[np.int64],
    object_images: NDArray[np.int32],
    object_labels: NDArray[np.int32],
) -> NDArray[np.float64]:
    """AP (R, T, K) of weights (R, N), see `Events`.

    Per class one running sum over the weights of its detections serves all thresholds; then only the events of
    each are visited.
    """
    thresholds, classes = start.shape[0], start.shape[1] - 1
    aps = np.full((weights.shape[0], thresholds, classes), np.nan)
    longest = 0
    for k in range(classes):
        longest = max(longest, needed[k])
    seen = np.empty(longest, np.int64)  # weight of the detections of the class up to each
    reached, precision = np.empty(longest, np.int64), np.empty(longest, np.float64)  # of each hit
    least = np.empty(len(levels), np.int64)
    objects = np.empty(classes, np.int64)
    for r in range(weights.shape[0]):
        weight = weights[r]
        objects[:] = 0
        for m in range(len(object_images)):
            objects[object_labels[m]] += weight[object_images[m]]
        for k in range(classes):
            if objects[k] == 0:
                continue
            _least_hits(objects[k], levels, least)
            first, total = label_start[k], 0
            for place in range(needed[k]):
                total += weight[images[first + place]]
                seen[place] = total
            for t in range(thresholds):
                count, found, excused = 0, 0, 0
                for event in range(start[t, k], start[t, k + 1]):
                    here = weight[event_images[event]]
                    if hits[event]:
                        found += here
                        reached[count] = found
                        precision[count] = found / (seen[places[event]] - excused)
                        count += here > 0  # else it is written over; to jump would take longer
                    else:
                        excused += here
                aps[r, t, k] = _area(reached, precision, count, least)
    return aps


@compiled
def _least_hits(objects: int, levels: NDArray[np.float64], least: NDArray[np.int64]) -> None:
    """How many hits reach each level of recall, by the division that pycocotools compares; at least one."""
    for level in range(len(levels)):
        count = max(1, int(levels[level] * objects))
        while count > 1 and (count - 1) / objects >= levels[level]:
            count -= 1
        while count / objects < levels[level]:
            count += 1
        least[level] = count


@compiled
def _area(reached: NDArray[np.int64], precision: NDArray[np.float64], count: int, least: NDArray[np.int64]) -> float:
    """Mean over the levels of the best precision at that recall or beyond; 0 where it is not reached."""
    total, best = 0.0, 0.0
    level = len(least) - 1
    most = reached[count - 1] if count else 0
    while level >= 0 and least[level] > most:
        level -= 1
    for hit in range(count - 1, -1, -1):
        if precision[hit] > best:
            best = precision[hit]
        before = reached[hit - 1] if hit > 0 else 0
        while level >= 0 and least[level] > before:
            total += best
            level -= 1
    return total / len(least)
