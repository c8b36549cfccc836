"""How sure is this number? Intervals of AP by drawing the images again (the bootstrap, Efron 1979).

The images at hand are one draw from all that could have been taken. As many are drawn from them again, with
replacement, a thousand times over: so far does AP move by that chance alone.

Matching is done once. A resample only gives each image a weight, how often it was drawn, and AP with weights is
exactly AP of the data set in which the images are repeated that often, the copies of an image following each
other. (Only where one image has equal scores in a class can the order inside its copies differ.)

The spread from the 2.5th to the 97.5th percentile (for a level of 0.95) is laid around the AP of the images as
they are, its mean on that AP. The plain percentiles would lie too high: AP takes the best precision at each recall
or beyond, which favours chance, the more so the fewer different objects a class has, and a resample has fewer. On
drawn data sets of 181 images with 14 objects a class the plain limits held the expected AP of such a set in 86 %
of the cases, these in 96 %.

A class without objects in a resample is left out of the mean over the classes in that resample, as COCO does with
classes without objects. A resample without any objects is left out altogether. Where the objects of a class, or
all of them, lie in a single image, resampling says nothing and the limits are NaN.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from detseg.metrics.bootstrap.draws import (
    Comparison,
    Difference,
    Interval,
    check_options,
    difference_of,
    draw,
    interval_of,
    mean_over_classes,
)
from detseg.metrics.bootstrap.weighted_ap import events_of, weighted_aps
from detseg.metrics.detection.inputs import IoUType, read_found, read_truth
from detseg.metrics.detection.matching import Matches, match
from detseg.metrics.detection.records import none_for_nan

FIGURES = ("AP", "AP50", "AP75")

_BLOCK = 20  # resamples a thread works on at a time; their weights have to fit in its cache


@dataclass(frozen=True)
class ClassIntervals:
    """Of one class."""

    ap: Interval
    ap50: Interval


@dataclass(frozen=True)
class Intervals:
    """What `bootstrap` found."""

    level: float
    resamples: int
    figures: dict[str, Interval]  # AP, AP50, AP75; NaN for an IoU threshold without matches
    per_class: tuple[ClassIntervals, ...]  # (K,)

    @property
    def known(self) -> bool:
        """Whether there is an interval of AP."""
        return not np.isnan(self.figures["AP"].low)

    def to_dict(self) -> dict[str, Any]:
        """As plain Python, NaN as None."""
        content: dict[str, Any] = none_for_nan(asdict(self))
        return content


def bootstrap(matches: Matches, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Intervals:
    """Intervals of AP, AP50, AP75 and of each class's AP and AP50.

    Args:
        matches: from `match`; their area range "all", the first, is used.
        resamples: how often to draw the images again.
        level: how much of the spread lies within the limits.
        seed: of the draws. The same one gives the same limits, on any number of threads.

    Raises:
        ValueError: `resamples` is less than 1, or `level` is not between 0 and 1.
    """
    check_options(resamples, level)
    ((point, spread),) = _resample([matches], resamples, seed)
    told, told_per_class = _can_tell(matches)

    def interval(value: np.float64, spread: NDArray[np.float64], can_tell: bool) -> Interval:
        return interval_of(float(value), spread, level, can_tell)

    return Intervals(
        level,
        resamples,
        {name: interval(point.figures[0, i], spread.figures[:, i], told) for i, name in enumerate(FIGURES)},
        tuple(
            ClassIntervals(
                interval(point.ap[0, k], spread.ap[:, k], bool(told_per_class[k])),
                interval(point.ap50[0, k], spread.ap50[:, k], bool(told_per_class[k])),
            )
            for k in range(matches.classes)
        ),
    )


def compare(
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

    Both are judged on the same resamples, so what makes an image hard for both cancels out.

    Args:
        ground_truth, iou_type: as in `evaluate_detections`.
        detections_a, detections_b: of the same images, each as in `evaluate_detections`.
        resamples, level, seed: as in `bootstrap`.

    Raises:
        ValueError: as `evaluate_detections` and `bootstrap`.
    """
    truth = read_truth(ground_truth, iou_type)
    a, b = (match(truth, read_found(side, truth, iou_type), iou_type) for side in (detections_a, detections_b))
    return compare_matches(a, b, resamples=resamples, level=level, seed=seed)


def compare_matches(a: Matches, b: Matches, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Comparison:
    """`compare` for matches with the same ground truth.

    Raises:
        ValueError: they are of different ground truth or IoU thresholds; or as `bootstrap`.
    """
    check_options(resamples, level)
    _check_same_truth(a, b)
    (point_a, spread_a), (point_b, spread_b) = _resample([a, b], resamples, seed)
    told, told_per_class = _can_tell(a)

    def difference(part: Literal["figures", "ap"], column: int, can_tell: bool) -> Difference:
        first, second = (float(getattr(point, part)[0, column]) for point in (point_a, point_b))
        gain = getattr(spread_b, part)[:, column] - getattr(spread_a, part)[:, column]
        return difference_of(first, second, gain, level, can_tell)

    return Comparison(
        level,
        resamples,
        {name: difference("figures", i, told) for i, name in enumerate(FIGURES)},
        tuple(difference("ap", k, bool(told_per_class[k])) for k in range(a.classes)),
    )


# ------------------------------------------------------------------ resampling


class _Aps(NamedTuple):
    """Of R resamples."""

    figures: NDArray[np.float64]  # (R, 3) as in FIGURES
    ap: NDArray[np.float64]  # (R, K)
    ap50: NDArray[np.float64]  # (R, K)


def _resample(sides: Sequence[Matches], resamples: int, seed: int) -> list[tuple[_Aps, _Aps]]:
    """For each side the APs of the images as they are, and those of the resamples, the same for all sides."""
    images = sides[0].num_images
    events = [events_of(side) for side in sides]

    def block(first: int) -> list[_Aps]:
        weights = draw(images, range(first, min(first + _BLOCK, resamples)), seed)
        return [_summary(weighted_aps(e, weights), side) for e, side in zip(events, sides, strict=True)]

    once = np.ones((1, images), np.int32)
    points = [_summary(weighted_aps(e, once), side) for e, side in zip(events, sides, strict=True)]
    threads: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # NUMBA_NUM_THREADS, or the CPUs
    with ThreadPoolExecutor(threads) as pool:
        blocks = list(pool.map(block, range(0, resamples, _BLOCK)))
    spreads = [_Aps(*map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*blocks, strict=True)]
    return list(zip(points, spreads, strict=True))


def _summary(aps: NDArray[np.float64], matches: Matches) -> _Aps:
    """From AP (R, T, K) to the figures: means over classes are over those that have objects."""
    nothing = np.full(aps[:, 0].shape, np.nan)
    at_50, at_75 = (
        next((aps[:, t] for t in np.flatnonzero(np.isclose(matches.iou_thresholds, iou))), nothing)
        for iou in (0.5, 0.75)
    )
    ap = aps.mean(axis=1)
    return _Aps(np.stack([mean_over_classes(values) for values in (ap, at_50, at_75)], axis=1), ap, at_50)


def _can_tell(matches: Matches) -> tuple[bool, NDArray[np.bool_]]:
    """Whether objects lie in more than one image: all together, and of each class (K,)."""
    images, labels = matches.object_images[matches.counted[0]], matches.object_labels[matches.counted[0]]
    pairs = np.unique(labels.astype(np.int64) * matches.num_images + images)
    return len(np.unique(images)) > 1, np.bincount(pairs // matches.num_images, minlength=matches.classes) > 1


def _check_same_truth(a: Matches, b: Matches) -> None:
    same = {
        "images": a.num_images == b.num_images,
        "classes": a.classes == b.classes,
        "objects": np.array_equal(a.object_images, b.object_images)
        and np.array_equal(a.object_labels, b.object_labels)
        and np.array_equal(a.counted[0], b.counted[0]),
        "IoU thresholds": np.array_equal(a.iou_thresholds, b.iou_thresholds),
    }
    differing = [name for name, equal in same.items() if not equal]
    if differing:
        raise ValueError(f"a and b cannot be compared: they were matched with different {', '.join(differing)}")
