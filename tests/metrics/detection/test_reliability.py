"""Reliability against a loop over bins and detections; its edges; what of the matches counts."""

import json
import math

import numpy as np
import pytest

from detseg.metrics import evaluate_detections
from detseg.metrics.detection.reliability import outcomes, reliability


def slow_error(scores, right):
    """Expected calibration error of the detections from 0.1, a bin after the other."""
    total, error = sum(score >= 0.1 for score in scores), 0.0
    for low in range(1, 10):
        inside = [
            (s, r) for s, r in zip(scores, right, strict=True) if low <= s * 10 and (s * 10 < low + 1 or low == 9)
        ]
        if inside:
            mean, share = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            error += len(inside) / total * abs(mean - share)
    return error


def test_against_a_loop():
    generator = np.random.default_rng(0)
    for count in (1, 2, 7, 300):
        scores = generator.random(count) * 0.9 + 0.1
        right = generator.random(count) < scores**2
        assert reliability(scores, right).error == pytest.approx(slow_error(scores, right), abs=1e-12)


def test_borders_of_bins_and_scores_that_are_left_out():
    found = reliability(np.array([0.0999, 0.1, 0.2, 0.3, 0.6, 0.7, 1.0]), np.ones(7, bool))
    assert found.counts.tolist() == [1, 1, 1, 0, 0, 1, 1, 0, 1]
    assert found.scores[0] == 0.1 and found.right[0] == 1 and math.isnan(found.right[3])
    assert json.loads(json.dumps(found.to_dict()))["right"][3] is None


def test_right_as_often_as_the_scores_say():
    generator = np.random.default_rng(1)
    scores = generator.random(100_000)
    assert reliability(scores, generator.random(100_000) < scores).error < 0.01


def test_no_detections():
    found = reliability(np.zeros(0), np.zeros(0, bool))
    assert math.isnan(found.error) and found.counts.sum() == 0
    assert math.isnan(reliability(np.array([0.05]), np.array([True])).error)


def scene(iou_thresholds=None):
    """One right, one false detection, a second of the same object, and one in a crowd region."""
    truth = {
        "images": [{"id": 1, "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [100, 100, 80, 80], "iscrowd": 1, "area": 6400},
        ],
    }
    boxes = {0.9: [10, 10, 40, 40], 0.8: [150, 10, 40, 40], 0.7: [12, 10, 40, 40], 0.6: [120, 120, 20, 20]}
    found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": score} for score, box in boxes.items()]
    return evaluate_detections(truth, found, iou_thresholds=iou_thresholds)


def test_what_counts():
    scores, right = outcomes(scene().matches)
    assert dict(zip(scores.tolist(), right.tolist(), strict=True)) == {0.9: True, 0.8: False, 0.7: False}
    assert scene().figures()["ECE"] == pytest.approx((0.1 + 0.8 + 0.7) / 3)
    assert math.isnan(scene([0.75]).figures()["ECE"]), "IoU 0.5 is not among the thresholds"
