"""Confidence intervals of accuracies, and paired comparisons, by drawing the images again; see `draws`.

A resample only counts how often each combination of class and outcome was drawn, so the counts are drawn at once from
their multinomial distribution: the same as drawing the images one by one. A class that a resample has no images of is
left out of its mean.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.arrays import divide, mean_over_classes
from detseg.metrics.bootstrap import draws
from detseg.metrics.bootstrap.draws import Comparison, Interval, Sample, Samples

Counts = NDArray[np.int64]  # (R, K, C) images of each class and outcome, in R resamples
Values = dict[str, NDArray[np.float64]]  # (R,) or (R, K) by name


def bootstrap_classification(
    labels: NDArray[np.int64],
    ranks: NDArray[np.int64],
    classes: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of top1, top5 and mean_class_accuracy; unknown where all images have the same outcome.

    `labels` (N,) lie in 0..K-1, `ranks` (N,) are places of the right class among the scores, from 0, `classes` is K;
    options as in `bootstrap_detection`.
    """
    draws.check_options(resamples, level)
    outcome = np.digitize(ranks, (1, 5))  # 0: first, 1: among the first five, 2: later

    def measure(drawn: Counts) -> Values:
        top5 = drawn[:, :, :2].sum((1, 2)) / drawn.sum((1, 2))
        return _accuracies(drawn, drawn[:, :, 0]) | {"top5": top5}

    values, spreads = _resample(labels, outcome, (classes, 3), measure, resamples, seed)
    names = ("top1", "top5", "mean_class_accuracy")
    samples = {name: Sample(float(values[name]), spreads[name], bool(0 < values[name] < 1)) for name in names}
    return draws.intervals_of(samples, level)


def compare_classification(
    labels: NDArray[np.int64],
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Is b better than a, or was it the choice of images? A paired bootstrap of top1, mean_class_accuracy and recalls.

    Both are evaluated on the same resamples, so what makes an image hard for both cancels out. `labels` (N,) lie in
    0..K-1, a and b (N, K) are the scores of two classifiers; options as in `bootstrap_detection`. Raises ValueError
    where shapes do not fit.
    """
    draws.check_options(resamples, level)
    if a.ndim != 2 or a.shape != b.shape or labels.shape != a.shape[:1] or not len(labels):
        raise ValueError(
            f"labels {labels.shape}, a {a.shape} and b {b.shape} do not fit: expected (N,), (N, K) and (N, K), N > 0"
        )
    right = [side.argmax(axis=1) == labels for side in (a, b)]
    known = bool((right[0] != right[1]).any())
    classes, sides = a.shape[1], []
    for which in ([1, 3], [2, 3]):  # the outcomes in which a is right, b is right

        def measure(drawn: Counts, which: list[int] = which) -> Values:
            return _accuracies(drawn, drawn[:, :, which].sum(axis=2))

        values, spreads = _resample(labels, right[0] + 2 * right[1], (classes, 4), measure, resamples, seed)
        recalls = draws.samples_of(values.pop("recall"), spreads.pop("recall"), np.full(classes, known))
        figures = {name: Sample(float(value), spreads[name], known) for name, value in values.items()}
        sides.append(Samples(figures, recalls))
    return draws.compare_samples(*sides, resamples=resamples, level=level)


def _accuracies(drawn: Counts, hits: NDArray[np.int64]) -> Values:
    """The accuracy of all images and of each class, from counts (R, K, C) and the right ones (R, K)."""
    counts = drawn.sum(axis=2)
    recall = divide(hits, counts)
    top1 = hits.sum(axis=1) / counts.sum(axis=1)
    return {"top1": top1, "mean_class_accuracy": mean_over_classes(recall), "recall": recall}


def _resample(
    labels: NDArray[np.int64],
    outcomes: NDArray[np.int64],
    shape: tuple[int, int],
    measure: Callable[[Counts], Values],
    resamples: int,
    seed: int,
) -> tuple[Values, Values]:
    """What `measure` gives for the images (N,) as they are, and for the resamples; `shape` is (K, C)."""
    cells = np.bincount(labels * shape[1] + outcomes, minlength=shape[0] * shape[1])
    rng = np.random.default_rng(seed)
    block = max(1, 10**6 // len(cells))  # resamples at a time; bounds the memory
    parts = [
        measure(rng.multinomial(len(labels), cells / len(labels), min(block, resamples - done)).reshape(-1, *shape))
        for done in range(0, resamples, block)
    ]
    point = measure(cells.reshape(1, *shape))
    spreads = {name: np.concatenate([part[name] for part in parts]) for name in point}
    return {name: value[0] for name, value in point.items()}, spreads
