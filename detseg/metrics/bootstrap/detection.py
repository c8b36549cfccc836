"""Confidence intervals of AP, and paired comparisons, by drawing the images again; see `draws`.

Matching is done once. A resample only gives each image a weight, how often it was drawn, and AP with weights is
exactly AP of the data set in which the images are repeated that often, the copies of an image following each
other. (Only where one image has equal scores in a class can the order inside its copies differ.)

A class without objects in a resample is left out of the mean over the classes in that resample, as COCO does with
classes without objects. A resample without any objects is left out altogether. Where the objects of a class, or
all of them, lie in a single image, resampling says nothing and the limits are NaN.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from detseg.kernels import compiled
from detseg.metrics.arrays import mean_over_classes
from detseg.metrics.bootstrap import draws
from detseg.metrics.bootstrap.draws import Comparison, Interval, Intervals, Sample, Samples
from detseg.metrics.detection.average_precision import RECALL_LEVELS
from detseg.metrics.detection.inputs import IoUType, read_found, read_truth
from detseg.metrics.detection.loops import HIT, MISS
from detseg.metrics.detection.matching import Matches, match

FIGURES = ("AP", "AP50", "AP75")

_BLOCK = 20  # resamples a thread works on at a time; their weights have to fit in its cache


@dataclass(frozen=True)
class ClassIntervals:
    """Of one class."""

    ap: Interval
    ap50: Interval


def bootstrap_detection(
    matches: Matches, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Intervals[ClassIntervals]:
    """Intervals of AP, AP50, AP75 and of each class's AP and AP50; unknown for IoU thresholds without matches.

    Args:
        matches: from `match`; their area range "all", the first, is used.
        resamples: how often to draw the images again.
        level: how much of the spread lies within the limits.
        seed: of the draws. The same one gives the same limits, on any number of threads.

    Raises:
        ValueError: `resamples` is less than 1, or `level` is not between 0 and 1.
    """
    draws.check_options(resamples, level)
    ((samples, ap50),) = _sample([matches], resamples, seed)
    columns = ([draws.interval_of(sample, level) for sample in column] for column in (samples.per_class, ap50))
    per_class = tuple(ClassIntervals(*pair) for pair in zip(*columns, strict=True))
    return Intervals(level, resamples, draws.intervals_of(samples.figures, level), per_class)


def compare_detection(
    ground_truth: Any,
    detections_a: Any,
    detections_b: Any,
    iou_type: IoUType = "bbox",
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Is b better than a, or was it the choice of images? A paired bootstrap of the difference.

    Both are evaluated on the same resamples, so what makes an image hard for both cancels out. Ground truth and
    detections are as in `evaluate_detections`, the options as in `bootstrap_detection`.
    """
    truth = read_truth(ground_truth, iou_type)
    a, b = (match(truth, read_found(side, truth, iou_type), iou_type) for side in (detections_a, detections_b))
    return compare_matches(a, b, resamples=resamples, level=level, seed=seed)


def compare_matches(a: Matches, b: Matches, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Comparison:
    """`compare_detection` for matches with the same ground truth.

    Raises:
        ValueError: they are of different ground truth or IoU thresholds; or as `bootstrap_detection`.
    """
    draws.check_options(resamples, level)
    objects = [np.stack([side.object_images, side.object_labels, side.counted[0]]) for side in (a, b)]
    draws.check_same(
        {
            "images": (a.num_images, b.num_images),
            "classes": (a.classes, b.classes),
            "objects": objects,
            "IoU thresholds": (a.iou_thresholds, b.iou_thresholds),
        }
    )
    (samples_a, _), (samples_b, _) = _sample([a, b], resamples, seed)
    return draws.compare_samples(samples_a, samples_b, resamples=resamples, level=level)


def _sample(sides: Sequence[Matches], resamples: int, seed: int) -> list[tuple[Samples, list[Sample]]]:
    """For each side its samples, of AP by class, and those of AP50 by class; the resamples are the same for all."""
    images = sides[0].num_images
    events = [events_of(side) for side in sides]

    def block(first: int) -> list[dict[str, NDArray[np.float64]]]:
        weights = draws.draw(images, range(first, min(first + _BLOCK, resamples)), seed)
        return [_summary(weighted_aps(e, weights), side) for e, side in zip(events, sides, strict=True)]

    threads: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # NUMBA_NUM_THREADS, or the CPUs
    with ThreadPoolExecutor(threads) as pool:
        blocks = list(pool.map(block, range(0, resamples, _BLOCK)))
    once = np.ones((1, images), np.int32)
    known, class_known = _known(sides[0])
    result = []
    for side, event, parts in zip(sides, events, zip(*blocks, strict=True), strict=True):
        point = {name: value[0] for name, value in _summary(weighted_aps(event, once), side).items()}
        spread = {name: np.concatenate([part[name] for part in parts]) for name in point}
        ap, ap50 = (draws.samples_of(point[name], spread[name], class_known) for name in ("ap", "ap50"))
        figures = {name: Sample(float(point[name]), spread[name], known) for name in FIGURES}
        result.append((Samples(figures, ap), ap50))
    return result


def _summary(aps: NDArray[np.float64], matches: Matches) -> dict[str, NDArray[np.float64]]:
    """From AP (R, T, K) to the figures (R,), means over the classes that have objects, and ap and ap50 (R, K)."""
    nothing = np.full(aps[:, 0].shape, np.nan)
    at_50, at_75 = (
        next((aps[:, t] for t in np.flatnonzero(np.isclose(matches.iou_thresholds, iou))), nothing)
        for iou in (0.5, 0.75)
    )
    ap = aps.mean(axis=1)
    figures = {name: mean_over_classes(values) for name, values in zip(FIGURES, (ap, at_50, at_75), strict=True)}
    return figures | {"ap": ap, "ap50": at_50}


def _known(matches: Matches) -> tuple[bool, NDArray[np.bool_]]:
    """Whether objects lie in more than one image: all together, and of each class (K,)."""
    counted = matches.counted[0]
    return len(np.unique(matches.object_images[counted])) > 1, matches.image_counts(counted) > 1


# ------------------------------------------------------------------ weighted AP


class Events(NamedTuple):
    """The detections that are no misses, hits above all: between them precision only falls."""

    images: NDArray[np.int32]  # (D,) of all detections
    label_start: NDArray[np.int64]  # (K + 1,)
    needed: NDArray[np.int64]  # (K,) detections of the class up to its last event
    places: NDArray[np.int32]  # (E,) among the detections of the class; by threshold, class, falling score
    event_images: NDArray[np.int32]  # (E,)
    hits: NDArray[np.bool_]  # (E,) whether it is a hit, or ignored
    start: NDArray[np.int64]  # (T, K + 1) the events of each threshold and class
    object_images: NDArray[np.int32]  # (C,) of the objects that count
    object_labels: NDArray[np.int32]  # (C,)


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
    """AP (R, T, K) where each image counts as often as its weight (R, N) says; NaN where a class has no objects."""
    return np.asarray(_accumulate(weights, RECALL_LEVELS, events))


@compiled
def _accumulate(weights: NDArray[np.int32], levels: NDArray[np.float64], events: Events) -> NDArray[np.float64]:
    """`weighted_aps` at these levels of recall.

    Per class one running sum over the weights of its detections serves all thresholds; then only the events of
    each are visited.
    """
    images, label_start, needed, places, event_images, hits, start, object_images, object_labels = events
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
                count, found, ignored = 0, 0, 0
                for event in range(start[t, k], start[t, k + 1]):
                    here = weight[event_images[event]]
                    if hits[event]:
                        found += here
                        reached[count] = found
                        precision[count] = found / (seen[places[event]] - ignored)
                        count += here > 0  # else it is written over; to jump would take longer
                    else:
                        ignored += here
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
