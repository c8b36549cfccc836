"""Intervals of segmentation figures: weights against really repeated images, theory, comparisons."""

import json
import math

import numpy as np
import pytest

from detseg.metrics import (
    SegmentationEvaluator,
    bootstrap_segmentation,
    compare_segmentation,
    evaluate_segmentation,
)
from tests.metrics.label_scenes import IGNORE, label_scene

NAMES = ["sky", "grass", "flower", "path"]


def metrics_of(seed=0, images=12, **options):
    predictions, targets = label_scene(seed, images, height=30, width=40)
    return evaluate_segmentation(targets, predictions, NAMES, **options)


def test_a_resample_is_the_images_repeated():
    predictions, targets = label_scene(0, 6)
    targets[2][:] = 1  # now the classes are not in all images
    targets[3][targets[3] == 3] = IGNORE
    m = evaluate_segmentation(targets, predictions, NAMES)
    spread = []
    for r in range(40):
        drawn = np.random.default_rng((3, r)).integers(0, 6, 6)
        repeated = evaluate_segmentation([targets[i] for i in drawn], [predictions[i] for i in drawn], NAMES)
        spread.append([*repeated.figures().values(), *(row.iou for row in repeated.per_class)])
    spread = np.array(spread)
    limits = np.quantile(spread, [0.1, 0.9], axis=0) - spread.mean(axis=0)
    intervals = bootstrap_segmentation(m, resamples=40, level=0.8, seed=3)
    assert list(intervals.figures) == list(m.figures())
    rows = [*intervals.figures.values(), *intervals.per_class]
    values = np.array([*m.figures().values(), *(row.iou for row in m.per_class)])
    np.testing.assert_array_equal([row.value for row in rows], values)
    np.testing.assert_allclose([row.low for row in rows], np.clip(values + limits[0], 0, 1), atol=1e-12)
    np.testing.assert_allclose([row.high for row in rows], np.clip(values + limits[1], 0, 1), atol=1e-12)
    assert (limits[1] - limits[0] > 0.001).all()


def test_the_limits_of_a_mean_are_those_of_theory():
    # Images of equal size, each right in a share of its pixels: pixel accuracy is the mean of these shares.
    rng = np.random.default_rng(0)
    shares = rng.integers(20, 81, 200)
    targets = [np.zeros((10, 10), int)] * 200
    predictions = [(np.arange(100) >= share).astype(int).reshape(10, 10) for share in shares]
    m = evaluate_segmentation(targets, predictions, ["a", "b"], boundary=False)
    interval = bootstrap_segmentation(m, resamples=2000).figures["pixel_accuracy"]
    error = shares.std() / 100 / math.sqrt(200)
    assert interval.value == pytest.approx(shares.mean() / 100)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_the_seed_decides_and_the_order_of_images_does_not(monkeypatch):
    predictions, targets = label_scene(1, 9)
    m = evaluate_segmentation(targets, predictions, NAMES)
    backwards = SegmentationEvaluator(NAMES)
    backwards.update(predictions[::-1], targets[::-1], range(8, -1, -1))
    first = bootstrap_segmentation(m, resamples=100, seed=5)
    assert bootstrap_segmentation(backwards.compute(), resamples=100, seed=5) == first
    assert bootstrap_segmentation(m, resamples=100, seed=6).figures != first.figures
    monkeypatch.setattr("detseg.metrics.bootstrap.segmentation._BLOCK", 7)
    assert bootstrap_segmentation(m, resamples=100, seed=5) == first


def test_what_one_image_shows_is_unknown():
    predictions, targets = label_scene(2, 4)
    for target in targets[1:]:
        target[target == 3] = IGNORE
    intervals = bootstrap_segmentation(evaluate_segmentation(targets, predictions, NAMES), resamples=50)
    assert math.isnan(intervals.per_class[3].low) and not math.isnan(intervals.per_class[3].value)
    assert intervals.known and intervals.per_class[2].low < intervals.per_class[2].value
    alone = bootstrap_segmentation(evaluate_segmentation(targets[:1], predictions[:1], NAMES), resamples=50)
    assert not alone.known and all(math.isnan(row.high) for row in alone.figures.values())
    assert alone.figures["miou"].value > 0


def test_nothing_to_judge():
    ignored = [np.full((5, 5), IGNORE)] * 3
    m = evaluate_segmentation(ignored, [np.zeros((5, 5), int)] * 3, NAMES)
    intervals = bootstrap_segmentation(m, resamples=10)
    assert all(math.isnan(v) for row in intervals.figures.values() for v in (row.value, row.low, row.high))
    json.dumps(intervals.to_dict(), allow_nan=False)


def test_without_boundary():
    intervals = bootstrap_segmentation(metrics_of(boundary=False), resamples=20)
    assert "boundary_iou" not in intervals.figures and intervals.known


def test_perfect_predictions_have_no_spread():
    _, targets = label_scene(3, 5)
    m = evaluate_segmentation(targets, [np.where(t == IGNORE, 2, t) for t in targets], NAMES)
    for row in bootstrap_segmentation(m, resamples=30).figures.values():
        assert (row.value, row.low, row.high) == (1, 1, 1)


@pytest.mark.parametrize(("options", "message"), [({"resamples": 0}, "resamples"), ({"level": 95}, "level")])
def test_wrong_options(options, message):
    m = metrics_of(images=2)
    for call in (lambda: bootstrap_segmentation(m, **options), lambda: compare_segmentation(m, m, **options)):
        with pytest.raises(ValueError, match=message):
            call()


# ------------------------------------------------------------------ comparison


def spoilt(predictions, share, seed=0):
    """Predictions with a share of all pixels turned into class 0."""
    rng = np.random.default_rng(seed)
    return [np.where(rng.random(p.shape) < share, 0, p) for p in predictions]


def test_nothing_differs_from_itself():
    m = metrics_of(4)
    comparison = compare_segmentation(m, m, resamples=30)
    for row in (*comparison.figures.values(), *comparison.per_class):
        assert (row.difference, row.low, row.high, row.b_better) == (0, 0, 0, 0.5)


def test_the_better_one_is_told_and_pairs_tell_more():
    predictions, targets = label_scene(5, 15)
    good = evaluate_segmentation(targets, predictions, NAMES)
    bad = evaluate_segmentation(targets, spoilt(predictions, 0.02), NAMES)
    row, reverse = (compare_segmentation(*pair, resamples=300).figures["miou"] for pair in ((bad, good), (good, bad)))
    assert (row.a, row.b) == (bad.miou, good.miou) and row.b_better == 1
    assert 0 < row.low < row.difference < row.high
    assert (reverse.low, reverse.high) == pytest.approx((-row.high, -row.low)) and reverse.b_better == 0
    alone = bootstrap_segmentation(good, resamples=300).figures["miou"]
    assert row.high - row.low < 0.2 * (alone.high - alone.low)


def test_figures_that_only_one_side_has_are_left_out():
    comparison = compare_segmentation(metrics_of(6), metrics_of(6, boundary=False), resamples=10)
    assert list(comparison.figures) == list(metrics_of(6, boundary=False).figures())


def test_other_truth_cannot_be_compared():
    with pytest.raises(ValueError, match=r"differ in true pixels$"):
        compare_segmentation(metrics_of(0), metrics_of(1))
    with pytest.raises(ValueError, match=r"differ in images, true pixels$"):
        compare_segmentation(metrics_of(0), metrics_of(0, images=3))
