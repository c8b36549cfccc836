"""Metrics of localizers: a case by hand, the edges, the intervals."""

import json
import math

import numpy as np
import pytest

from detseg.metrics.localization import evaluate_localization

TRUE = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 15, 15.0]])
# IoU 1, 0.6, 0.25, 0
FOUND = np.array([[0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 5, 5], [20, 20, 30, 30.0]])


def test_a_case_by_hand():
    found = evaluate_localization(FOUND, np.array([0, 1, 0, 2]), TRUE, np.array([0, 0, 0, 2]), ["a", "b", "c"])
    assert found.ious.tolist() == pytest.approx([1, 0.6, 0.25, 0])
    assert found.mean_iou == pytest.approx(1.85 / 4)
    assert found.accuracy == 0.75
    assert found.localized == 0.25  # the second has the wrong class, the third the wrong place
    assert (found.iou50, found.iou75) == (0.5, 0.25)
    assert [(row.name, row.count) for row in found.per_class] == [("a", 3), ("b", 0), ("c", 1)]
    assert found.per_class[0].mean_iou == pytest.approx(1.85 / 3)
    assert found.per_class[0].accuracy == pytest.approx(2 / 3)
    assert math.isnan(found.per_class[1].accuracy)
    interval = found.intervals["mean_iou"]
    assert interval.low < interval.value == found.mean_iou < interval.high
    json.dumps(found.to_dict(), allow_nan=False)


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        side = rng.uniform(0.2, 1, 80)
        boxes = np.column_stack([np.zeros((80, 2)), side, np.ones(80)])
        wanted = np.tile([0.0, 0, 1, 1], (80, 1))
        labels = np.zeros(80, np.int64)
        limits = evaluate_localization(boxes, labels, wanted, labels, ["a"], resamples=200).intervals["mean_iou"]
        hits += limits.low <= 0.6 <= limits.high
    assert 0.89 <= hits / 200 <= 0.99


def test_nothing_to_judge():
    none = np.zeros(0, np.int64)
    found = evaluate_localization(np.zeros((0, 4)), none, np.zeros((0, 4)), none, ["a"])
    assert math.isnan(found.mean_iou)
    assert found.pictures == 0
    assert found.intervals == {}
    json.dumps(found.to_dict(), allow_nan=False)


def test_all_alike_has_no_limits():
    labels = np.zeros(2, np.int64)
    found = evaluate_localization(TRUE[:2], labels, TRUE[:2], labels, ["a"])
    assert (found.mean_iou, found.accuracy) == (1, 1)
    assert math.isnan(found.intervals["accuracy"].low)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": FOUND[:3]}, "boxes has shape"),
        ({"labels": np.zeros(3)}, "labels has shape"),
        ({"boxes": np.where(FOUND > 20, np.nan, FOUND)}, "boxes of picture 3 is not finite"),
        ({"true_labels": np.array([0, 0, 0, 3])}, r"0\.\.2"),
    ],
)
def test_mistakes(changes, message):
    given = {"boxes": FOUND, "labels": np.zeros(4), "true_boxes": TRUE, "true_labels": np.zeros(4, np.int64)}
    with pytest.raises(ValueError, match=message):
        evaluate_localization(**(given | changes), names=["a", "b", "c"])
