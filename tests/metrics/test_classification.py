"""Metrics of classifiers against scikit-learn, slow loops and cases worked out by hand."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from detseg.metrics.bootstrap.classification import compare_classification
from detseg.metrics.classification import FIGURES, ClassificationEvaluator, calibrate
from tests.metrics.cases import case

NAMES = tuple(f"class {k}" for k in range(8))


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def answers():
    """Logits and labels of 300 images, right in about half of the cases; no image of class 5, none taken for 6."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 4, 6, 7], 300)
    logits = rng.normal(0, 1, (300, 8))
    logits[np.arange(300), labels] += 1.5
    logits[:, 6] = -9 + rng.random(300)
    return logits, labels


def evaluated(logits, labels, names=NAMES, scores="logits", **options):
    evaluator = ClassificationEvaluator(names, scores)
    evaluator.update(logits, labels, np.arange(len(labels)))
    return evaluator.compute(**options)


def test_figures_are_those_of_scikit_learn(answers):
    logits, labels = answers
    predicted, probabilities = logits.argmax(1), softmax(logits)
    found = evaluated(logits, labels)
    assert found.images == 300
    assert found.top1 == pytest.approx(oracle.accuracy_score(labels, predicted))
    assert found.top5 == pytest.approx(oracle.top_k_accuracy_score(labels, logits, k=5, labels=range(8)))
    with pytest.warns(UserWarning):  # class 5 is predicted and has no images
        assert found.mean_class_accuracy == pytest.approx(oracle.balanced_accuracy_score(labels, predicted))
    assert found.log_loss == pytest.approx(oracle.log_loss(labels, probabilities, labels=range(8)))
    assert np.array_equal(found.confusion, oracle.confusion_matrix(labels, predicted, labels=range(8)))
    rows = oracle.classification_report(
        labels, predicted, labels=range(8), target_names=NAMES, output_dict=True, zero_division=np.nan
    )
    for row in found.per_class:
        expected = rows[row.name]
        assert row.count == expected["support"]
        assert row.recall == pytest.approx(expected["recall"], nan_ok=True)
        assert row.precision == pytest.approx(expected["precision"], nan_ok=True)
        if row.count:
            assert row.f1 == pytest.approx(expected["f1-score"])
    present = sorted(set(labels.tolist()))
    macro = oracle.f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(macro)
    assert math.isnan(found.per_class[5].recall) and math.isnan(found.per_class[6].precision)
    assert found.per_class[6].f1 == 0


def test_a_case_by_hand():
    probabilities = [[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.2, 0.5, 0.3], [0.0, 0.0, 1.0]]
    found = evaluated(np.array(probabilities), [0, 0, 1, 2], ("a", "b", "c"), "probabilities")
    assert found.top1 == 0.75 and found.top5 == 1.0
    assert found.mean_class_accuracy == pytest.approx((0.5 + 1 + 1) / 3)
    assert found.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found.log_loss == pytest.approx(-np.log([0.7, 0.4, 0.5, 1.0]).mean())
    # Bins of 1/15: 0.7 alone, both 0.5 together (one of two right), 1.0 alone.
    assert found.calibration_error == pytest.approx((0.3 + 2 * 0.0 + 0.0) / 4)
    assert found.most_confused() == [("a", "b", 1)]
    a, b, _ = found.per_class
    assert (a.precision, a.recall, a.f1) == (1, 0.5, pytest.approx(2 / 3))
    assert (b.predicted, b.precision, b.recall) == (2, 0.5, 1)


def test_logits_and_their_probabilities_are_judged_alike(answers):
    logits, labels = answers
    a, b = evaluated(logits, labels), evaluated(softmax(logits), labels, scores="probabilities")
    assert a.figures() == pytest.approx(b.figures())
    shifted = evaluated(logits + 1000 * np.arange(300)[:, None], labels)
    assert shifted.figures() == pytest.approx(a.figures())


def test_calibration_is_that_of_a_slow_loop():
    rng = np.random.default_rng(1)
    confidence = np.concatenate([rng.random(500), np.arange(16) / 15])  # the edges of the bins too
    right = rng.random(516) < confidence**2
    found = calibrate(confidence, right)
    error = 0.0
    for b in range(15):
        low, high = found.edges[b], found.edges[b + 1]
        members = [i for i, c in enumerate(confidence) if low < c <= high or (b == 0 and c == 0)]
        assert found.counts[b] == len(members)
        gap = abs(np.mean(right[members]) - np.mean(confidence[members]))
        error += len(members) / 516 * gap
    assert found.error == pytest.approx(error)
    assert math.isnan(calibrate(np.array([0.5]), np.array([True])).accuracy[0])


def test_a_calibrated_classifier_has_almost_no_error_and_a_boastful_one_its_gap():
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.5, 1, 200_000)
    assert calibrate(confidence, rng.random(200_000) < confidence).error < 0.005
    assert calibrate(np.full(1000, 0.9), np.arange(1000) < 600).error == pytest.approx(0.3)


def test_among_equal_scores_the_lower_label_comes_first():
    found = evaluated(np.zeros((8, 8)), np.arange(8))
    assert found.top1 == 1 / 8 and found.top5 == 5 / 8
    assert found.confusion[:, 0].tolist() == [1] * 8


def test_batches_order_merging_and_repeats_make_no_difference(answers):
    logits, labels = answers
    whole = evaluated(logits, labels)
    first, second = ClassificationEvaluator(NAMES), ClassificationEvaluator(NAMES)
    order = np.random.default_rng(3).permutation(300)
    for start in range(0, 300, 64):
        rows = order[start : start + 64]
        side = first if start % 128 else second
        side.update(torch.from_numpy(logits[rows]), torch.from_numpy(labels[rows]), torch.from_numpy(rows))
    second.update(logits[:10], labels[:10], np.arange(10))  # again, as a sampler that fills the last batch
    first.merge(pickle.loads(pickle.dumps(second)))
    first.merge(second.state())
    assert len(first) == 300
    found = first.compute()
    assert found.images == 300
    assert found.figures() == pytest.approx(whole.figures())
    assert np.array_equal(found.confusion, whole.confusion)
    with pytest.raises(ValueError, match="differ in names"):
        first.merge(ClassificationEvaluator(NAMES[::-1]).state())


def test_half_precision_is_taken(answers):
    logits, labels = answers
    found = evaluated(torch.from_numpy(logits).bfloat16(), torch.from_numpy(labels))
    assert found.log_loss == pytest.approx(evaluated(logits, labels).log_loss, rel=1e-2)
    halves = torch.from_numpy(softmax(logits)).bfloat16()
    assert evaluated(halves, labels, scores="probabilities").images == 300


def test_a_class_that_was_ruled_out_costs_much_but_not_infinitely():
    probabilities = np.array([[1.0, 0.0], [0.25, 0.75]])
    found = evaluated(probabilities, [1, 1], ("a", "b"), "probabilities")
    assert found.log_loss == pytest.approx(oracle.log_loss([1, 1], probabilities, labels=[0, 1]))


# ------------------------------------------------------------------ intervals


def test_intervals_are_those_of_a_plain_bootstrap(answers):
    logits, labels = answers
    found = evaluated(logits, labels, resamples=4000)
    ranks = (logits > logits[np.arange(300), labels][:, None]).sum(1)
    rng = np.random.default_rng(5)
    spread = {"top1": [], "top5": [], "mean_class_accuracy": []}
    for _ in range(4000):
        drawn = rng.integers(0, 300, 300)
        spread["top1"].append((ranks[drawn] < 1).mean())
        spread["top5"].append((ranks[drawn] < 5).mean())
        recalls = [(ranks[drawn][labels[drawn] == k] < 1).mean() for k in set(labels[drawn].tolist())]
        spread["mean_class_accuracy"].append(np.mean(recalls))
    for name, values in spread.items():
        interval = found.intervals[name]
        assert interval.value == found.figures()[name]
        np.testing.assert_allclose([interval.low, interval.high], np.quantile(values, [0.025, 0.975]), atol=0.006)


def test_intervals_repeat_and_can_be_left_out(answers):
    a, b = evaluated(*answers, resamples=200), evaluated(*answers, resamples=200)
    assert a.intervals == b.intervals
    assert evaluated(*answers, resamples=200, seed=1).intervals != a.intervals
    wide, narrow = evaluated(*answers, level=0.99).intervals["top1"], evaluated(*answers, level=0.5).intervals["top1"]
    assert wide.low < narrow.low < narrow.high < wide.high
    assert evaluated(*answers, resamples=0).intervals == {}


def test_intervals_are_unknown_where_all_images_are_right():
    found = evaluated(np.eye(8), np.arange(8))
    assert found.top1 == 1
    assert math.isnan(found.intervals["top1"].low)


def test_comparison_of_two_classifiers(answers):
    logits, labels = answers
    better = logits.copy()
    better[np.arange(60), labels[:60]] += 9
    comparison = compare_classification(labels, logits, better, resamples=4000)
    a, b = evaluated(logits, labels), evaluated(better, labels)
    for name in ("top1", "mean_class_accuracy"):
        figure = comparison.figures[name]
        assert (figure.a, figure.b) == (a.figures()[name], pytest.approx(b.figures()[name]))
        assert 0 < figure.low < figure.difference < figure.high and figure.b_better == 1
    for row, first, second in zip(comparison.per_class, a.per_class, b.per_class, strict=True):
        assert (row.a, row.b) == pytest.approx((first.recall, second.recall), nan_ok=True)
    # The plain bootstrap: the images that only b has right, drawn again.
    gain = (better.argmax(1) == labels).astype(int) - (logits.argmax(1) == labels)
    drawn = gain[np.random.default_rng(0).integers(0, 300, (4000, 300))].mean(axis=1)
    top1 = comparison.figures["top1"]
    np.testing.assert_allclose([top1.low, top1.high], np.quantile(drawn, [0.025, 0.975]), atol=0.006)
    same = compare_classification(labels, logits, logits, resamples=10).figures["top1"]
    assert same.difference == 0 and math.isnan(same.low) and math.isnan(same.b_better)
    json.dumps(comparison.to_dict(), allow_nan=False)
    with pytest.raises(ValueError, match=r"labels \(300,\), a \(300, 8\) and b \(299, 8\) do not fit"):
        compare_classification(labels, logits, logits[1:])


# ------------------------------------------------------------------ edges


def test_everything_as_json(answers):
    found = evaluated(*answers)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    largest = found.largest_class
    assert content["largest_class"] == {"name": largest.name, "share": largest.count / found.images}
    assert largest.count == max(row.count for row in found.per_class)
    assert content["top1"] == found.top1 and {figure.name for figure in FIGURES} <= set(content)
    assert content["per_class"][5]["recall"] is None
    assert content["intervals"]["top1"]["low"] == found.intervals["top1"].low
    assert sum(map(sum, content["confusion"])) == 300
    assert sum(content["calibration"]["counts"]) == 300


def test_one_image_of_one_class():
    found = evaluated(np.array([[3.0]]), [0], ("only",))
    assert found.figures() == dict.fromkeys([figure.name for figure in FIGURES], 0.0) | {
        "top1": 1.0,
        "top5": 1.0,
        "mean_class_accuracy": 1.0,
        "macro_f1": 1.0,
    }


def test_wrong_input_is_named():
    for scores, labels, ids, message in [
        (np.zeros((2, 3)), [0, 1], [0, 1], r"scores \(2, 3\).*expected \(N, 2\)"),
        (np.zeros((2, 2)), [0], [0, 1], r"labels \(1,\)"),
        (np.zeros((2, 2)), [0, 2], [5, 9], r"image 9: label 2 is not in 0\.\.1"),
        (np.zeros((2, 2)), [-1, -1], [5, 9], r"image 5: label -1 .*2 such items in all"),
        (np.array([[0, np.nan]]), [0], [7], "image 7: its scores hold NaN"),
        (np.array([[0, np.inf]]), [0], [7], "image 7: its scores hold NaN or infinity"),
        (np.zeros((1, 2)), [0.5], [7], "labels.*whole number"),
    ]:
        with case(scores, labels, ids, message), pytest.raises(ValueError, match=message):
            ClassificationEvaluator(("a", "b")).update(scores, labels, ids)


def test_what_are_no_probabilities():
    for row in [[0.5, 0.2], [1.5, -0.5], [3.0, 1.0]]:
        with case(row), pytest.raises(ValueError, match="image 3: no probabilities"):
            ClassificationEvaluator(("a", "b"), "probabilities").update(np.array([row]), [0], [3])


def test_wrong_use():
    with pytest.raises(ValueError, match="names is empty"):
        ClassificationEvaluator(())
    with pytest.raises(ValueError, match="'logits' or 'probabilities'"):
        ClassificationEvaluator(("a",), "scores")
    evaluator = ClassificationEvaluator(("a", "b"))
    evaluator.update(np.zeros((0, 2)), np.zeros(0, int), np.zeros(0, int))
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluator.compute()
    with pytest.raises(ValueError, match="differ in names"):
        evaluator.merge(ClassificationEvaluator(("b", "a")))
    evaluator.update(np.zeros((1, 2)), [0], [0])
    for options, message in (({"level": 1.0}, "level must be between 0 and 1"), ({"resamples": -1}, "at least 1")):
        with pytest.raises(ValueError, match=message):
            evaluator.compute(**options)
