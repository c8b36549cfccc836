"""Metrics of localizers: a case by hand, the edges, the intervals."""

import json
import math

import numpy as np
import pytest
import torch

from detseg.metrics.localization import LocalizationEvaluator, evaluate_localization
from tests.metrics.cases import case

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


@pytest.mark.slow
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
    assert found.images == 0
    assert found.intervals == {}
    json.dumps(found.to_dict(), allow_nan=False)


def judged(scores, scores_without):
    labels = np.zeros(len(scores), np.int64)
    boxes = np.tile([0.0, 0, 1, 1], (len(scores), 1))
    return evaluate_localization(
        boxes, labels, boxes, labels, ["a"], scores=np.array(scores), scores_without=np.array(scores_without)
    )


def test_objectness_by_hand():
    found = judged([0.9, 0.5, 0.2], [0.5, 0.1])  # of six pairs four are in order, one is equal
    assert found.objectness == pytest.approx(4.5 / 6)
    assert found.quality == pytest.approx((1 + 4.5 / 6) / 2)
    assert (found.images, found.without) == (3, 2)
    assert found.figures()["objectness"] == found.objectness and found.to_dict()["without"] == 2
    assert judged([0.9, 0.8], [0.1]).objectness == 1 and judged([0.1], [0.2]).objectness == 0
    assert judged([0.5], [0.5, 0.5]).objectness == 0.5, "chance"


@pytest.mark.slow
def test_objectness_is_the_area_under_the_roc_curve():
    for digits in [1, 9]:
        with case(digits):
            from sklearn.metrics import roc_auc_score

            rng = np.random.default_rng(0)
            for _ in range(20):
                present, absent = rng.normal(0.6, 0.2, rng.integers(1, 60)), rng.normal(0.4, 0.2, rng.integers(1, 60))
                present, absent = present.round(digits), absent.round(digits)
                truth = np.repeat([1, 0], [len(present), len(absent)])
                expected = roc_auc_score(truth, np.concatenate([present, absent]))
                assert judged(present, absent).objectness == pytest.approx(expected)


def test_without_images_of_both_kinds_objectness_is_unknown():
    for found in (judged([0.5], []), judged([], [0.5])):
        assert math.isnan(found.objectness) and math.isnan(found.quality)
        assert "objectness" not in found.figures()
        json.dumps(found.to_dict(), allow_nan=False)


def test_all_alike_has_no_limits():
    labels = np.zeros(2, np.int64)
    found = evaluate_localization(TRUE[:2], labels, TRUE[:2], labels, ["a"])
    assert (found.mean_iou, found.accuracy) == (1, 1)
    assert math.isnan(found.intervals["accuracy"].low)


def test_mistakes():
    for changes, message in [
        ({"boxes": FOUND[:3]}, "boxes has shape"),
        ({"labels": np.zeros(3)}, "labels has shape"),
        ({"boxes": np.where(FOUND > 20, np.nan, FOUND)}, "boxes of image 3 is not finite"),
        ({"true_labels": np.array([0, 0, 0, 3])}, r"0\.\.2"),
        ({"scores": np.zeros(3)}, "scores has shape"),
        ({"scores": np.array([0, 0, np.nan, 0])}, "scores of image 2 is not finite"),
        ({"scores_without": np.zeros((2, 2))}, "scores_without has shape"),
        ({"scores_without": np.array([np.inf])}, "scores_without of image 0 is not finite"),
    ]:
        with case(changes, message):
            given = {"boxes": FOUND, "labels": np.zeros(4), "true_boxes": TRUE, "true_labels": np.zeros(4, np.int64)}
            with pytest.raises(ValueError, match=message):
                evaluate_localization(**(given | changes), names=["a", "b", "c"])


# ------------------------------------------------------------------ batch by batch


def prediction(box, label=0, score=0.5):
    return {"boxes": torch.tensor([box], dtype=torch.float32), "labels": torch.tensor([label]), "scores": [score]}


def target(*objects):
    """Objects (box, label, crowd)."""
    boxes, labels, crowd = zip(*objects, strict=True) if objects else ([], [], [])
    return {"boxes": np.array(boxes, float).reshape(-1, 4), "labels": np.array(labels, int), "iscrowd": list(crowd)}


def test_the_evaluator_takes_the_largest_object_of_each_image():
    small, large = (0, 0, 5, 5), (0, 0, 10, 10)
    evaluator = LocalizationEvaluator(["a", "b"])
    predictions = [prediction(large, 1, 0.9), prediction(small, 0, 0.8), prediction(small, 0, 0.1), prediction(large)]
    targets = [
        target((small, 0, False), (large, 1, False)),  # the large one is found
        target((small, 0, False), (large, 1, True)),  # the crowd region is none
        target(),  # counts for objectness
        target((large, 0, True)),  # does not count
    ]
    evaluator.update(predictions, targets, [4, 3, 2, 1])
    found = evaluator.compute()
    assert (found.images, found.without) == (2, 1)
    assert (found.mean_iou, found.accuracy, found.objectness) == (1, 1, 1)
    expected = evaluate_localization(
        np.array([small, large]), np.array([0, 1]), np.array([small, large]), np.array([0, 1]), ["a", "b"],
        scores=np.array([0.8, 0.9]), scores_without=np.array([0.1]),
    )  # fmt: skip
    assert found.to_dict() == expected.to_dict()


def test_mistakes_in_a_batch_are_named():
    evaluator = LocalizationEvaluator(["a"])
    two = {"boxes": np.ones((2, 4)), "labels": np.zeros(2, int), "scores": np.ones(2)}
    good, real = prediction((0, 0, 1, 1)), target(((0, 0, 1, 1), 0, False))
    for arguments, message in (
        (([good, two], [real, real], [5, 6]), "image 6: give one box an image, got 2"),
        (([prediction((0, 0, 1, 1), 3)], [real], [5]), "image 5: the prediction, entry 0: label 3"),
        (([good], [target(((0, 0, 1, 1), 2, False))], [5]), "image 5: the target, entry 0: label 2"),
        (([good], [real, real], [5]), "1 predictions, 2 targets and 1 image ids"),
    ):
        with case(message), pytest.raises(ValueError, match=message):
            evaluator.update(*arguments)
    assert len(evaluator) == 0
    with pytest.raises(ValueError, match="list of names is empty"):
        LocalizationEvaluator([])
