"""Intervals of AP: weights against really repeated images, the spread against theory, comparisons."""

import dataclasses
import json
import math

import numpy as np
import pytest

from detseg.metrics import evaluate_detections
from detseg.metrics.bootstrap.detection import (
    bootstrap_detection,
    compare_detection,
    compare_matches,
    events_of,
    weighted_aps,
)
from detseg.metrics.detection.inputs import read_found, read_truth
from detseg.metrics.detection.matching import match
from tests.metrics.cases import case
from tests.metrics.scenes import CATEGORIES, classes_of, coco_precision, one_class, random_scene, repeated, with_masks

BOX, ASIDE = (10, 10, 50, 50), (200, 200, 50, 50)


def matches_of(truth, results, iou_type="bbox", **options):
    truth = read_truth(truth, iou_type)
    return match(truth, read_found(results, truth, iou_type), iou_type, **options)


def average_precisions(matches, weights):
    return weighted_aps(events_of(matches), np.ascontiguousarray(weights, np.int32))


def coco_aps(truth, results, iou_type="bbox"):
    """(T, K) in the data set's order of classes, NaN for nothing."""
    precision = coco_precision(truth, results, iou_type)
    order = np.argsort(np.argsort([category["id"] for category in truth["categories"]]))
    return np.where(precision == -1, np.nan, precision).mean(axis=1)[:, order]


# ------------------------------------------------------------------ weights


def test_weights_by_hand():
    # Image 1: found. Image 2: its object is missed, and something better scored is found beside it.
    truth, results = one_class([(1, BOX), (2, BOX)], [(1, BOX, 0.5), (2, ASIDE, 0.8)])
    aps = average_precisions(matches_of(truth, results), np.array([[1, 0], [1, 1], [2, 1], [0, 1], [0, 0]]))
    assert aps.shape == (5, 10, 1)
    # Recall 1/2 is 51 of the 101 levels (0 to 0.50), 2/3 is 67 (0 to 0.66).
    expected = [1, 51 / 101 * 1 / 2, 67 / 101 * 2 / 3, 0, math.nan]
    np.testing.assert_allclose(aps[:, 0, 0], expected, atol=1e-12)
    np.testing.assert_array_equal(aps, np.broadcast_to(aps[:, :1], aps.shape))


def test_weights_are_repeated_images():
    for seed in range(4):
        with case(seed):
            truth, results = random_scene(seed)
            rng = np.random.default_rng(seed)
            weights = np.concatenate([rng.multinomial(15, np.full(15, 1 / 15), 3), rng.integers(0, 5, (1, 15))])
            aps = average_precisions(matches_of(truth, results), weights)
            for row, counts in zip(aps, weights.tolist(), strict=True):
                expected = coco_aps(*repeated(truth, results, counts))
                np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)
                assert np.isnan(row[:, 3]).all() and 0 < np.nanmean(row) < 1


def test_weights_are_repeated_images_with_masks():
    truth, results = with_masks(*random_scene(9, images=8))
    counts = [2, 0, 1, 3, 1, 0, 1, 2]
    (aps,) = average_precisions(matches_of(truth, results, "segm"), np.array([counts]))
    np.testing.assert_allclose(aps, coco_aps(*repeated(truth, results, counts), "segm"), rtol=0, atol=1e-12)


def test_equal_weights_are_the_data_set():
    for seed in range(3):
        with case(seed):
            truth, results = random_scene(seed, distinct=False)
            metrics = evaluate_detections(truth, results)
            once, thrice = average_precisions(metrics.matches, np.array([[1] * 15, [3] * 15]))
            np.testing.assert_allclose(once, metrics.precision_recall.precision.mean(axis=2), rtol=0, atol=1e-12)
            np.testing.assert_allclose(thrice, once, rtol=0, atol=1e-12)


def test_weight_0_is_an_image_less():
    truth, results = random_scene(5)
    image = truth["images"][4]["id"]
    weights = np.ones((1, 15), int)
    weights[0, 4] = 0
    (aps,) = average_precisions(matches_of(truth, results), weights)
    less = {key: [e for e in truth[key] if e.get("image_id", e["id"]) != image] for key in ("images", "annotations")}
    expected = evaluate_detections(truth | less, [r for r in results if r["image_id"] != image])
    np.testing.assert_allclose(aps, expected.precision_recall.precision.mean(axis=2), rtol=0, atol=1e-12)


# ------------------------------------------------------------------ intervals


def test_the_spread_of_recall_is_the_binomial_one():
    # One object an image, 70 % found, nothing falsely: AP50 is the recall, up to the 101 levels.
    images = 400
    objects = [(i, BOX) for i in range(1, images + 1)]
    found = [(i, BOX, 0.5 + i / 1000) for i in range(1, images + 1) if i % 10 < 7]
    intervals = bootstrap_detection(matches_of(*one_class(objects, found, images)), resamples=2000)
    interval = intervals.figures["AP50"]
    deviation = math.sqrt(0.7 * 0.3 / images)
    assert interval.value == pytest.approx(0.7, abs=0.01)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * deviation, rel=0.12)
    assert (interval.low + interval.high) / 2 == pytest.approx(interval.value, abs=0.01)
    for other in ("AP", "AP75"):
        assert dataclasses.astuple(intervals.figures[other]) == pytest.approx(dataclasses.astuple(interval))
    matches = matches_of(*one_class(objects, found, images))
    narrow = bootstrap_detection(matches, resamples=2000, level=0.5).figures["AP50"]
    assert narrow.high - narrow.low == pytest.approx(2 * 0.674 * deviation, rel=0.2)


def test_the_values_are_those_of_the_metrics():
    truth, results = random_scene(1)
    metrics = evaluate_detections(truth, results)
    intervals = bootstrap_detection(metrics.matches, resamples=300)
    figures = metrics.figures()
    assert (intervals.level, intervals.resamples) == (0.95, 300)
    for name, interval in intervals.figures.items():
        assert interval.value == pytest.approx(figures[name], abs=1e-12)
        assert 0 <= interval.low < interval.value < interval.high <= 1
    assert len(intervals.per_class) == len(CATEGORIES)
    for row, limits in zip(metrics.per_class[:3], intervals.per_class[:3], strict=True):
        assert limits.ap.value == pytest.approx(row.ap, abs=1e-12)
        assert limits.ap50.value == pytest.approx(row.ap50, abs=1e-12)
        assert limits.ap.low < limits.ap.value < limits.ap.high
    nothing = intervals.per_class[3].ap
    assert all(math.isnan(v) for v in (nothing.value, nothing.low, nothing.high))
    json.dumps(intervals.to_dict(), allow_nan=False)


def test_the_resamples_are_those_of_the_definition():
    truth, results = random_scene(2)
    matches = matches_of(truth, results)
    weights = [np.bincount(np.random.default_rng((7, r)).integers(0, 15, 15), minlength=15) for r in range(50)]
    aps = average_precisions(matches, np.array(weights))
    ap50 = np.nanmean(aps[:, 0], axis=1)
    interval = bootstrap_detection(matches, resamples=50, level=0.8, seed=7).figures["AP50"]
    assert [interval.low, interval.high] == pytest.approx(np.quantile(ap50, [0.1, 0.9]) - ap50.mean() + interval.value)


def test_the_limits_lie_about_the_value():
    # 40 classes with a few objects each: resamples favour chance, and most of them are better than the value.
    rng = np.random.default_rng(0)
    boxes = [(k, i, (*rng.uniform(0, 300, 2), 50, 50)) for k in range(1, 41) for i in rng.integers(1, 61, 6)]
    aside = [(k, i, (*rng.uniform(0, 300, 2), 50, 50)) for k in range(1, 41) for i in rng.integers(1, 61, 12)]
    found = [(i, k, box, rng.random()) for k, i, box in [*boxes, *aside]]
    truth, results = classes_of([(i, k, box) for k, i, box in boxes], found, tuple(map(str, range(40))), 60)
    matches = matches_of(truth, results)
    weights = rng.multinomial(60, np.full(60, 1 / 60), 200)
    plain = np.nanmean(average_precisions(matches, weights)[:, 0], axis=1)
    interval = bootstrap_detection(matches, resamples=500).figures["AP50"]
    assert np.quantile(plain, 0.1) > interval.value
    assert interval.low < interval.value < interval.high
    assert (interval.low + interval.high) / 2 == pytest.approx(interval.value, abs=0.1 * (interval.high - interval.low))
    width = np.quantile(plain, 0.975) - np.quantile(plain, 0.025)
    assert interval.high - interval.low == pytest.approx(width, rel=0.15)


def test_the_seed_decides(monkeypatch):
    matches = matches_of(*random_scene(3))
    first = bootstrap_detection(matches, resamples=200, seed=5)
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", 3)
    assert bootstrap_detection(matches, resamples=200, seed=5).figures == first.figures
    assert bootstrap_detection(matches, resamples=200, seed=6).figures != first.figures


def test_one_image_tells_nothing():
    intervals = bootstrap_detection(matches_of(*one_class([(1, BOX), (1, ASIDE)], [(1, BOX, 0.5), (2, BOX, 0.4)])))
    interval = intervals.figures["AP"]
    assert interval.value == pytest.approx(51 / 101)
    assert math.isnan(interval.low) and math.isnan(interval.high) and not intervals.known


def test_no_objects_and_no_detections():
    for found in [[], [(1, BOX, 0.5)]]:
        with case(found):
            empty = bootstrap_detection(matches_of(*one_class([], found)), resamples=10)
            assert all(math.isnan(v) for interval in empty.figures.values() for v in (interval.value, interval.low))
            missed = bootstrap_detection(matches_of(*one_class([(1, BOX), (2, BOX)], [])), resamples=10).figures["AP"]
            assert (missed.value, missed.low, missed.high) == (0, 0, 0)


def test_thresholds_that_are_not_there_are_unknown():
    matches = matches_of(*random_scene(4), iou_thresholds=[0.3, 0.75])
    figures = bootstrap_detection(matches, resamples=20).figures
    assert math.isnan(figures["AP50"].value) and math.isnan(figures["AP50"].low)
    assert figures["AP75"].value < figures["AP"].value


@pytest.mark.parametrize(
    ("options", "message"),
    [({"resamples": 0}, "resamples must be at least 1"), ({"level": 1.0}, "level"), ({"level": 95}, "got 95")],
)
def test_wrong_options(options, message):
    matches = matches_of(*one_class([(1, BOX)], []))
    for call in (lambda: bootstrap_detection(matches, **options), lambda: compare_matches(matches, matches, **options)):
        with pytest.raises(ValueError, match=message):
            call()


# ------------------------------------------------------------------ comparison


def jittered(results, seed, spread):
    rng = np.random.default_rng(seed)
    return [r | {"bbox": (np.array(r["bbox"]) + np.r_[rng.normal(0, spread, 2), 0, 0]).tolist()} for r in results]


def test_nothing_differs_from_itself():
    truth, results = random_scene(6)
    comparison = compare_detection(truth, results, results, resamples=50)
    for row in (*comparison.figures.values(), *comparison.per_class[:3]):
        assert (row.difference, row.low, row.high, row.b_better) == (0, 0, 0, 0.5)
    assert math.isnan(comparison.per_class[3].b_better)


def test_the_better_one_is_told_and_the_sides_are_symmetric():
    truth, results = random_scene(7, images=60)
    worse = jittered(results, 0, 6)
    there, back = (
        compare_detection(truth, worse, results, resamples=300),
        compare_detection(truth, results, worse, resamples=300),
    )
    row, reverse = there.figures["AP"], back.figures["AP"]
    assert row.a == pytest.approx(evaluate_detections(truth, worse).map)
    assert row.b == pytest.approx(evaluate_detections(truth, results).map)
    assert 0 < row.low < row.difference < row.high and row.b_better == 1
    assert (reverse.difference, reverse.b_better) == (-row.difference, 0)
    assert (reverse.low, reverse.high) == pytest.approx((-row.high, -row.low))
    json.dumps(there.to_dict(), allow_nan=False)


def test_pairs_tell_more_than_each_side_alone():
    truth, results = random_scene(8, images=40)
    slightly = jittered(results, 1, 1.0)
    row = compare_detection(truth, results, slightly, resamples=400).figures["AP"]
    alone = bootstrap_detection(matches_of(truth, results), resamples=400).figures["AP"]
    assert row.high - row.low < 0.5 * (alone.high - alone.low)


def test_other_ground_truth_cannot_be_compared():
    truth, results = random_scene(0)
    less = truth | {"annotations": truth["annotations"][1:]}
    with pytest.raises(ValueError, match=r"they differ in objects$"):
        compare_matches(matches_of(truth, results), matches_of(less, results))
    with pytest.raises(ValueError, match=r"they differ in IoU thresholds$"):
        compare_matches(matches_of(truth, results), matches_of(truth, results, iou_thresholds=[0.5]))
