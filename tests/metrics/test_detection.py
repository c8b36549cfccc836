"""evaluate_detections: hand-computed cases, pycocotools as oracle, every form of input, mistakes."""

import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.data import Annotations, Category
from detseg.data.segments import SegmentsBuilder
from detseg.metrics import Detections, evaluate_detections
from detseg.metrics.detection import FIGURES


def scene(seed: int, *, pictures: int = 12, categories=(3, 1, 90, 7), detections: int = 40) -> tuple[dict, list]:
    """Random ground truth and results: crowds, ties, id holes, pictures and classes without objects."""
    rng = np.random.default_rng(seed)
    image_ids = rng.choice(1000, pictures, replace=False).tolist()
    truth = {
        "images": [{"id": i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in image_ids],
        "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        "annotations": [],
    }
    results = []
    for image in image_ids:
        for _ in range(rng.integers(0, 9)):
            width, height = rng.choice([20, 60, 150]) * rng.uniform(0.6, 1.4, 2)
            box = [*rng.uniform(0, 300, 2), width, height]
            category = int(rng.choice(categories[:-1]))  # the last class has no objects
            truth["annotations"].append(
                {
                    "id": 7 + 3 * len(truth["annotations"]),
                    "image_id": image,
                    "category_id": category,
                    "bbox": [round(float(v), 2) for v in box],
                    "area": float(width * height * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
            for _ in range(rng.integers(0, 4)):
                jittered = np.array(box) + rng.normal(0, 6, 4)
                jittered[2:] = jittered[2:].clip(1)
                results.append((image, category, jittered))
        for _ in range(rng.integers(0, detections)):
            box = np.r_[rng.uniform(0, 300, 2), rng.uniform(5, 150, 2)]
            results.append((image, int(rng.choice(categories)), box))
    order = rng.permutation(len(results))
    return truth, [
        {
            "image_id": results[i][0],
            "category_id": results[i][1],
            "bbox": [float(v) for v in results[i][2]],
            "score": round(float(rng.random()), 1),
        }
        for i in order
    ]


def pycocotools_stats(truth: dict, results: list, iou_type: str = "bbox") -> np.ndarray:
    truth, results = copy.deepcopy(truth), copy.deepcopy(results)
    with contextlib.redirect_stdout(io.StringIO()):
        side = COCO()
        side.dataset = truth
        side.createIndex()
        evaluator = COCOeval(side, side.loadRes(results), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


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


@pytest.mark.parametrize("annotation_id", [0, 1, 17])
def test_annotation_ids_play_no_part(annotation_id: int) -> None:
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


@pytest.mark.parametrize("seed", range(8))
def test_equals_pycocotools(seed: int) -> None:
    truth, results = scene(seed, detections=200 if seed == 0 else 40)
    if seed == 0:  # more than 100 of one class in one picture
        results = [r | {"category_id": 3} for r in results]
    expected = pycocotools_stats(truth, results)
    metrics = evaluate_detections(truth, results)
    np.testing.assert_allclose(metrics.stats, expected, rtol=0, atol=1e-12)
    assert 0 < metrics.map < 1


@pytest.mark.parametrize("start", [0, 1])
def test_renumbered_annotations_equal_pycocotools(start: int) -> None:
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
        assert (row.objects, row.pictures) == (len(real), len({a["image_id"] for a in real}))
        if row.category_id == 7:
            assert math.isnan(row.ap)
            assert math.isnan(row.ap50)
            assert math.isnan(row.ar)
        else:
            assert (row.ap, row.ap50, row.ar) == pytest.approx((stats[0], stats[1], stats[8]), abs=1e-12)
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


def mask_scene(seed: int) -> tuple[dict, list]:
    """The random scene with an ellipse-like mask in every box: polygons, plain and compressed run lengths."""
    truth, results = scene(seed, pictures=5, detections=8)
    grid_y, grid_x = np.mgrid[:480, :640]

    def ellipse(box: list[float]) -> np.ndarray:
        x, y, width, height = box
        return ((grid_x - x - width / 2) / width) ** 2 + ((grid_y - y - height / 2) / height) ** 2 <= 0.25

    def packed(box: list[float]) -> dict:
        rle = coco_mask.encode(np.asfortranarray(ellipse(box).astype(np.uint8)))
        return {"size": rle["size"], "counts": rle["counts"].decode()}

    for number, annotation in enumerate(truth["annotations"]):
        x, y, width, height = annotation["bbox"]
        if annotation["iscrowd"]:
            values = ellipse(annotation["bbox"]).T.ravel()
            edges = np.flatnonzero(np.diff(np.r_[False, values, False]))
            annotation["segmentation"] = {
                "size": [480, 640],
                "counts": np.diff(np.r_[0, edges, values.size]).tolist(),
            }
        elif number % 2:
            annotation["segmentation"] = [[x, y, x + width, y, x + width / 2, y + height]]
        else:
            annotation["segmentation"] = packed(annotation["bbox"])
    for result in results:
        result["segmentation"] = packed(result["bbox"])
    return truth, results


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


def as_arrays(results: list, **more) -> Detections:
    boxes = np.array([r["bbox"] for r in results]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    columns = {f"{key}s": [r[key] for r in results] for key in ("image_id", "score")}
    return Detections(boxes=boxes, category_ids=[r["category_id"] for r in results], **columns, **more)


def as_annotations(truth: dict) -> Annotations:
    ids = [image["id"] for image in truth["images"]]
    labels = [category["id"] for category in truth["categories"]]
    objects = sorted(truth["annotations"], key=lambda a: ids.index(a["image_id"]))
    boxes = np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Annotations(
        categories=tuple(Category(c["id"], c["name"]) for c in truth["categories"]),
        image_ids=np.array(ids, dtype=np.int64),
        paths=np.array([i["file_name"] for i in truth["images"]]),
        sizes=np.array([[640, 480]] * len(ids), dtype=np.int32),
        image_index=np.array([ids.index(a["image_id"]) for a in objects], dtype=np.int32),
        boxes=boxes,
        labels=np.array([labels.index(a["category_id"]) for a in objects], dtype=np.int32),
        iscrowd=np.array([bool(a["iscrowd"]) for a in objects]),
        ids=np.array([a["id"] for a in objects], dtype=np.int64),
        areas=np.array([a["area"] for a in objects]),
        segments=segments_of(objects),
    )


def segments_of(objects: list[dict]):
    builder = SegmentsBuilder()
    for outline in (a.get("segmentation") for a in objects):
        if isinstance(outline, list):
            builder.add_polygons(outline)
        elif outline:
            builder.add_rle(*outline["size"], outline["counts"])
        else:
            builder.add_nothing()
    return builder.build()


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
    with pytest.raises(ValueError, match=r"image 5: label 1 is outside 0\.\.0"):
        Detections.from_predictions(predictions, [5, 8, 2], [40])
    with pytest.raises(ValueError, match="3 predictions for 2 image ids"):
        Detections.from_predictions(predictions, [5, 8], [40, 2])
    assert len(Detections.from_predictions([], [], [1])) == 0


@pytest.mark.parametrize("none", [[], Detections([], [], [], [])])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_detections_give_zeros(none, iou_type: str) -> None:
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
    assert metrics.to_dict()["figures"] == dict.fromkeys(FIGURES)


def test_area_and_iscrowd_may_be_missing() -> None:
    truth = one_box()
    del truth["annotations"][0]["area"], truth["annotations"][0]["iscrowd"]
    metrics = evaluate_detections(truth, [found([10, 10, 50, 50])])
    assert metrics.figures()["AP_medium"] == pytest.approx(1)


def test_to_dict_is_json_without_nan() -> None:
    truth, results = scene(2)
    metrics = evaluate_detections(truth, results)
    content = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert content["figures"]["AP"] == metrics.map
    assert content["stats"] == list(metrics.stats)
    assert content["per_class"][3] == {
        "name": "class 7", "category_id": 7, "ap": None, "ap50": None, "ar": None, "objects": 0, "pictures": 0
    }  # fmt: skip
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
    assert (metrics.pictures, len(metrics.per_class)) == (181, 21)
    without = evaluate_detections(path, [])
    assert without.map == 0


# ------------------------------------------------------------------ mistakes


def without(record: dict, key: str) -> dict:
    return {k: v for k, v in record.items() if k != key}


GOOD = found([10, 10, 50, 50])


@pytest.mark.parametrize(
    ("results", "message"),
    [
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
        ([GOOD | {"image_id": 5.5}], r"detections\[0\]: image_id must be a whole number, got 5.5"),
        ([GOOD, 3], r"detections\[1\] must be a dict, got 3"),
        ({"annotations": []}, r"detections must hold a list of COCO results .* got dict"),
    ],
)
def test_bad_detections_are_named(results, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_detections(one_box(), results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
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
    ],
)
def test_bad_ground_truth_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_detections(one_box() | change, [])


def test_bad_boxes_in_the_ground_truth_are_named() -> None:
    with pytest.raises(ValueError, match=r"annotations\[0\] \(id 1\): the box must be finite"):
        evaluate_detections(one_box(box=(0, math.nan, 5, 5)), [])


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        (None, r"detections\[0\]: no 'segmentation'"),
        ([[1, 2]], r"detections\[0\]: segmentation is neither polygons nor"),
        ({"size": [4, 4]}, r"detections\[0\]: segmentation is neither polygons nor"),
        ({"size": [4, 4], "counts": [16]}, r"detections\[0\]: the mask is \[4, 4\] .*its image \[200, 200\]"),
    ],
)
def test_bad_masks_are_named(outline, message: str) -> None:
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
    with pytest.raises(ValueError, match=r"dt\.json: is not JSON: .*line 1"):
        evaluate_detections(good, broken)
    broken.write_text(json.dumps([GOOD | {"score": math.nan}]))  # json writes NaN, which JSON does not know
    with pytest.raises(ValueError, match=r"dt\.json\[0\]: score must be finite"):
        evaluate_detections(good, broken)
    with pytest.raises(ValueError, match=r"dt\.json holds a list.*exchanged"):
        evaluate_detections(broken, good)
    with pytest.raises(ValueError, match="iou_type must be 'bbox' or 'segm', got 'mask'"):
        evaluate_detections(good, [], "mask")
    with pytest.raises(ValueError, match=r"ground truth must be a path .* got int"):
        evaluate_detections(3, [])


def test_annotations_without_outlines_are_named() -> None:
    with pytest.raises(ValueError, match=r"object \d+ has no outline: use iou_type='bbox'"):
        evaluate_detections(as_annotations(scene(1)[0]), [], "segm")


def test_wrong_lengths_in_detections() -> None:
    with pytest.raises(ValueError, match=r"Detections\.boxes must have shape \(1, 4\) like the scores, got \(2, 4\)"):
        Detections([1], [1], np.zeros((2, 4)), [0.5])
    with pytest.raises(ValueError, match=r"Detections\.image_ids must have shape \(1,\)"):
        Detections([1, 2], [1], np.zeros((1, 4)), [0.5])
