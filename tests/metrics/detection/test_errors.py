"""What errors cost: a scene with one error of each kind, plain loops and pycocotools as oracle, laws."""

import json
import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detseg.metrics import evaluate_detections
from detseg.metrics.detection.error_analysis import CORRECT, IGNORED, KINDS, analyse_errors
from tests.metrics.cases import case
from tests.metrics.scenes import classes_of, coco_ap50, random_scene, with_masks

# IoU of BOX with NEAR: 50 x 20 of 50 x 80, 0.25. With CLOSE: 50 x 40 of 50 x 60, 0.67. With TOUCH: 250 of 4750, 0.05.
BOX, CLOSE, NEAR, TOUCH, ASIDE = (
    (10, 10, 50, 50),
    (10, 20, 50, 50),
    (10, 40, 50, 50),
    (10, 55, 50, 50),
    (200, 200, 50, 50),
)
ROSE, TULIP = 1, 2
NAMES = ("rose", "tulip")


def analysis_of(objects, found, **options):
    return analyse_errors(*classes_of(objects, found, NAMES), **options)


def told(analysis):
    return {name: cost.count for name, cost in analysis.errors.items() if cost.count}


# ------------------------------------------------------------------ one error of each kind


def test_one_error_of_each_kind():
    for kind, objects, found, before in [
        # The wrong one comes first, so one hit of one object has precision 1/2.
        ("background", [(1, ROSE, BOX)], [(1, ROSE, ASIDE, 0.9), (1, ROSE, BOX, 0.8)], 0.5),
        ("background", [(1, ROSE, BOX)], [(1, ROSE, TOUCH, 0.9), (1, ROSE, BOX, 0.8)], 0.5),
        # Precision 1 up to the first object, then 2/3: the duplicate stands between them.
        (
            "duplicate",
            [(1, ROSE, BOX), (1, ROSE, ASIDE)],
            [(1, ROSE, BOX, 0.9), (1, ROSE, CLOSE, 0.8), (1, ROSE, ASIDE, 0.7)],
            (51 + 50 * 2 / 3) / 101,
        ),
        # The tulip is where the false rose is, but not near enough to be mistaken for it.
        (
            "both",
            [(1, ROSE, ASIDE), (1, TULIP, BOX)],
            [(1, ROSE, NEAR, 0.9), (1, ROSE, ASIDE, 0.8), (1, TULIP, BOX, 0.8)],
            (0.5 + 1) / 2,
        ),
        ("localisation", [(1, ROSE, BOX)], [(1, ROSE, NEAR, 0.9)], 0),
        ("classification", [(1, TULIP, BOX)], [(1, ROSE, CLOSE, 0.9)], 0),
        ("missed", [(1, ROSE, BOX), (1, ROSE, ASIDE)], [(1, ROSE, BOX, 0.9)], 51 / 101),
    ]:
        with case(kind, objects, found, before):
            analysis = analysis_of(objects, found)
            assert told(analysis) == {kind: 1}
            assert analysis.ap == pytest.approx(before)
            for name, cost in analysis.errors.items():
                assert cost.gain == pytest.approx(1 - before if name == kind else 0), name
            assert [KINDS[k] for k in analysis.kinds if k >= 0] == ([] if kind == "missed" else [kind])
            assert analysis.missed.tolist() == ([1] if kind == "missed" else [])


def test_totals():
    # A background one before a hit, and a missed object: precision 1/2 up to recall 1/2.
    analysis = analysis_of([(1, ROSE, BOX), (1, ROSE, ASIDE)], [(1, ROSE, (300, 10, 50, 50), 0.9), (1, ROSE, BOX, 0.8)])
    assert analysis.ap == pytest.approx(51 / 101 * 0.5)
    assert (analysis.false_positives.count, analysis.false_negatives.count) == (1, 1)
    assert analysis.false_positives.gain == pytest.approx(51 / 101 * 0.5)  # then precision is 1
    assert analysis.false_negatives.gain == pytest.approx(0.5 - 51 / 101 * 0.5)  # then recall is
    assert analysis.to_dict()["errors"]["false_positives"] == {"gain": analysis.false_positives.gain, "count": 1}
    json.dumps(analysis.to_dict(), allow_nan=False)


def test_an_object_is_mended_once():
    # Three near the same object: the best one finds it when mended, the others go, whatever their order.
    found = [(1, ROSE, NEAR, 0.7), (1, ROSE, NEAR, 0.9), (1, ROSE, NEAR, 0.8)]
    analysis = analysis_of([(1, ROSE, BOX), (1, ROSE, ASIDE)], found)
    assert told(analysis) == {"localisation": 3, "missed": 1}
    assert analysis.errors["localisation"].gain == pytest.approx(51 / 101)
    assert analysis.errors["missed"].gain == 0  # nothing is found either way


def test_an_object_that_was_found_is_not_found_again():
    found = [(1, ROSE, BOX, 0.9), (1, ROSE, NEAR, 0.8), (1, TULIP, BOX, 0.7), (1, TULIP, ASIDE, 0.6)]
    analysis = analysis_of([(1, ROSE, BOX), (1, TULIP, ASIDE)], found)
    assert told(analysis) == {"classification": 1, "localisation": 1}
    assert analysis.ap == pytest.approx((1 + 0.5) / 2)
    assert analysis.errors["classification"].gain == pytest.approx(0.25)
    assert analysis.errors["localisation"].gain == 0  # it came after all that can be found


def test_each_kind_is_put_right_by_itself():
    # A false class and a false box aim at the same object: either would find it.
    found = [(1, TULIP, CLOSE, 0.9), (1, ROSE, NEAR, 0.8)]
    analysis = analysis_of([(1, ROSE, BOX)], found)
    assert told(analysis) == {"classification": 1, "localisation": 1}
    # The false box comes after the mended class, and the false class is no rose.
    assert analysis.errors["classification"].gain == analysis.errors["localisation"].gain == 1


def test_crowd_regions_are_neither_found_nor_mistaken():
    objects = [(1, ROSE, BOX), (1, ROSE, (190, 190, 100, 100), True)]
    found = [(1, ROSE, ASIDE, 0.9), (1, TULIP, ASIDE, 0.85), (1, ROSE, BOX, 0.8)]
    analysis = analysis_of(objects, found)
    assert analysis.kinds.tolist() == [IGNORED, KINDS.index("background"), CORRECT]
    assert analysis.ap == 1 and analysis.false_negatives.count == 0


def test_what_a_crowd_region_excuses_is_no_error_and_mends_nothing():
    # It would find the tulip if its class were put right. But it is right as it is, and the tulip is missed.
    objects = [(1, TULIP, BOX), (1, ROSE, (0, 0, 100, 100), True), (1, ROSE, ASIDE)]
    analysis = analysis_of(objects, [(1, ROSE, CLOSE, 0.9), (1, ROSE, ASIDE, 0.8)])
    assert analysis.kinds.tolist() == [IGNORED, CORRECT]
    assert told(analysis) == {"missed": 1} and analysis.missed.tolist() == [0]


def test_levels_of_recall_are_cocos_to_the_last_digit():
    for found in [5, 7]:
        with case(found):
            # Recall 0.25 reaches the level 25; recall 0.35 is a rounding below COCO's level 35.
            places = [(20 * n, 10, 15, 15) for n in range(20)]
            truth, results = classes_of(
                [(1, ROSE, box) for box in places], [(1, ROSE, box, 0.9) for box in places[:found]], NAMES
            )
            truth["annotations"] = [a | {"area": 15 * 15} for a in truth["annotations"]]
            analysis = analyse_errors(truth, results)
            assert analysis.ap == pytest.approx({5: 26, 7: 35}[found] / 101, abs=1e-12)
            assert analysis.ap == pytest.approx(coco_ap50(truth, results), abs=1e-12)


def test_classes_without_objects_do_not_count():
    analysis = analysis_of([(1, ROSE, BOX)], [(1, ROSE, BOX, 0.9), (1, TULIP, ASIDE, 0.8)])
    assert analysis.ap == 1 and analysis.errors["background"].gain == 0 and told(analysis) == {"background": 1}


def test_a_class_of_which_everything_is_missed():
    for found, after in [([], 1), ([(1, ROSE, (300, 10, 50, 50), 0.9)], 0)]:
        with case(found, after):
            analysis = analysis_of([(1, ROSE, BOX)], found)
            assert analysis.ap == 0 and analysis.errors["missed"].gain == after


def test_nothing_to_judge_by():
    analysis = analysis_of([], [(1, ROSE, BOX, 0.5)])
    assert math.isnan(analysis.ap) and math.isnan(analysis.errors["background"].gain)
    assert told(analysis) == {"background": 1}
    assert told(analysis_of([], [])) == {}


def test_only_so_many_detections_are_judged():
    found = [(1, ROSE, ASIDE, 0.5 + i / 100) for i in range(5)] + [(1, TULIP, ASIDE, 0.1)]
    analysis = analysis_of([(1, ROSE, BOX)], found, max_detections=2)
    background = KINDS.index("background")
    assert analysis.kinds.tolist() == [*[IGNORED] * 3, background, background, background]


def test_thresholds_are_those_given():
    objects, found = [(1, ROSE, BOX)], [(1, ROSE, NEAR, 0.9)]
    assert told(analysis_of(objects, found, background=0.25)) == {"localisation": 1}, "both ends belong to it"
    assert told(analysis_of(objects, found, background=0.26)) == {"background": 1, "missed": 1}
    assert analysis_of(objects, found, foreground=0.25).ap == 1
    for wrong in ({"background": 0}, {"background": 0.6}, {"foreground": 1.1}):
        with pytest.raises(ValueError, match="0 < background < foreground <= 1 must hold"):
            analysis_of(objects, found, **wrong)


# ------------------------------------------------------------------ oracle


def looped(truth, results, iou_type):
    """Kind and target of each result and the missed annotations, by plain loops from the definitions."""
    key = "bbox" if iou_type == "bbox" else "segmentation"
    kinds, targets, taken = {}, {}, set()
    for image in sorted(image["id"] for image in truth["images"]):
        objects = [a for a in truth["annotations"] if a["image_id"] == image]
        mine = sorted((n for n, r in enumerate(results) if r["image_id"] == image), key=lambda n: -results[n]["score"])
        if not objects or not mine:
            kinds |= dict.fromkeys(mine, "background")
            continue
        table = coco_mask.iou(
            [results[n][key] for n in mine], [a[key] for a in objects], [a["iscrowd"] for a in objects]
        )
        for n, ious in zip(mine, table, strict=True):
            own = [
                (iou, a) for iou, a in zip(ious, objects, strict=True) if a["category_id"] == results[n]["category_id"]
            ]
            free = [(iou, a["id"]) for iou, a in own if iou >= 0.5 and not a["iscrowd"] and a["id"] not in taken]
            if free:
                kinds[n] = "correct"
                taken.add(max(free)[1])
            elif any(iou >= 0.5 and a["iscrowd"] for iou, a in own):
                kinds[n] = "ignored"
        for n, ious in zip(mine, table, strict=True):
            if n in kinds:
                continue
            real = [(iou, a) for iou, a in zip(ious, objects, strict=True) if not a["iscrowd"]]
            own = max([(i, a["id"]) for i, a in real if a["category_id"] == results[n]["category_id"]], default=(0, 0))
            other = max(
                [(i, a["id"]) for i, a in real if a["category_id"] != results[n]["category_id"]], default=(0, 0)
            )
            if 0.1 <= own[0] < 0.5:
                kinds[n], targets[n] = "localisation", own[1]
            elif other[0] >= 0.5:
                kinds[n], targets[n] = "classification", other[1]
            elif own[0] >= 0.5:
                kinds[n] = "duplicate"
            elif max(own[0], other[0]) < 0.1:
                kinds[n] = "background"
            else:
                kinds[n] = "both"
    unfound = {a["id"] for a in truth["annotations"] if not a["iscrowd"]} - taken
    return kinds, targets, unfound, unfound - set(targets.values())


def put_right(truth, results, kind, kinds, targets, unfound, missed, iou_type):
    """The data set without errors of this kind, for pycocotools to judge."""
    key = "bbox" if iou_type == "bbox" else "segmentation"
    if kind in ("missed", "false_negatives"):
        gone = missed if kind == "missed" else unfound
        return truth | {"annotations": [a for a in truth["annotations"] if a["id"] not in gone]}, results
    if kind == "false_positives":
        return truth, [r for n, r in enumerate(results) if kinds[n] in ("correct", "ignored")]
    left = [r for n, r in enumerate(results) if kinds[n] != kind]
    if kind in ("classification", "localisation"):
        objects = {a["id"]: a for a in truth["annotations"]}
        best = {}
        for n in sorted((n for n in kinds if kinds[n] == kind), key=lambda n: -results[n]["score"]):
            if targets[n] in unfound:
                best.setdefault(targets[n], n)
        # Exactly on its object, so that it cannot find another one.
        left += [results[n] | {"category_id": objects[a]["category_id"], key: objects[a][key]} for a, n in best.items()]
    return truth, left


def test_equals_plain_loops_and_pycocotools():
    for seed, iou_type in [(0, "bbox"), (1, "bbox"), (2, "bbox"), (3, "bbox"), (0, "segm")]:
        with case(seed, iou_type):
            truth, results = random_scene(seed, images=20)
            if iou_type == "segm":
                truth, results = with_masks(truth, results)
            kinds, targets, unfound, missed = looped(truth, results, iou_type)
            analysis = analyse_errors(truth, results, iou_type)
            names = {CORRECT: "correct", IGNORED: "ignored"} | dict(enumerate(KINDS))
            assert [names[int(kind)] for kind in analysis.kinds] == [kinds[n] for n in range(len(results))]
            assert {truth["annotations"][m]["id"] for m in analysis.missed} == missed
            before = coco_ap50(truth, results, iou_type)
            assert analysis.ap == pytest.approx(before, abs=1e-12)
            totals = {"false_positives": analysis.false_positives, "false_negatives": analysis.false_negatives}
            for kind, cost in (analysis.errors | totals).items():
                right = put_right(truth, results, kind, kinds, targets, unfound, missed, iou_type)
                assert cost.gain == pytest.approx(coco_ap50(*right, iou_type) - before, abs=1e-12), kind
                assert cost.count > 0, "the scene should hold every kind"


@pytest.mark.parametrize("seed", range(10, 16))
def test_laws(seed):
    truth, results = random_scene(seed, images=30, distinct=False)
    analysis = analyse_errors(truth, results)
    assert analysis.ap == pytest.approx(evaluate_detections(truth, results).map50, abs=1e-12)
    assert all(cost.gain >= 0 for cost in analysis.errors.values())
    assert (
        sum(cost.count for name, cost in analysis.errors.items() if name != "missed") == analysis.false_positives.count
    )
    assert analysis.errors["missed"].count <= analysis.false_negatives.count
    assert analysis.false_positives.gain >= max(analysis.errors[k].gain for k in ("both", "duplicate", "background"))
    assert (analysis.kinds == CORRECT).sum() + analysis.false_negatives.count == sum(
        not a["iscrowd"] for a in truth["annotations"]
    )


def test_the_order_of_detections_plays_no_part():
    truth, results = random_scene(4)
    order = np.random.default_rng(0).permutation(len(results))
    there, mixed = analyse_errors(truth, results), analyse_errors(truth, [results[i] for i in order])
    assert mixed.errors == there.errors
    assert mixed.kinds.tolist() == there.kinds[order].tolist()
