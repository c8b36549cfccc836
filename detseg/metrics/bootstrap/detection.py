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

from detseg.metrics.arrays import mean_over_classes
from detseg.metrics.bootstrap.draws import (
    Comparison,
    Interval,
    Intervals,
    Sample,
    Samples,
    check_options,
    check_same,
    compare_samples,
    draw,
    interval_of,
    samples_of,
)
from detseg.metrics.bootstrap.weighted_ap import events_of, weighted_aps
from detseg.metrics.detection.inputs import IoUType, read_found, read_truth
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
    check_options(resamples, level)
    ((samples, ap50),) = _sample([matches], resamples, seed)
    per_class = [
        ClassIntervals(*(interval_of(sample, level) for sample in pair))
        for pair in zip(samples.per_class, ap50, strict=True)
    ]
    figures = {name: interval_of(sample, level) for name, sample in samples.figures.items()}
    return Intervals(level, resamples, figures, tuple(per_class))


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

    Both are evaluated on the same resamples, so what makes an image hard for both cancels out.

    Args:
        ground_truth, iou_type: as in `evaluate_detections`.
        detections_a, detections_b: of the same images, each as in `evaluate_detections`.
        resamples, level, seed: as in `bootstrap_detection`.

    Raises:
        ValueError: as `evaluate_detections` and `bootstrap_detection`.
    """
    truth = read_truth(ground_truth, iou_type)
    a, b = (match(truth, read_found(side, truth, iou_type), iou_type) for side in (detections_a, detections_b))
    return compare_matches(a, b, resamples=resamples, level=level, seed=seed)


def compare_matches(a: Matches, b: Matches, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Comparison:
    """`compare_detection` for matches with the same ground truth.

    Raises:
        ValueError: they are of different ground truth or IoU thresholds; or as `bootstrap_detection`.
    """
    check_options(resamples, level)
    check_same(
        {
            "images": a.num_images == b.num_images,
            "classes": a.classes == b.classes,
            "objects": np.array_equal(a.object_images, b.object_images)
            and np.array_equal(a.object_labels, b.object_labels)
            and np.array_equal(a.counted[0], b.counted[0]),
            "IoU thresholds": np.array_equal(a.iou_thresholds, b.iou_thresholds),
        }
    )
    (samples_a, _), (samples_b, _) = _sample([a, b], resamples, seed)
    return compare_samples(samples_a, samples_b, resamples=resamples, level=level)


class _Aps(NamedTuple):
    """Of R resamples."""

    figures: NDArray[np.float64]  # (R, 3) as in FIGURES
    ap: NDArray[np.float64]  # (R, K)
    ap50: NDArray[np.float64]  # (R, K)


def _sample(sides: Sequence[Matches], resamples: int, seed: int) -> list[tuple[Samples, list[Sample]]]:
    """For each side its samples, of AP by class, and those of AP50 by class; the resamples are the same for all."""
    images = sides[0].num_images
    events = [events_of(side) for side in sides]

    def block(first: int) -> list[_Aps]:
        weights = draw(images, range(first, min(first + _BLOCK, resamples)), seed)
        return [_summary(weighted_aps(e, weights), side) for e, side in zip(events, sides, strict=True)]

    threads: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # NUMBA_NUM_THREADS, or the CPUs
    with ThreadPoolExecutor(threads) as pool:
        blocks = list(pool.map(block, range(0, resamples, _BLOCK)))
    once = np.ones((1, images), np.int32)
    known, class_known = _known(sides[0])
    result = []
    for side, event, parts in zip(sides, events, zip(*blocks, strict=True), strict=True):
        point = _summary(weighted_aps(event, once), side)
        spread = _Aps(*map(np.concatenate, zip(*parts, strict=True)))
        figures = samples_of(point.figures[0], spread.figures, np.full(len(FIGURES), known))
        ap, ap50 = (samples_of(p[0], s, class_known) for p, s in zip(point[1:], spread[1:], strict=True))
        result.append((Samples(dict(zip(FIGURES, figures, strict=True)), ap), ap50))
    return result


def _summary(aps: NDArray[np.float64], matches: Matches) -> _Aps:
    """From AP (R, T, K) to the figures: means over classes are over those that have objects."""
    nothing = np.full(aps[:, 0].shape, np.nan)
    at_50, at_75 = (
        next((aps[:, t] for t in np.flatnonzero(np.isclose(matches.iou_thresholds, iou))), nothing)
        for iou in (0.5, 0.75)
    )
    ap = aps.mean(axis=1)
    return _Aps(np.stack([mean_over_classes(values) for values in (ap, at_50, at_75)], axis=1), ap, at_50)


def _known(matches: Matches) -> tuple[bool, NDArray[np.bool_]]:
    """Whether objects lie in more than one image: all together, and of each class (K,)."""
    images, labels = matches.object_images[matches.counted[0]], matches.object_labels[matches.counted[0]]
    pairs = np.unique(labels.astype(np.int64) * matches.num_images + images)
    return len(np.unique(images)) > 1, np.bincount(pairs // matches.num_images, minlength=matches.classes) > 1
