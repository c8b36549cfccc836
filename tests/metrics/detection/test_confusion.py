"""Confusion matrix and best thresholds: by hand, by plain loops, laws and edges."""

import json
import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detseg.metrics.detection.confusion import best_thresholds, confusion_matrix
from detseg.metrics.detection.inputs import read_found, read_truth
from detseg.metrics.detection.matching import match
from tests.metrics.scenes import CATEGORIES, classes_of, random_scene, with_masks

BOX, CLOSE, NEAR, ASIDE = (10, 10, 50, 50), (10, 20, 50, 50), (10, 40, 50, 50), (200, 200, 50, 50)
ROSE, TULIP = 1, 2
NAMES = ("rose", "tulip")


def matrix(objects, found, score_threshold=0.0, **options):
    truth, results = classes_of(objects, found, NAMES, images=2)
    return confusion_matrix(truth, results, score_threshold=score_threshold, **options)


def thresholds_of(objects, found, **options):
    truth, results = classes_of(objects, found, NAMES, images=2)
    truth = read_truth(truth, "bbox")
    return best_thresholds(match(truth, read_found(results, truth, "bbox"), "bbox"), **options)


# ------------------------------------------------------------------ confusion matrix


def test_matrix_by_hand():
    objects = [(1, ROSE, BOX), (1, TULIP, ASIDE), (2, TULIP, BOX), (2, ROSE, ASIDE)]
    found = [
        (1, ROSE, BOX, 0.9),  # right
        (1, ROSE, ASIDE, 0.8),  # a tulip taken for a rose
        (2, TULIP, CLOSE, 0.7),  # right
        (2, TULIP, (300, 10, 50, 50), 0.6),  # nothing there
        (2, ROSE, ASIDE, 0.2),  # right, but below the threshold: missed
    ]
    confusion = matrix(objects, found, 0.5)
    assert confusion.counts.tolist() == [[1, 0, 1], [1, 1, 0], [0, 1, 0]]
    assert confusion.most_frequent() == [("tulip", "rose", 1)]
    assert matrix(objects, found, 0.2).counts.tolist() == [[2, 0, 0], [1, 1, 0], [0, 1, 0]]
    told = json.loads(json.dumps(confusion.to_dict(), allow_nan=False))
    assert told["classes"] == ["rose", "tulip", "background"] and told["counts"] == confusion.counts.tolist()


def test_the_best_overlap_comes_first_whatever_its_score():
    # The better scored detection is the worse placed one; each object and detection is matched once.
    found = [(1, TULIP, CLOSE, 0.9), (1, ROSE, BOX, 0.3)]
    assert matrix([(1, ROSE, BOX)], found).counts.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert matrix([(1, ROSE, BOX)], found, 0.5).counts.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_of_equal_overlaps_the_better_score_is_matched():
    found = [(1, TULIP, BOX, 0.3), (1, ROSE, BOX, 0.9)]
    assert matrix([(1, ROSE, BOX)], found).counts.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_thresholds_of_iou():
    near = matrix([(1, ROSE, BOX)], [(1, ROSE, NEAR, 0.9)])
    assert near.counts.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert matrix([(1, ROSE, BOX)], [(1, ROSE, NEAR, 0.9)], iou_threshold=0.25).counts[0, 0] == 1
    with pytest.raises(ValueError, match="above 0 and up to 1, got 0"):
        matrix([(1, ROSE, BOX)], [], iou_threshold=0)


def test_crowd_regions_excuse_their_class_only():
    objects = [(1, ROSE, (190, 190, 100, 100), True)]
    found = [(1, ROSE, ASIDE, 0.9), (1, TULIP, ASIDE, 0.8)]
    assert matrix(objects, found).counts.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_empty_sides():
    assert matrix([], []).counts.tolist() == [[0] * 3] * 3
    assert matrix([(1, TULIP, BOX)], []).counts.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert matrix([], [(1, TULIP, BOX, 0.5)]).counts.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert matrix([], []).most_frequent() == []


def looped(truth, results, score_threshold, iou_type):
    key = "bbox" if iou_type == "bbox" else "segmentation"
    number = {c: k for k, c in enumerate(CATEGORIES)}
    counts = np.zeros((5, 5), int)
    for image in truth["images"]:
        objects = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        mine = [r for r in results if r["image_id"] == image["id"] and r["score"] >= score_threshold]
        table = np.zeros((len(mine), len(objects)))
        if mine and objects:
            crowd = [a["iscrowd"] for a in objects]
            table = np.array(coco_mask.iou([r[key] for r in mine], [a[key] for a in objects], crowd))
        pairs = [(-table[d, o], -mine[d]["score"], d, o) for d in range(len(mine)) for o in range(len(objects))]
        found, taken = set(), set()
        for negative, _, d, o in sorted(pairs):
            if -negative >= 0.5 and not objects[o]["iscrowd"] and d not in found and o not in taken:
                found.add(d)
                taken.add(o)
                counts[number[objects[o]["category_id"]], number[mine[d]["category_id"]]] += 1
        for d, r in enumerate(mine):
            excused = [
                a["iscrowd"] and a["category_id"] == r["category_id"] and table[d, o] >= 0.5
                for o, a in enumerate(objects)
            ]
            if d not in found and not any(excused):
                counts[4, number[r["category_id"]]] += 1
        for o, a in enumerate(objects):
            if o not in taken and not a["iscrowd"]:
                counts[number[a["category_id"]], 4] += 1
    return counts


@pytest.mark.parametrize(("seed", "iou_type"), [(0, "bbox"), (1, "bbox"), (2, "bbox"), (5, "segm")])
@pytest.mark.parametrize("score_threshold", [0.0, 0.4])
def test_matrix_equals_plain_loops(seed, iou_type, score_threshold):
    truth, results = random_scene(seed, images=25)
    if iou_type == "segm":
        truth, results = with_masks(truth, results)
    confusion = confusion_matrix(truth, results, iou_type, score_threshold=score_threshold)
    assert confusion.counts.tolist() == looped(truth, results, score_threshold, iou_type).tolist()
    real = [a["category_id"] for a in truth["annotations"] if not a["iscrowd"]]
    assert confusion.counts[:-1].sum(axis=1).tolist() == [real.count(c) for c in CATEGORIES], "each object once"
    assert confusion.most_frequent(1)[0][2] == max(confusion.counts[i, j] for i in range(4) for j in range(4) if i != j)


# ------------------------------------------------------------------ best thresholds


def test_threshold_by_hand():
    # Roses, best first: hit, miss, hit, miss; three to be found. F1 after each: 2/4, 2/5, 4/6, 4/7.
    objects = [(1, ROSE, BOX), (1, ROSE, ASIDE), (2, ROSE, BOX), (2, TULIP, BOX)]
    found = [
        (1, ROSE, BOX, 0.9),
        (1, ROSE, (300, 10, 50, 50), 0.8),
        (1, ROSE, ASIDE, 0.7),
        (2, ROSE, (300, 10, 50, 50), 0.6),
        (2, TULIP, BOX, 0.1),
    ]
    best = thresholds_of(objects, found)
    rose, tulip = best.per_class
    assert (rose.score, rose.precision, rose.recall, rose.f1) == pytest.approx((0.7, 2 / 3, 2 / 3, 2 / 3))
    assert (tulip.score, tulip.precision, tulip.recall, tulip.f1) == (0.1, 1, 1, 1)
    # All together: hits 2 of 3 down to 0.7 with 4 objects, F1 4/7; all 3 of 5 down to 0.1, F1 6/9.
    overall = best.overall
    assert (overall.score, overall.precision, overall.recall, overall.f1) == pytest.approx((0.1, 3 / 5, 3 / 4, 2 / 3))
    assert json.loads(json.dumps(best.to_dict(), allow_nan=False))["per_class"][1]["f1"] == 1


def test_equal_scores_stay_together():
    # Cutting between the hit and the miss of the same score is not possible.
    found = [(1, ROSE, BOX, 0.5), (1, ROSE, (300, 10, 50, 50), 0.5)]
    best = thresholds_of([(1, ROSE, BOX)], found).per_class[0]
    assert (best.score, best.precision, best.f1) == pytest.approx((0.5, 0.5, 2 / 3))


def test_of_equally_good_scores_the_highest():
    # F1 is 2/3 after the first (of two objects), and again after miss, miss, hit: 4/6.
    found = [(1, ROSE, BOX, 0.9), *[(1, ROSE, (300, y, 20, 20), 0.8) for y in (10, 90)], (1, ROSE, ASIDE, 0.7)]
    best = thresholds_of([(1, ROSE, BOX), (1, ROSE, ASIDE)], found).per_class[0]
    assert best.score == 0.9 and best.f1 == pytest.approx(2 / 3)


def test_thresholds_without_hits_and_without_objects():
    rose, tulip = thresholds_of([(1, ROSE, BOX)], [(1, ROSE, ASIDE, 0.9), (1, TULIP, BOX, 0.8)]).per_class
    assert math.isnan(rose.score) and math.isnan(rose.precision) and (rose.recall, rose.f1) == (0, 0)
    assert all(math.isnan(v) for v in (tulip.score, tulip.precision, tulip.recall, tulip.f1))
    assert thresholds_of([(1, ROSE, BOX)], []).overall.f1 == 0
    assert math.isnan(thresholds_of([], [(1, ROSE, BOX, 0.9)]).overall.f1)


def test_detections_in_crowd_regions_do_not_count():
    objects = [(1, ROSE, BOX), (1, ROSE, (190, 190, 100, 100), True)]
    best = thresholds_of(objects, [(1, ROSE, ASIDE, 0.9), (1, ROSE, BOX, 0.8)]).per_class[0]
    assert (best.score, best.precision, best.f1) == (0.8, 1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_equal_trying_every_score(seed):
    truth, results = random_scene(seed, images=40, distinct=False)
    checked = read_truth(truth, "bbox")

    def counts(kept):
        matches = match(checked, read_found(kept, checked, "bbox"), "bbox")
        labels = np.repeat(np.arange(4), np.diff(matches.label_start))
        status = matches.status[0, 0]
        return [np.bincount(labels[status == wanted], minlength=4) for wanted in (1, 0)]

    objects = np.array(
        [sum(a["category_id"] == c and not a["iscrowd"] for a in truth["annotations"]) for c in CATEGORIES]
    )
    scores = sorted({r["score"] for r in results}, reverse=True)
    tried = np.array([counts([r for r in results if r["score"] >= score]) for score in scores])  # (S, 2, K)
    f1 = 2 * tried[:, 0, :3] / (tried.sum(axis=1)[:, :3] + objects[:3])
    best = best_thresholds(match(checked, read_found(results, checked, "bbox"), "bbox"))
    for k in range(3):
        assert best.per_class[k].f1 == pytest.approx(f1[:, k].max())
        assert best.per_class[k].score == scores[int(f1[:, k].argmax())]
    together = 2 * tried[:, 0].sum(1) / (tried[:, 0].sum(1) + tried[:, 1].sum(1) + objects.sum())
    # Of the class without objects every detection is a mistake, and counts here.
    assert best.overall.f1 == pytest.approx(together.max())
    assert best.overall.score == scores[int(together.argmax())]


def test_another_iou_threshold():
    found = [(1, ROSE, CLOSE, 0.9)]
    assert thresholds_of([(1, ROSE, BOX)], found, iou_threshold=0.75).per_class[0].f1 == 0
    assert thresholds_of([(1, ROSE, BOX)], found, iou_threshold=0.65).per_class[0].f1 == 1
    with pytest.raises(ValueError, match=r"no matches at IoU 0\.3"):
        thresholds_of([(1, ROSE, BOX)], found, iou_threshold=0.3)
