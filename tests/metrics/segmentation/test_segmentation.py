"""Figures of semantic segmentation: against scikit-learn, by hand, and the laws they follow."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, precision_score, recall_score

from detseg.metrics import SegmentationEvaluator, evaluate_segmentation
from tests.metrics.cases import case
from tests.metrics.label_scenes import IGNORE, label_scene

NAMES = ["sky", "grass", "flower", "path"]


def same(a, b):
    """Whether two metrics are equal to the last bit, NaN equal to NaN."""
    assert a.to_dict() == b.to_dict()
    for name in ("image_ids", "truth", "predicted", "hits", "boundary"):
        np.testing.assert_array_equal(getattr(a.images, name), getattr(b.images, name))


def judged(predictions, targets):
    """Flat true and predicted labels of what is not ignored."""
    true, found = (np.concatenate([m.ravel() for m in maps]) for maps in (targets, predictions))
    return true[true != IGNORE], found[true != IGNORE]


# ------------------------------------------------------------------ figures


def test_by_hand():
    target = np.array([[0, 0, 0, 1], [0, 0, 1, 255]])
    found = np.array([[0, 0, 1, 1], [0, 2, 1, 0]])
    m = evaluate_segmentation([target], [found], ["a", "b", "c"], boundary=False)
    assert m.confusion.dtype == np.int64 and m.confusion.tolist() == [[3, 1, 1], [0, 2, 0], [0, 0, 0]]
    assert m.pixel_accuracy == 5 / 7
    assert m.mean_accuracy == pytest.approx((3 / 5 + 1) / 2)
    assert m.miou == pytest.approx((3 / 5 + 2 / 3) / 2)  # "c" does not occur in truth: not in the mean
    assert m.frequency_weighted_iou == pytest.approx((5 * 3 / 5 + 2 * 2 / 3) / 7)
    assert m.dice == pytest.approx((6 / 8 + 4 / 5) / 2)
    assert [row.pixels for row in m.per_class] == [5, 2, 0] and [row.images for row in m.per_class] == [1, 1, 0]
    a, b, c = m.per_class
    assert (a.iou, a.dice, a.accuracy, a.precision) == (3 / 5, 6 / 8, 3 / 5, 1)
    assert (b.iou, b.precision) == (2 / 3, 2 / 3)
    assert math.isnan(c.iou) and math.isnan(c.dice) and math.isnan(c.accuracy) and c.precision == 0
    assert math.isnan(m.boundary_iou) and "boundary_iou" not in m.figures()
    assert m.names == ("a", "b", "c")


def test_scikit_learn_says_the_same():
    for seed in range(4):
        with case(seed):
            predictions, targets = label_scene(seed)
            m = evaluate_segmentation(targets, predictions, NAMES)
            true, found = judged(predictions, targets)
            expected = confusion_matrix(true, found, labels=range(4))
            np.testing.assert_array_equal(m.confusion, expected)
            assert (expected > 0).all() and expected.trace() < expected.sum()
            assert m.miou == pytest.approx(jaccard_score(true, found, average="macro"), abs=1e-12)
            assert m.dice == pytest.approx(f1_score(true, found, average="macro"), abs=1e-12)
            assert m.mean_accuracy == pytest.approx(recall_score(true, found, average="macro"), abs=1e-12)
            assert m.pixel_accuracy == pytest.approx((true == found).mean(), abs=1e-12)
            weighted = jaccard_score(true, found, average="weighted")
            assert m.frequency_weighted_iou == pytest.approx(weighted, abs=1e-12)
            for name, score in (("iou", jaccard_score), ("precision", precision_score), ("accuracy", recall_score)):
                values = [getattr(row, name) for row in m.per_class]
                np.testing.assert_allclose(values, score(true, found, average=None), atol=1e-12)


def test_classes_that_are_only_predicted_are_not_in_the_means():
    rng = np.random.default_rng(0)
    target, found = rng.integers(0, 3, (20, 30)), rng.integers(0, 6, (20, 30))
    m = evaluate_segmentation([target], [found], list("abcdef"))
    expected = jaccard_score(target.ravel(), found.ravel(), labels=[0, 1, 2], average="macro")
    assert m.miou == pytest.approx(expected, abs=1e-12)
    assert [math.isnan(row.iou) for row in m.per_class] == [False] * 3 + [True] * 3
    assert [math.isnan(row.boundary_iou) for row in m.per_class] == [False] * 3 + [True] * 3


def test_images_are_known_one_by_one():
    predictions, targets = label_scene(1)
    m = evaluate_segmentation(targets, predictions, NAMES, image_ids=[50, 40, 30, 20, 10])
    assert m.images.image_ids.tolist() == [10, 20, 30, 40, 50]
    for i, (prediction, target) in enumerate(zip(predictions[::-1], targets[::-1], strict=True)):
        alone = evaluate_segmentation([target], [prediction], NAMES)
        assert m.images.miou[i] == pytest.approx(alone.miou, abs=1e-12)
        np.testing.assert_array_equal(m.images.boundary[:, i], alone.images.boundary[:, 0])
    worst = m.images.worst(2).tolist()
    assert worst == np.argsort(m.images.miou)[:2].tolist()


def test_worst_leaves_out_what_cannot_be_judged():
    ignored, right, wrong = np.full((4, 4), 255), np.zeros((4, 4), int), np.ones((4, 4), int)
    m = evaluate_segmentation([ignored, right, right], [right, right, wrong], ["a", "b"])
    assert m.images.worst(10).tolist() == [2, 1] and m.images.worst(1).tolist() == [2]
    assert m.images.worst(0).tolist() == []
    assert math.isnan(m.images.miou[0])


# ------------------------------------------------------------------ laws


maps = st.integers(1, 9).flatmap(
    lambda h: st.integers(1, 9).flatmap(
        lambda w: st.tuples(
            arrays(np.int64, (h, w), elements=st.sampled_from([0, 1, 2, 3, IGNORE])),
            arrays(np.uint8, (h, w), elements=st.integers(0, 3)),
        )
    )
)


@settings(max_examples=60, deadline=None)
@given(st.lists(maps, min_size=1, max_size=4))
def test_any_maps(pairs):
    targets, predictions = zip(*pairs, strict=True)
    m = evaluate_segmentation(targets, predictions, NAMES)
    true, found = judged(predictions, targets)
    if not len(true):
        assert all(math.isnan(v) for v in m.figures().values())
        return
    np.testing.assert_array_equal(m.confusion, confusion_matrix(true, found, labels=range(4)))
    expected = jaccard_score(true, found, labels=np.unique(true), average="macro")
    assert m.miou == pytest.approx(expected, abs=1e-12)
    assert m.images.truth.sum() == len(true) == m.confusion.sum()
    assert (m.images.boundary[2] <= m.images.boundary[:2]).all()


def test_classes_may_be_named_in_another_order():
    predictions, targets = label_scene(3)
    there = np.array([2, 0, 3, 1])
    turned = evaluate_segmentation(
        [np.where(t == IGNORE, IGNORE, there[np.minimum(t, 3)]) for t in targets],
        [there[p] for p in predictions],
        NAMES,
    )
    m = evaluate_segmentation(targets, predictions, NAMES)
    np.testing.assert_array_equal(turned.confusion[np.ix_(there, there)], m.confusion)
    assert turned.figures() == pytest.approx(m.figures(), abs=1e-12)
    for k in range(4):
        assert turned.per_class[there[k]].boundary_iou == m.per_class[k].boundary_iou


def test_a_perfect_prediction():
    _, targets = label_scene(5)
    predictions = [np.where(t == IGNORE, 0, t) for t in targets]
    m = evaluate_segmentation(targets, predictions, NAMES)
    assert m.figures() == dict.fromkeys(m.figures(), 1.0)
    assert {row.boundary_iou for row in m.per_class} == {1.0}


def test_what_is_ignored_changes_nothing():
    predictions, targets = label_scene(6)
    m = evaluate_segmentation(targets, predictions, NAMES)
    rng = np.random.default_rng(0)
    other = [np.where(t == IGNORE, rng.integers(0, 4, t.shape), p) for p, t in zip(predictions, targets, strict=True)]
    assert any((a != b).any() for a, b in zip(other, predictions, strict=True))
    same(evaluate_segmentation(targets, other, NAMES), m)
    nothing = np.full((9, 9), IGNORE)
    more = evaluate_segmentation([*targets, nothing], [*predictions, np.zeros((9, 9), int)], NAMES)
    assert more.figures() == m.figures() and more.per_class == m.per_class


# ------------------------------------------------------------------ forms


def test_torch_and_numpy_of_any_width():
    for dtype in [torch.uint8, torch.int16, torch.int32, torch.int64]:
        with case(dtype):
            predictions, targets = label_scene(7)
            m = evaluate_segmentation(targets, predictions, NAMES)
            as_torch = [[torch.from_numpy(x.copy()).to(dtype) for x in side] for side in (targets, predictions)]
            same(evaluate_segmentation(*as_torch, NAMES), m)
            as_numpy = [[x.numpy() for x in side] for side in as_torch]
            same(evaluate_segmentation(*as_numpy, NAMES), m)


def test_slices_flips_and_read_only_arrays():
    predictions, targets = label_scene(8, images=1, height=41, width=53)
    p, t = predictions[0].astype(np.uint8), targets[0].astype(np.uint8)
    m = evaluate_segmentation([t[::-1, 1:].copy()], [p[::-1, 1:].copy()], NAMES)
    same(evaluate_segmentation([t[::-1, 1:]], [p[::-1, 1:]], NAMES), m)
    frozen = p[::-1, 1:].copy()
    frozen.setflags(write=False)
    same(evaluate_segmentation([t[::-1, 1:]], [frozen], NAMES), m)
    batch = np.stack([p, p])  # 41 · 53 is odd: the second begins at an odd address
    evaluator = SegmentationEvaluator(NAMES)
    evaluator.update(torch.from_numpy(batch), np.stack([t, t]), torch.tensor([7, 8]))
    np.testing.assert_array_equal(*evaluator.compute().images.hits)


def test_two_classes_as_truth_values():
    target = np.array([[True, False], [True, True]])
    m = evaluate_segmentation([target], [torch.tensor([[True, True], [True, False]])], ["a", "b"])
    assert m.confusion.tolist() == [[0, 1], [1, 2]]


def test_other_ignore_indices():
    for ignore_index in [-100, -1, 254, 1000]:
        with case(ignore_index):
            predictions, targets = label_scene(9)
            m = evaluate_segmentation(targets, predictions, NAMES)
            other = [np.where(t == IGNORE, ignore_index, t) for t in targets]
            same(evaluate_segmentation(other, predictions, NAMES, ignore_index=ignore_index), m)
            if ignore_index != 254:
                with pytest.raises(ValueError, match="value 255 at row"):
                    evaluate_segmentation(targets, predictions, NAMES, ignore_index=ignore_index)


def test_a_class_may_be_the_ignored_one():
    predictions, targets = label_scene(10, ignored=0)
    m = evaluate_segmentation(targets, predictions, NAMES, ignore_index=0)
    true, found = judged(predictions, targets)
    np.testing.assert_array_equal(m.confusion, confusion_matrix(true[true > 0], found[true > 0], labels=range(4)))
    assert math.isnan(m.per_class[0].iou) and not m.confusion[0].any() and m.confusion[:, 0].any()


def test_255_classes():
    rng = np.random.default_rng(0)
    target, found = rng.integers(0, 256, (200, 200)), rng.integers(0, 255, (200, 200))
    found = np.where((target < 255) & (rng.random(target.shape) < 0.7), target, found)
    m = evaluate_segmentation([target], [found], [f"class {k}" for k in range(255)])
    true, found = judged([found], [target])
    np.testing.assert_array_equal(m.confusion, confusion_matrix(true, found, labels=range(255)))
    with pytest.raises(ValueError, match="1 to 255 names of classes, got 256"):
        SegmentationEvaluator(["x"] * 256)
    with pytest.raises(ValueError, match="got 0"):
        SegmentationEvaluator([])


def test_generators_are_taken_one_by_one():
    predictions, targets = label_scene(11)
    lazily = evaluate_segmentation(iter(targets), (p for p in predictions), NAMES)
    same(lazily, evaluate_segmentation(targets, predictions, NAMES))


def test_as_json():
    nothing = evaluate_segmentation([np.full((3, 3), 255)], [np.zeros((3, 3), int)], NAMES).to_dict()
    assert set(nothing["figures"].values()) == {None} and nothing["pixels"] == 0 and nothing["images"] == 1
    assert json.loads(json.dumps(nothing)) == nothing


def test_an_image_without_pixels():
    m = evaluate_segmentation([np.zeros((0, 5), int)], [np.zeros((0, 5), int)], NAMES)
    assert m.confusion.sum() == 0 and math.isnan(m.miou)


# ------------------------------------------------------------------ mistakes


def test_wrong_maps_are_named():
    for prediction, target, message in [
        ([[0, 4]], [[0, 0]], r"predictions\[0\] \(image 5\): value 4 at row 0, column 1; .*classes 0 to 3"),
        ([[0, -1], [-1, 0]], [[0, 0]] * 2, r"value -1 at row 0, column 1 \(2 such pixels in all\)"),
        ([[0, 300]], [[0, 0]], "value 300 at"),
        ([[0, 0]], [[0, 9]], r"targets\[0\] \(image 5\): value 9 at row 0, column 1; .*nor ignore_index 255"),
        ([[0, 0]], [[-3, 0]], "value -3 at row 0, column 0"),
        ([[0, 0]], [[0], [0]], r"is \(1, 2\) \(height, width\), its target \(2, 1\)"),
        ([[0.0, 1.0]], [[0, 0]], r"whole numbers, got float64 \(1, 2\)"),
        (torch.zeros(1, 2), [[0, 0]], "whole numbers, got float32"),
        (torch.zeros(4, 1, 2), [[0, 0]], r"got float32 \(4, 1, 2\): for logits .* logits.argmax\(0\)"),
        ([0, 1], [[0, 0]], r"\(H, W\)"),
    ]:
        with case(prediction, target, message):
            evaluator = SegmentationEvaluator(NAMES)
            with pytest.raises(ValueError, match=message):
                evaluator.update([prediction], [target], [5])
            assert len(evaluator) == 0


def test_a_wrong_batch_leaves_nothing():
    good = np.zeros((2, 2), int)
    evaluator = SegmentationEvaluator(NAMES)
    with pytest.raises(ValueError, match=r"predictions\[1\] \(image 2\)"):
        evaluator.update([good, good + 4], [good, good], [1, 2])
    assert len(evaluator) == 0
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluator.compute()


def test_wrong_lengths_and_ids():
    good = np.zeros((2, 2), int)
    evaluator = SegmentationEvaluator(NAMES)
    with pytest.raises(ValueError, match="2 predictions, 1 targets and 2 image ids"):
        evaluator.update([good, good], [good], [1, 2])
    with pytest.raises(ValueError, match=r"image_ids\[0\]: an id must be a whole number, got 1.5"):
        evaluator.update([good], [good], [1.5])
    with pytest.raises(ValueError, match="targets end after 1"):
        evaluate_segmentation([good], [good, good], NAMES)
    with pytest.raises(ValueError, match="image_ids end after 0"):
        evaluate_segmentation([good], [good], NAMES, image_ids=[])
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluate_segmentation([], [], NAMES)


def test_others_that_do_not_fit():
    evaluator = SegmentationEvaluator(NAMES)
    more = SegmentationEvaluator([*NAMES, "sea"])
    more.update([np.full((2, 2), 4)], [np.zeros((2, 2), int)], [0])
    for other, differing in (
        (SegmentationEvaluator(["a"]), "names"),
        (SegmentationEvaluator(NAMES, ignore_index=0), "ignore_index"),
        (SegmentationEvaluator(NAMES, boundary=False), "boundary"),
        (SegmentationEvaluator([*NAMES[1:], NAMES[0]]), "names"),
        (more, "names"),
    ):
        for side in (other, other.state()):
            with pytest.raises(ValueError, match=f"evaluators that differ in {differing} cannot be merged"):
                evaluator.merge(side)


def test_16_bits_without_a_sign():
    evaluator = SegmentationEvaluator(NAMES)
    maps = torch.tensor([[[0, 1], [2, 3]]], dtype=torch.uint16)
    evaluator.update(maps, maps, [0])
    assert evaluator.compute().miou == 1
