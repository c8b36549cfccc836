"""evaluate_voc: hand-computed cases, and the development kit's own steps written out slowly as oracle."""

import json
import math

import numpy as np
import pytest

from detseg.data.formats import read_annotations
from detseg.metrics import evaluate_voc
from tests.metrics.cases import case
from tests.metrics.coco_scenes import as_annotations, as_arrays, scene


def devkit(truth: dict, results: list, category: int, threshold: float, method: str, plus: int) -> float:
    """AP of a class, step by step as VOCevaldet.m and VOCap.m have it; corners inclusive when plus is 1."""
    objects: dict[int, list] = {}
    count = 0
    for entry in truth["annotations"]:
        if entry["category_id"] == category:
            x, y, w, h = entry["bbox"]
            state = {"box": (x, y, x + w, y + h), "difficult": entry["iscrowd"], "seen": False}
            objects.setdefault(entry["image_id"], []).append(state)
            count += not entry["iscrowd"]
    if count == 0:
        return math.nan
    chosen = sorted((r for r in results if r["category_id"] == category), key=lambda r: -r["score"])
    right, wrong = np.zeros(len(chosen)), np.zeros(len(chosen))
    for d, result in enumerate(chosen):
        x, y, w, h = result["bbox"]
        box = (x, y, x + w, y + h)
        best, best_object = -math.inf, None
        for state in objects.get(result["image_id"], []):
            real = state["box"]
            inner = (max(box[0], real[0]), max(box[1], real[1]), min(box[2], real[2]), min(box[3], real[3]))
            width, height = inner[2] - inner[0] + plus, inner[3] - inner[1] + plus
            if width > 0 and height > 0:
                areas = [(b[2] - b[0] + plus) * (b[3] - b[1] + plus) for b in (box, real)]
                overlap = width * height / (sum(areas) - width * height)
                if overlap > best:
                    best, best_object = overlap, state
        if best >= threshold:
            if not best_object["difficult"]:
                if not best_object["seen"]:
                    right[d] = 1
                    best_object["seen"] = True
                else:
                    wrong[d] = 1
        else:
            wrong[d] = 1
    right, wrong = right.cumsum(), wrong.cumsum()
    recall, precision = right / count, right / np.maximum(right + wrong, 1e-300)
    if method == "11-point":
        return sum(max(precision[recall >= i / 10], default=0.0) for i in range(11)) / 11
    recall, precision = np.r_[0, recall, 1], np.r_[0, precision, 0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


def whole_boxes(seed: int, **options) -> tuple[dict, list]:
    """The random scene in whole pixels, as VOC has it."""
    truth, results = scene(seed, **options)
    for record in (*truth["annotations"], *results):
        record["bbox"] = [float(round(v)) for v in record["bbox"]]
    return truth, results


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", ["area", "11-point"])
@pytest.mark.parametrize("plus_one", [True, False])
def test_equals_the_development_kit(seed: int, method: str, plus_one: bool) -> None:
    truth, results = whole_boxes(seed)
    for threshold in (0.5, 0.3):
        metrics = evaluate_voc(truth, results, method=method, plus_one=plus_one, iou_threshold=threshold)
        expected = [devkit(truth, results, c["id"], threshold, method, int(plus_one)) for c in truth["categories"]]
        assert [row.ap for row in metrics.per_class] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert metrics.map == pytest.approx(np.nanmean(expected), abs=1e-12)
        assert 0 < metrics.map < 1


def one_class(boxes: list, crowd: list) -> dict:
    return {
        "images": [{"id": 1, "width": 500, "height": 500}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": c}
            for n, (box, c) in enumerate(zip(boxes, crowd, strict=True))
        ],
    }


def found(box: list, score: float) -> dict:
    return {"image_id": 1, "category_id": 1, "bbox": box, "score": score}


def test_precision_by_hand() -> None:
    # hit, miss, hit of two objects: recall 1/2 1/2 1, precision 1 1/2 2/3.
    truth = one_class([[0, 0, 50, 50], [100, 0, 50, 50]], [0, 0])
    results = [found([0, 0, 50, 50], 0.9), found([300, 0, 50, 50], 0.8), found([100, 0, 50, 50], 0.7)]
    area, points = (evaluate_voc(truth, results, method=method) for method in ("area", "11-point"))
    assert area.map == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert points.map == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    (row,) = area.per_class
    assert row.recall.tolist() == [0.5, 0.5, 1]
    assert row.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert row.scores.tolist() == [0.9, 0.8, 0.7]
    assert (row.name, row.category_id, row.objects, row.difficult) == ("cat", 1, 2, 0)


def test_only_the_best_overlap_is_tried() -> None:
    # The second detection overlaps the first object most, which is taken; COCO would give it the other one.
    truth = one_class([[0, 0, 100, 100], [30, 0, 100, 100]], [0, 0])
    results = [found([0, 0, 100, 100], 0.9), found([5, 0, 100, 100], 0.8)]
    metrics = evaluate_voc(truth, results)
    assert metrics.map == pytest.approx(0.5)
    assert metrics.per_class[0].precision.tolist() == [1, 0.5]


def test_difficult_objects_are_left_out() -> None:
    truth = one_class([[0, 0, 50, 50], [100, 0, 50, 50]], [0, 1])
    results = [found([100, 0, 50, 50], 0.9), found([100, 0, 50, 45], 0.8), found([0, 0, 50, 50], 0.7)]
    metrics = evaluate_voc(truth, results)
    assert metrics.map == 1
    assert (metrics.per_class[0].objects, metrics.per_class[0].difficult) == (1, 1)
    assert metrics.per_class[0].scores.tolist() == [0.7]
    # A difficult object overlaps like any other, not like a crowd region: a small box inside it is false.
    assert evaluate_voc(truth, [found([110, 10, 5, 5], 0.9), found([0, 0, 50, 50], 0.7)]).map == 0.5


def test_the_pixel_that_is_added_can_decide() -> None:
    truth, results = one_class([[0, 0, 3, 3]], [0]), [found([0, 0, 3, 1], 0.9)]
    assert evaluate_voc(truth, results).map == 0  # 3 of 9 square pixels
    assert evaluate_voc(truth, results, plus_one=True).map == 1  # 4 x 2 of 4 x 4: exactly a half


def test_recall_of_exactly_three_tenths_reaches_the_level() -> None:
    truth = one_class([[60 * i, 0, 50, 50] for i in range(10)], [0] * 10)
    results = [found([60 * i, 0, 50, 50], 0.9 - i / 100) for i in range(3)]
    assert evaluate_voc(truth, results, method="11-point").map == pytest.approx(4 / 11)
    assert evaluate_voc(truth, results).map == pytest.approx(0.3)


def test_files_of_voc_give_the_development_kits_figures_without_plus_one(tmp_path) -> None:
    # In the file: corners 1 1 4 4 inclusive, a 4 x 4 box. A detection of pixels 1 1 4 2 is its half.
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_text(
        "<annotation><filename>a.jpg</filename><size><width>50</width><height>40</height></size><object>"
        "<name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>"
    )
    truth = read_annotations(tmp_path)
    image = int(truth.image_ids[0])
    half_open = [{"image_id": image, "category_id": 1, "bbox": [0, 0, 4, 2], "score": 0.5}]
    assert evaluate_voc(truth, half_open).map == 1
    assert evaluate_voc(truth, [half_open[0] | {"bbox": [0, 0, 4, 1.9]}]).map == 0


def test_every_form_of_input(tmp_path) -> None:
    truth, results = whole_boxes(3)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(results))
    expected = evaluate_voc(truth, results).map
    assert evaluate_voc(tmp_path / "gt.json", tmp_path / "dt.json").map == expected
    assert evaluate_voc(as_annotations(truth), as_arrays(results)).map == pytest.approx(expected, abs=1e-12)


def test_nothing_found_and_nothing_to_find() -> None:
    truth, results = whole_boxes(1)
    assert evaluate_voc(truth, []).map == 0
    empty = evaluate_voc(truth | {"annotations": []}, results)
    assert math.isnan(empty.map)
    assert json.loads(json.dumps(empty.to_dict(), allow_nan=False))["per_class"][0]["ap"] is None
    assert all(math.isnan(row.ap) and np.isnan(row.recall).all() for row in empty.per_class)


def test_bad_options_are_named() -> None:
    for options, message in [
        ({"method": "12-point"}, "method must be 'area' or '11-point', got '12-point'"),
        ({"iou_threshold": 0}, "iou_threshold must lie above 0"),
        ({"iou_threshold": 50}, "iou_threshold must lie above 0 and not above 1, got 50"),
    ]:
        with case(options, message):
            truth, results = whole_boxes(1)
            with pytest.raises(ValueError, match=message):
                evaluate_voc(truth, results, **options)
