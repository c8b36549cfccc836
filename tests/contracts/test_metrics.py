"""What every evaluator must keep: parts merge to the whole, whatever their order, number and process."""

import json
import pickle
from typing import NamedTuple

import numpy as np
import pytest

from detseg.metrics import (
    ClassificationEvaluator,
    DetectionEvaluator,
    InstanceEvaluator,
    LocalizationEvaluator,
    SegmentationEvaluator,
)
from detseg.metrics.evaluator import Evaluator
from detseg.metrics.figure import Metric

NAMES = ["rose", "tulip", "daisy"]
IMAGES = 12


class Case(NamedTuple):
    make: object  # () -> evaluator
    other: object  # () -> evaluator that does not fit
    images: list  # (prediction, target) of each image


def boxes(rng, count):
    corners = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(10, 40, (count, 2))], axis=1)


def detection_case(rng, masks=False, both=False):
    images = []
    for _ in range(IMAGES):
        real, labels = boxes(rng, 4), rng.integers(0, 3, 4)
        found = np.concatenate([real + rng.normal(0, 2, real.shape), boxes(rng, 2)]).clip(0, 110)
        prediction = {"boxes": found, "scores": rng.random(6), "labels": np.r_[labels, rng.integers(0, 3, 2)]}
        target = {"boxes": real, "labels": labels, "iscrowd": np.arange(4) == 3}
        if masks or both:
            prediction["masks"], target["masks"] = rng.random((6, 20, 30)) < 0.5, rng.random((4, 20, 30)) < 0.5
        images.append((prediction, target))
    if both:
        return Case(lambda: InstanceEvaluator(NAMES), lambda: InstanceEvaluator(NAMES[::-1]), images)
    kind = "segm" if masks else "bbox"
    return Case(lambda: DetectionEvaluator(NAMES, kind), lambda: DetectionEvaluator(NAMES[::-1], kind), images)


def segmentation_case(rng):
    images = [tuple(rng.integers(0, 3, (2, 9, 11))) for _ in range(IMAGES)]
    return Case(lambda: SegmentationEvaluator(NAMES), lambda: SegmentationEvaluator(NAMES, ignore_index=0), images)


def classification_case(rng):
    images = [(rng.normal(0, 1, 3), int(rng.integers(0, 3))) for _ in range(IMAGES)]
    return Case(lambda: ClassificationEvaluator(NAMES), lambda: ClassificationEvaluator(NAMES[:2]), images)


def localization_case(rng):
    images = []
    for i in range(IMAGES):
        real, labels = boxes(rng, i % 3), rng.integers(0, 3, i % 3)  # every third image has no object
        found = {"boxes": boxes(rng, 1), "scores": rng.random(1), "labels": rng.integers(0, 3, 1)}
        images.append((found, {"boxes": real, "labels": labels}))
    return Case(lambda: LocalizationEvaluator(NAMES), lambda: LocalizationEvaluator(NAMES[::-1]), images)


CASES = {
    "detection": detection_case,
    "masks": lambda rng: detection_case(rng, masks=True),
    "boxes and masks": lambda rng: detection_case(rng, both=True),
    "segmentation": segmentation_case,
    "classification": classification_case,
    "localization": localization_case,
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param](np.random.default_rng(0))


def updated(case, *parts, evaluator=None):
    """An evaluator after one update with the images of each part."""
    evaluator = case.make() if evaluator is None else evaluator
    for part in parts:
        predictions, targets = ([case.images[i][side] for i in part] for side in (0, 1))
        if isinstance(evaluator, ClassificationEvaluator):
            predictions = np.array(predictions).reshape(-1, 3)
        evaluator.update(predictions, targets, [100 + i for i in part])
    return evaluator


def figures(evaluator):
    return json.loads(json.dumps(evaluator.compute().to_dict(), allow_nan=False))


def same(a, b):
    """Equal but for rounding: sums may be taken in another order."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and a == pytest.approx(b, abs=1e-12))


def test_is_a_metric(case):
    assert isinstance(case.make(), Evaluator) and isinstance(case.make(), Metric)


def test_parts_in_any_order_are_the_whole(case):
    whole = updated(case, range(IMAGES))
    expected = figures(whole)
    order = np.random.default_rng(1).permutation(IMAGES).tolist()
    assert same(figures(updated(case, order)), expected), "order"
    assert same(figures(updated(case, *[[i] for i in order])), expected), "one by one"
    assert same(figures(updated(case, order[:5], order[3:], order[:2])), expected), "repeated images count once"
    assert len(updated(case, order, order)) == IMAGES
    # As distributed samplers have it: the last share begins again to fill up. Sent whole, and as a state.
    shares = [order[:4], order[4:8], [*order[8:], order[0]], []]
    for send in (lambda share: share, lambda share: share.state()):
        merged = case.make()
        for share in shares:
            merged.merge(pickle.loads(pickle.dumps(send(updated(case, share)))))
        assert len(merged) == IMAGES
        assert same(figures(merged), expected), "merged"


def test_compute_changes_nothing_and_more_may_follow(case):
    evaluator = updated(case, range(5))
    assert figures(evaluator) == figures(evaluator)
    assert same(figures(updated(case, range(5, IMAGES), evaluator=evaluator)), figures(updated(case, range(IMAGES))))
    with pytest.raises(ValueError, match="no images to evaluate: call update first"):
        case.make().compute()


def test_many_small_parts_are_joined(case, monkeypatch):
    monkeypatch.setattr("detseg.metrics.evaluator._MOST_PARTS", 2)
    evaluator = case.make()
    for i in range(IMAGES):
        updated(case, [i], evaluator=evaluator)
        assert len(evaluator._parts) <= 3
    assert same(figures(evaluator), figures(updated(case, range(IMAGES))))


def test_evaluators_that_do_not_fit_are_refused(case):
    evaluator, other = updated(case, range(3)), case.other()
    for stranger in (other, other.state()):
        with pytest.raises(ValueError, match=r"evaluators that differ in (names|ignore_index).* cannot be merged"):
            evaluator.merge(stranger)
    with pytest.raises(ValueError, match="the other state has image_ids; this evaluator has image_ids, "):
        evaluator.merge({name: evaluator.state()[name] for name in (*evaluator._settings(), "image_ids")})
    assert len(evaluator) == 3
