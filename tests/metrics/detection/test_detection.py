"""evaluate_detections: hand-computed cases, pycocotools as oracle, every form of input, mistakes."""

import copy
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from detseg.metrics import Detections, evaluate_detections
from detseg.metrics.detection.average_precision import FIGURES, coco_figures
from tests.metrics.cases import case
from tests.metrics.coco_scenes import (
    as_annotations,
    as_arrays,
    mask_scene,
    pycocotools_evaluation,
    pycocotools_stats,
    scene,
)


def one_box(*, annotation_id: int = 1, box=(10, 10, 50, 50)) -> dict:
    return {
        "images": [{"id": 5, "width": 200, "height": 200}],
        "categories": [{"id": 2, "name": "rose"}],
        "annotations": [
            {
                "id": annotation_id,
                "image_id": 5,
                "category_id": 2,
                "bbox": list(box),
                "area": 2500,
                "iscrowd": 0,
            }
        ],
    }


def found(box, score: float = 0.9, image: int = 5, category: int = 2) -> dict:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


# ------------------------------------------------------------------ by hand


def test_perfect_and_half_right() -> None:
    metrics = evaluate_detections(one_box(), [found([10, 10, 50, 50])])
    assert metrics.stats == pytest.approx((1, 1, 1, -1, 1, -1, 1, 1, 1, -1, 1, -1))
    assert (metrics.map, metrics.map50, metrics.map75) == pytest.approx((1, 1, 1))
    # A 50 x 36 box inside the 50 x 50 one: IoU 0.72 passes 5 of the 10 thresholds.
    metrics = evaluate_detections(one_box(), [found([10, 10, 50, 36])])
    assert metrics.map == pytest.approx(0.5)
    assert (metrics.map50, metrics.map75) == pytest.approx((1, 0))


def test_precision_by_hand() -> None:
    # Two objects; best first: hit, miss, hit. Precision 1 up to recall 1/2 (51 levels), then 2/3.
    truth = one_box()
    truth["annotations"].append(truth["annotations"][0] | {"id": 2, "bbox": [100, 100, 50, 50]})
    results = [found([10, 10, 50, 50], 0.9), found([150, 0, 9, 9], 0.8), found([100, 100, 50, 50], 0.7)]
    metrics = evaluate_detections(truth, results)
    expected = (51 + 50 * 2 / 3) / 101
    assert metrics.map == pytest.approx(expected)
    assert metrics.figures()["AR1"] == pytest.approx(0.5)
    curve = metrics.precision_recall
    assert curve.recall.tolist() == pytest.approx(np.linspace(0, 1, 101).tolist())
    for values in (curve.mean[0], curve.precision[0, 0]):
        assert values == pytest.approx(np.where(np.arange(101) <= 50, 1, 2 / 3))
    assert curve.scores[0, 0, [0, 50, 51, 100]].tolist() == [0.9, 0.9, 0.7, 0.7]


def test_annotation_ids_play_no_part() -> None:
    for annotation_id in [0, 1, 17]:
        with case(annotation_id):
            metrics = evaluate_detections(one_box(annotation_id=annotation_id), [found([10, 10, 50, 50])])
            assert metrics.map == pytest.approx(1)


def test_pycocotools_is_wrong_on_annotation_id_0() -> None:
    # If this fails, pycocotools has been mended and the remark in our docs can go.
    assert pycocotools_stats(one_box(annotation_id=0), [found([10, 10, 50, 50])])[0] < 0.5


def test_crowd_is_neither_object_nor_mistake() -> None:
    truth = one_box()
    truth["annotations"].append(
        {"id": 2, "image_id": 5, "category_id": 2, "bbox": [100, 100, 80, 80], "area": 6400, "iscrowd": 1}
    )
    results = [found([110, 110, 20, 20], 0.99), found([150, 150, 20, 20], 0.98), found([10, 10, 50, 50])]
    metrics = evaluate_detections(truth, results)
    assert metrics.map == pytest.approx(1)
    assert metrics.objects == metrics.per_class[0].objects == 1


# ------------------------------------------------------------------ oracle


def test_equals_pycocotools() -> None:
    for seed in range(30):
        with case(seed):
            truth, results = scene(seed, detections=200 if seed == 0 else 40)
            if seed == 0:  # more than 100 of one class in one image
                results = [r | {"category_id": 3} for r in results]
            expected = pycocotools_stats(truth, results)
            metrics = evaluate_detections(truth, results)
            np.testing.assert_allclose(metrics.stats, expected, rtol=0, atol=1e-12)
            assert 0 < metrics.map < 1


def test_whole_numbers_equal_pycocotools() -> None:
    for seed in range(100, 112):
        with case(seed):
            # Boxes on a coarse grid: many equal IoUs, IoUs that are exactly a threshold, areas exactly 32² and 96²,
            # boxes without area, scores of 0, -0.0 and below.
            rng = np.random.default_rng(seed)
            truth, results = scene(seed, images=8, categories=(5, 2), detections=60)
            for record in (*truth["annotations"], *results):
                record["bbox"] = [*(16.0 * rng.integers(0, 4, 2)), *rng.choice([0.0, 16, 32, 48, 96], 2)]
                record["area"] = record["bbox"][2] * record["bbox"][3]
                if "score" in record:
                    record["score"] = float(rng.choice([0.5, 0.0, -0.0, -1.5, 2.0]))
            metrics = evaluate_detections(truth, results)
            np.testing.assert_allclose(metrics.stats, pycocotools_stats(truth, results), rtol=0, atol=1e-12)


def test_curves_equal_pycocotools() -> None:
    for seed in [40, 41]:
        with case(seed):
            truth, results = scene(seed)
            theirs = pycocotools_evaluation(truth, results)
            curve = evaluate_detections(truth, results).precision_recall
            order = np.argsort(np.argsort([c["id"] for c in truth["categories"]]))
            for name, ours in (("precision", curve.precision), ("scores", curve.scores)):
                expected = theirs.eval[name][:, :, order, 0, 2].transpose(0, 2, 1)
                np.testing.assert_allclose(np.where(np.isnan(ours), -1, ours), expected, rtol=0, atol=1e-12)


def test_class_agnostic_equals_pycocotools() -> None:
    for seed in [50, 51, 52]:
        with case(seed):
            truth, results = scene(seed)
            metrics = evaluate_detections(truth, results, class_agnostic=True)
            expected = pycocotools_evaluation(truth, results, useCats=0).stats
            np.testing.assert_allclose(metrics.stats, expected, rtol=0, atol=1e-12)
            (row,) = metrics.per_class
            assert (row.name, row.category_id, row.objects) == ("all classes", -1, metrics.objects)
            assert row.ap == metrics.map != evaluate_detections(truth, results).map


def test_other_options_equal_pycocotools() -> None:
    for seed in [60, 61]:
        with case(seed):
            truth, results = scene(seed)
            thresholds = [0.3, 0.5, 1.0]
            metrics = evaluate_detections(truth, results, iou_thresholds=thresholds, max_detections=(5, 2))
            theirs = pycocotools_evaluation(truth, results, iouThrs=np.array(thresholds), maxDets=[2, 5, 5])
            assert list(metrics.figures())[6:8] == ["AR2", "AR5"]
            for area, name in enumerate(("", "_small", "_medium", "_large")):
                precision, recall = theirs.eval["precision"][..., area, -1], theirs.eval["recall"][:, :, area]
                figures = metrics.figures()
                assert figures[f"AP{name}"] == pytest.approx(precision[precision > -1].mean(), abs=1e-12)
                last = recall[..., -1]
                assert figures[f"AR{name or 5}"] == pytest.approx(last[last > -1].mean(), abs=1e-12)
            first = theirs.eval["recall"][:, :, 0, 0]
            assert metrics.figures()["AR2"] == pytest.approx(first[first > -1].mean(), abs=1e-12)
            at = theirs.eval["precision"][1, ..., 0, -1]
            assert metrics.map50 == pytest.approx(at[at > -1].mean(), abs=1e-12)
            assert math.isnan(metrics.map75)
            assert len(metrics.stats) == 11


def test_published_check_of_the_coco_api() -> None:
    """The figures that the COCO API's own demo prints for its fake results (100 images of val2014).

    DETSEG_COCO_CHECK names a folder with instances_val2014.json and instances_val2014_fakebbox100_results.json.
    """
    folder = Path(os.environ.get("DETSEG_COCO_CHECK", ""))
    paths = [folder / f"instances_val2014{end}.json" for end in ("", "_fakebbox100_results")]
    if not all(path.is_file() for path in paths):
        pytest.skip("DETSEG_COCO_CHECK does not name the folder of the COCO API's files")
    truth, results = (json.loads(path.read_text()) for path in paths)
    chosen = sorted(image["id"] for image in truth["images"])[:100]
    truth["images"] = [image for image in truth["images"] if image["id"] in chosen]
    truth["annotations"] = [entry for entry in truth["annotations"] if entry["image_id"] in chosen]
    stats = evaluate_detections(truth, [r for r in results if r["image_id"] in chosen]).stats
    expected = (0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564)
    assert [round(value, 3) for value in stats] == list(expected)


def test_renumbered_annotations_equal_pycocotools() -> None:
    for start in [0, 1]:
        with case(start):
            truth, results = scene(3)
            expected = pycocotools_stats(truth, results)
            for number, annotation in enumerate(truth["annotations"], start=start):
                annotation["id"] = number
            np.testing.assert_allclose(evaluate_detections(truth, results).stats, expected, rtol=0, atol=1e-12)


def test_per_class_equals_evaluating_the_class_alone() -> None:
    truth, results = scene(2)
    metrics = evaluate_detections(truth, results)
    assert [row.category_id for row in metrics.per_class] == [3, 1, 90, 7]  # the dataset's own order
    for row in metrics.per_class:
        alone = copy.deepcopy(truth)
        alone["annotations"] = [a for a in truth["annotations"] if a["category_id"] == row.category_id]
        stats = pycocotools_stats(alone, [r for r in results if r["category_id"] == row.category_id])
        real = [a for a in alone["annotations"] if not a["iscrowd"]]
        assert row.name == f"class {row.category_id}"
        assert (row.objects, row.images) == (len(real), len({a["image_id"] for a in real}))
        if row.category_id == 7:
            assert math.isnan(row.ap)
            assert math.isnan(row.ap50)
            assert math.isnan(row.ar)
        else:
            assert (row.ap, row.ap50, row.ar) == pytest.approx((stats[0], stats[1], stats[8]), abs=1e-12)
            for (figure, value), expected in zip(row.figures.items(), stats, strict=True):
                expected = math.nan if expected == -1 else expected
                assert value == pytest.approx(expected, abs=1e-12, nan_ok=True), (row.name, figure)
    with_objects = [row.ap for row in metrics.per_class if row.objects]
    assert metrics.map == pytest.approx(np.mean(with_objects), abs=1e-12)


def test_curves_agree_with_the_figures() -> None:
    truth, results = scene(4)
    metrics = evaluate_detections(truth, results)
    curve = metrics.precision_recall
    assert curve.precision.shape == (10, 4, 101)
    assert metrics.iou_thresholds == pytest.approx(np.arange(0.5, 1, 0.05))
    assert np.isnan(curve.precision[:, 3]).all()
    assert curve.mean.mean() == pytest.approx(metrics.map)
    assert curve.mean[0].mean() == pytest.approx(metrics.map50)
    assert (np.diff(curve.mean, axis=1) <= 1e-12).all()


@pytest.mark.parametrize("with_boxes", [True, False])
def test_masks_equal_pycocotools(with_boxes: bool) -> None:
    truth, results = mask_scene(5)
    if not with_boxes:
        results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
    expected = pycocotools_stats(truth, results, "segm")
    metrics = evaluate_detections(truth, results, "segm")
    np.testing.assert_allclose(metrics.stats, expected, rtol=0, atol=1e-12)
    assert metrics.iou_type == "segm"
    assert metrics.stats != evaluate_detections(truth, mask_scene(5)[1], "bbox").stats
    if with_boxes:
        arrays = as_arrays(results, masks=[r["segmentation"] for r in results])
        truth = as_annotations(truth)
        np.testing.assert_allclose(evaluate_detections(truth, arrays, "segm").stats, expected, rtol=0, atol=1e-12)


# ------------------------------------------------------------------ every form of input


def test_all_forms_agree_and_say_nothing(tmp_path, capfd) -> None:
    truth, results = scene(6)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(results))
    before = copy.deepcopy((truth, results))
    expected = evaluate_detections(truth, results).stats
    assert (truth, results) == before  # nothing was written into the caller's dicts
    for left in (tmp_path / "gt.json", str(tmp_path / "gt.json"), as_annotations(truth)):
        for right in (tmp_path / "dt.json", results, as_arrays(results), as_arrays(results).to_results()):
            np.testing.assert_allclose(evaluate_detections(left, right).stats, expected, rtol=0, atol=1e-12)
    assert capfd.readouterr().out == ""


def test_detections_from_predictions() -> None:
    predictions = [
        {
            "boxes": torch.tensor([[10.0, 10, 60, 60], [0, 0, 5, 5]]),
            "scores": torch.tensor([0.9, 0.25], dtype=torch.bfloat16),
            "labels": torch.tensor([1, 0]),
        },
        {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, dtype=np.int64)},
        {"boxes": np.ones((1, 4)), "scores": np.ones(1), "labels": np.array([1])},
    ]
    detections = Detections.from_predictions(predictions, [5, 8, 2], [40, 2])
    assert len(detections) == 3
    assert detections.image_ids.tolist() == [5, 5, 2]
    assert detections.category_ids.tolist() == [2, 40, 2]
    assert detections.boxes[0].tolist() == [10, 10, 60, 60]
    results = detections.to_results()
    assert json.loads(json.dumps(results)) == results
    assert results[1] == {"image_id": 5, "category_id": 40, "bbox": [0, 0, 5, 5], "score": 0.25}
    with pytest.raises(ValueError, match="3 predictions for 2 image ids"):
        Detections.from_predictions(predictions, [5, 8], [40, 2])
    assert len(Detections.from_predictions([], [], [1])) == 0


def test_detections_of_images_in_which_nothing_was_found() -> None:
    one = {"boxes": [[0.0, 0, 10, 10]], "scores": [0.9], "labels": [0]}
    for nothing in ([], torch.tensor([]), np.zeros(0)):
        with case(nothing):
            empty = {"boxes": nothing, "scores": nothing, "labels": nothing}
            detections = Detections.from_predictions([empty, one, empty], [1, 2, 3], [7])
            assert (detections.image_ids.tolist(), detections.boxes.tolist()) == ([2], one["boxes"])
            assert len(Detections.from_predictions([empty], [1], [7])) == 0


def test_predictions_are_checked_image_by_image() -> None:
    one = {"boxes": np.array([[0.0, 0, 10, 10]]), "scores": np.array([0.9]), "labels": np.array([0])}
    for change, message in (
        ({"labels": np.array([1])}, r"image 5: the prediction, entry 0: label 1: it is outside 0\.\.0"),
        ({"labels": np.array([0, 0])}, r"image 5: the prediction: boxes must have shape \(2, 4\) like the labels"),
        ({"labels": np.array([0.7])}, "labels must be whole numbers, got float64"),
        ({"scores": np.array([np.nan])}, "image 5: the prediction, entry 0: score must be finite"),
        ({"boxes": np.array([[9.0, 9, 0, 0]])}, "image 5: the prediction, entry 0: .*negative width"),
    ):
        with case(message), pytest.raises(ValueError, match=message):
            Detections.from_predictions([one, one | change], [4, 5], [40])
    with pytest.raises(ValueError, match=r"image_ids\[0\]: an id must be a whole number, got 1.7"):
        Detections.from_predictions([one], [1.7], [40])


def test_no_detections_give_zeros() -> None:
    for none in [[], Detections([], [], [], [])]:
        for iou_type in ["bbox", "segm"]:
            with case(none, iou_type):
                truth, _ = mask_scene(1)
                metrics = evaluate_detections(truth, none, iou_type)
                assert set(metrics.stats) == {0.0}
                assert metrics.detections == 0


def test_no_objects_give_nothing_to_judge_by() -> None:
    truth = one_box() | {"annotations": []}
    metrics = evaluate_detections(truth, [found([0, 0, 5, 5])])
    assert set(metrics.stats) == {-1.0}
    assert math.isnan(metrics.map)
    assert np.isnan(metrics.precision_recall.mean).all()
    assert metrics.to_dict()["figures"] == dict.fromkeys(figure.name for figure in FIGURES)


def test_area_and_iscrowd_may_be_missing() -> None:
    truth = one_box()
    del truth["annotations"][0]["area"], truth["annotations"][0]["iscrowd"]
    metrics = evaluate_detections(truth, [found([10, 10, 50, 50])])
    assert metrics.figures()["AP_medium"] == pytest.approx(1)


def test_iscrowd_in_other_words() -> None:
    for crowd, figure in [("0", 1.0), (None, 1.0), (False, 1.0), ("1", math.nan)]:
        with case(crowd, figure):
            truth = one_box()
            truth["annotations"][0]["iscrowd"] = crowd
            assert evaluate_detections(truth, [found((10, 10, 50, 50))]).map == pytest.approx(figure, nan_ok=True)


def test_to_dict_is_json_without_nan() -> None:
    truth, results = scene(2)
    metrics = evaluate_detections(truth, results)
    content = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert content["figures"]["AP"] == metrics.map
    assert content["stats"] == list(metrics.stats)
    assert content["per_class"][3] == {
        "name": "class 7", "category_id": 7, "ap": None, "ap50": None, "ar": None, "objects": 0, "images": 0,
        "figures": dict.fromkeys(figure.name for figure in coco_figures()),
    }  # fmt: skip
    assert content["per_class"][0]["figures"]["AP"] == content["per_class"][0]["ap"]
    assert "matches" not in content
    assert "precision" not in content["precision_recall"]
    assert len(content["precision_recall"]["mean"]) == 10
    curves = json.loads(json.dumps(metrics.to_dict(curves=True), allow_nan=False))
    assert curves["precision_recall"]["precision"][0][3] == [None] * 101


def test_real_flowers_against_themselves(flowers_det) -> None:
    path = flowers_det / "val.json"
    truth = json.loads(path.read_text())
    keys = ("image_id", "category_id", "bbox")
    results = [{k: a[k] for k in keys} | {"score": 0.5} for a in truth["annotations"] if not a.get("iscrowd")]
    metrics = evaluate_detections(path, results)
    assert metrics.map == pytest.approx(1)
    assert (metrics.images, len(metrics.per_class)) == (181, 21)
    without = evaluate_detections(path, [])
    assert without.map == 0


# ------------------------------------------------------------------ mistakes


def without(record: dict, key: str) -> dict:
    return {k: v for k, v in record.items() if k != key}


GOOD = found([10, 10, 50, 50])


def test_bad_detections_are_named() -> None:
    for results, message in [
        (
            [GOOD, GOOD | {"image_id": 99}],
            r"detections\[1\]: image_id 99: the ground truth lists no such image",
        ),
        (
            [GOOD | {"category_id": 4}] * 3,
            r"detections\[0\]: category_id 4: .*it has 2 \(3 such items in all\)",
        ),
        ([GOOD | {"score": math.nan}], r"detections\[0\]: score must be finite, got nan"),
        ([GOOD | {"score": "high"}], r"detections\[0\]: score must be a number, got 'high'"),
        (
            [GOOD, without(GOOD, "score")],
            r"detections\[1\] has no 'score'; it has image_id, category_id, bbox",
        ),
        ([without(GOOD, "bbox")], r"detections\[0\] has no 'bbox'"),
        (
            [GOOD | {"bbox": [1, 2, 3]}],
            r"detections\[0\]: bbox must be \[x, y, width, height\], got \[1, 2, 3\]",
        ),
        ([GOOD, GOOD | {"bbox": [1, 2, 3, math.inf]}], r"detections\[1\]: the box must be finite"),
        ([GOOD | {"bbox": [60, 60, -20, 5]}], r"detections\[0\]: .*negative width or height.*xyxy"),
        ([GOOD | {"bbox": None}], r"detections\[0\]: bbox must be"),
        ([GOOD | {"image_id": "5"}], r"detections\[0\]: image_id must be a whole number, got '5'"),
        ([GOOD | {"score": [0.9]}], r"detections\[0\]: score must be a number, got \[0.9\]"),
        *[
            ([GOOD | {key: value}], rf"detections\[0\]: {key} must be a whole number, got {re.escape(str(value))}")
            for key in ("image_id", "category_id")
            for value in ([5], [[5, 2]], [], 2**63)
        ],
        ([GOOD | {"bbox": [[1, 2], [3, 4]]}], r"detections\[0\]: bbox must be"),
        (
            [GOOD, {"image_id": "a"} | without(GOOD, "image_id")],
            r"detections\[1\]: image_id must be a whole number, got 'a'",
        ),
        ([GOOD | {"image_id": 5.5}], r"detections\[0\]: image_id must be a whole number, got 5.5"),
        ([GOOD, 3], r"detections\[1\] must be a dict, got 3"),
        ({"annotations": []}, r"detections must hold a list of COCO results .* got dict"),
    ]:
        with case(results, message), pytest.raises(ValueError, match=message):
            evaluate_detections(one_box(), results)


def test_bad_ground_truth_is_named() -> None:
    for change, message in [
        ({"images": []}, "ground truth: it lists no images"),
        ({"categories": []}, "ground truth: it lists no categories"),
        (
            {"annotations": None},
            "ground truth: no list 'annotations'; it has images, categories, annotations",
        ),
        ({"images": [{"id": 5}, {"id": 5}]}, "images: the id 5 appears more than once"),
        ({"images": [{"id": 6}]}, r"annotations\[0\] \(id 1\): image_id 5: the file lists no such image"),
        (
            {"categories": [{"id": 9}]},
            r"annotations\[0\] \(id 1\): category_id 2: the file lists no such category",
        ),
        (
            {"annotations": [{"id": 3, "image_id": 5, "category_id": 2}]},
            r"annotations\[0\] \(id 3\) has no 'bbox'",
        ),
        (
            {"annotations": [{"id": 3, "image_id": 5, "category_id": 2, "bbox": [1, 1, 5, 5], "area": [30]}]},
            r"annotations\[0\] \(id 3\): area must be a number, got \[30\]",
        ),
        ({"images": [{"id": [5]}]}, r"images\[0\]: id must be a whole number, got \[5\]"),
        (
            {"annotations": [{"id": 3, "image_id": 5, "category_id": 2, "bbox": [1, 1, 5, 5], "iscrowd": "yes"}]},
            r"annotations\[0\] \(id 3\): iscrowd must be 0 or 1, got 'yes'",
        ),
    ]:
        with case(change, message), pytest.raises(ValueError, match=message):
            evaluate_detections(one_box() | change, [])


def test_bad_boxes_in_the_ground_truth_are_named() -> None:
    with pytest.raises(ValueError, match=r"annotations\[0\] \(id 1\): the box must be finite"):
        evaluate_detections(one_box(box=(0, math.nan, 5, 5)), [])


def test_bad_masks_are_named() -> None:
    for outline, message in [
        (None, r"detections\[0\]: no 'segmentation'"),
        ([[1, 2]], r"detections\[0\]: segmentation is neither polygons nor"),
        ({"size": [4, 4]}, r"detections\[0\]: segmentation is neither polygons nor"),
        ("text", r"detections\[0\]: segmentation is neither polygons nor .*: it is 'text'"),
        ({"size": 4, "counts": [16]}, r"detections\[0\]: the mask is 4 .*its image \[200, 200\]"),
        ({"size": [200, 200], "counts": [81, -1]}, "counts must be whole numbers from 0 to 2.32, got -1$"),
        ([[1, 2, math.nan, 4, 5, 6]], r"detections\[0\]: .* holds NaN"),
        ([[1, 2, 1e12, 4, 5, 6]], r"detections\[0\]: .* numbers beyond 1,000,000"),
        ({"size": [4, 4], "counts": [16]}, r"detections\[0\]: the mask is \[4, 4\] .*its image \[200, 200\]"),
    ]:
        with case(outline, message):
            truth = one_box()
            truth["annotations"][0]["segmentation"] = [[10, 10, 60, 10, 60, 60]]
            with pytest.raises(ValueError, match=message):
                evaluate_detections(truth, [GOOD | {"segmentation": outline}], "segm")


def test_bad_files_are_named(tmp_path) -> None:
    good = tmp_path / "gt.json"
    good.write_text(json.dumps(one_box()))
    broken = tmp_path / "dt.json"
    with pytest.raises(ValueError, match=r"dt\.json: cannot be read: No such file"):
        evaluate_detections(good, broken)
    broken.write_text('[{"image_id": 5,')
    with pytest.raises(ValueError, match=r"dt\.json: line 1, column \d+: no JSON"):
        evaluate_detections(good, broken)
    broken.write_text(json.dumps([GOOD | {"score": math.nan}]))  # json writes NaN, which JSON does not know
    with pytest.raises(ValueError, match=r"dt\.json\[0\]: score must be finite"):
        evaluate_detections(good, broken)
    with pytest.raises(ValueError, match=r"dt\.json holds a list.*exchanged"):
        evaluate_detections(broken, good)
    good.write_text(json.dumps(one_box(box=(0, 0, -5, 5))))
    with pytest.raises(ValueError, match=r"gt\.json: annotations\[0\] \(id 1\): the box has a negative width"):
        evaluate_detections(good, [])
    good.write_text(json.dumps(one_box()))
    with pytest.raises(ValueError, match="iou_type must be 'bbox', 'segm' or 'boundary', got 'mask'"):
        evaluate_detections(good, [], "mask")
    with pytest.raises(ValueError, match=r"ground truth must be a path .* got int"):
        evaluate_detections(3, [])


def test_bad_options_are_named() -> None:
    for options, message in [
        ({"iou_thresholds": []}, "iou_thresholds must be a list of numbers"),
        ({"iou_thresholds": 0.5}, "iou_thresholds must be a list of numbers"),
        ({"iou_thresholds": [0.75, 0.5]}, r"iou_thresholds must rise and lie in \[0, 1\], got \[0.75, 0.5\]"),
        ({"iou_thresholds": [0.5, 1.5]}, "iou_thresholds must rise"),
        ({"max_detections": ()}, "max_detections must be whole numbers from 1"),
        ({"max_detections": (0, 10)}, "max_detections must be whole numbers from 1"),
        ({"max_detections": (1.5,)}, "max_detections must be whole numbers from 1"),
    ]:
        with case(options, message), pytest.raises(ValueError, match=message):
            evaluate_detections(one_box(), [GOOD], **options)


def test_damaged_masks_are_named() -> None:
    for counts in ["o", "P" * 20, "oooo0"]:
        with case(counts):
            truth = one_box()
            truth["annotations"][0]["segmentation"] = [[10, 10, 60, 10, 60, 60]]
            right = {"size": [200, 200], "counts": [5, 10, 39985]}
            wrong = {"size": [200, 200], "counts": counts}
            results = [GOOD | {"segmentation": right}, GOOD | {"segmentation": wrong}]
            with pytest.raises(ValueError, match=r"image \d+: detection 1 .*run lengths of its mask are damaged"):
                evaluate_detections(truth, results, "segm")


def test_annotations_without_outlines_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"object \d+: no 'segmentation', which masks are compared by; use iou_type='bbox'"
    ):
        evaluate_detections(as_annotations(scene(1)[0]), [], "segm")


def test_wrong_lengths_in_detections() -> None:
    with pytest.raises(ValueError, match=r"Detections\.boxes must have shape \(1, 4\) like the scores, got \(2, 4\)"):
        Detections([1], [1], np.zeros((2, 4)), [0.5])
    with pytest.raises(ValueError, match=r"Detections\.image_ids must have shape \(1,\)"):
        Detections([1, 2], [1], np.zeros((1, 4)), [0.5])
