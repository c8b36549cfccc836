"""Shards of results as detections: the figures are those of one file of detections."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detseg.cluster.evaluation import ImageIds, class_masks_in, detections_in, image_names
from detseg.cluster.manifest import Manifest, begin
from detseg.cluster.results import Mask, Row, encode, row_of
from detseg.metrics import DetectionEvaluator, evaluate_detections
from detseg.results import Segmentation

CATEGORIES = [(7, "rose"), (3, "tulip")]
SIDE = 64


def scene(images=9, seed=0):
    """Ground truth of some images, and for each image (boxes xyxy, scores, labels) as float32 and int."""
    rng = np.random.default_rng(seed)
    truth = {
        "images": [{"id": 50 - i, "file_name": f"a/{i}.jpg", "width": SIDE, "height": SIDE} for i in range(images)],
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES],
        "annotations": [],
    }
    found = []
    for i in range(images):
        count = int(rng.integers(0, 4))
        corners = rng.uniform(0, SIDE / 2, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(8, SIDE / 2, (count, 2))], 1)
        labels = rng.integers(0, 2, count)
        for box, label in zip(boxes, labels, strict=True):
            x1, y1, x2, y2 = box.tolist()
            entry = {"image_id": 50 - i, "category_id": CATEGORIES[label][0], "bbox": [x1, y1, x2 - x1, y2 - y1]}
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, "area": 1000, "iscrowd": 0, **entry})
        near = (boxes + rng.normal(0, 1.5, boxes.shape)).astype(np.float32)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        # Coarse scores: ties between images and shards.
        found.append((near, (rng.integers(1, 5, count) / 4).astype(np.float32), labels))
    return truth, found


def write(folder, rows, ending="jsonl", size=4, categories=CATEGORIES):
    """Rows in shards of some."""
    groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    begin(str(folder), Manifest("run", "", {}, categories, ending), [])
    for number, group in enumerate(groups):
        (folder / f"{number}.{ending}").write_bytes(encode(group, ending))
    return str(folder)


def rows_of(found, name="photos/a/{}.jpg"):
    return [
        Row(name.format(i), SIDE, SIDE, boxes.tolist(), scores.tolist(), labels.tolist(), ["x"] * len(labels))
        for i, (boxes, scores, labels) in enumerate(found)
    ]


@pytest.fixture
def truth_file(tmp_path):
    truth, found = scene()
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(truth))
    return path, truth, found


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_figures_are_those_of_one_file(truth_file, tmp_path, ending, size):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    path, truth, found = truth_file
    results = []
    for image, (boxes, scores, labels) in zip(truth["images"], found, strict=True):
        for (x1, y1, x2, y2), score, label in zip(boxes.tolist(), scores.tolist(), labels, strict=True):
            entry = {"image_id": image["id"], "category_id": CATEGORIES[label][0], "score": score}
            results.append(entry | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
    rng = np.random.default_rng(1)
    rows = [rows_of(found)[i] for i in rng.permutation(len(found))]  # shards come in any order
    matched = detections_in(write(tmp_path / "found", rows, ending, size), image_names(path))
    whole = evaluate_detections(truth, results)
    assert evaluate_detections(path, matched.detections).figures() == whole.figures()
    assert 0.1 < whole.figures()["AP"] < 1
    assert (matched.found, matched.missing, matched.others) == (len(found), [], [])


def test_states_of_evaluators_of_each_shard_merge_to_the_same(truth_file, tmp_path):
    """Where a shard's ground truth lies in it, nobody needs all of it: only what the states hold."""
    path, truth, found = truth_file
    whole = evaluate_detections(
        path, detections_in(write(tmp_path / "f", rows_of(found)), image_names(path)).detections
    )
    merged = DetectionEvaluator(CATEGORIES)
    for start in range(0, len(found), 4):
        part = DetectionEvaluator(CATEGORIES)
        numbers = range(start, min(start + 4, len(found)))
        ids = [truth["images"][i]["id"] for i in numbers]
        predictions = [dict(zip(("boxes", "scores", "labels"), found[i], strict=True)) for i in numbers]
        part.update(predictions, [targets_of(truth, number) for number in ids], ids)
        merged.merge(part.state())
        merged.merge(part.state())  # a state that comes twice counts once
    assert merged.compute().figures() == pytest.approx(whole.figures(), nan_ok=True, abs=1e-6)


def targets_of(truth, image_id):
    own = [entry for entry in truth["annotations"] if entry["image_id"] == image_id]
    boxes = np.array([entry["bbox"] for entry in own], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = [[number for number, _ in CATEGORIES].index(entry["category_id"]) for entry in own]
    return {
        "boxes": boxes,
        "labels": np.array(labels, np.int64),
        "area": np.array([e["area"] for e in own], np.float64),
    }


def test_masks_come_along(truth_file, tmp_path):
    path, _, found = truth_file
    rows = rows_of(found)
    for row in rows:
        row.masks = [Mask([SIDE, SIDE], f"{len(row.image)}") for _ in row.scores]
    rows.append(Row("other.jpg", 4, 4, [[0, 0, 1, 1]], [0.5], [0], ["x"], [Mask([4, 4], "04")]))
    detections = detections_in(write(tmp_path / "found", rows), image_names(path)).detections
    assert detections.masks is not None and len(detections.masks) == len(detections)
    assert all(mask["size"] == [SIDE, SIDE] for mask in detections.masks)


def test_what_is_missing_and_what_is_not_known(truth_file, tmp_path):
    path, _, found = truth_file
    rows = rows_of(found)
    rows = [
        *rows[:2],
        Row(rows[2].image, error="cut short"),
        *rows[4:],
        Row("other.jpg", 9, 9),
        Row("b.jpg", error="x"),
    ]
    matched = detections_in(write(tmp_path / "found", rows), image_names(path))
    assert matched.missing == ["a/2.jpg", "a/3.jpg"] and matched.unreadable == ["a/2.jpg"]
    assert matched.others == ["other.jpg", "b.jpg"] and matched.found == len(found) - 2
    assert not set(matched.detections.image_ids.tolist()) & {48, 47}
    with pytest.raises(ValueError, match=r"no image of the ground truth has results \(1 other images have\)"):
        detections_in(write(tmp_path / "none", rows[-1:]), image_names(path))
    with pytest.raises(ValueError, match=r"a/0\.jpg: the image with the id 50 has results twice"):
        detections_in(write(tmp_path / "twice", [*rows, rows[0]]), image_names(path))


def test_labels_that_the_manifest_does_not_list(truth_file, tmp_path):
    path, _, found = truth_file
    folder = write(tmp_path / "found", rows_of(found), categories=[])
    with pytest.raises(ValueError, match=r"0\.jsonl: the label \d; the manifest lists 0 categories"):
        detections_in(folder, image_names(path))


def label_maps(images=5, seed=0):
    """(H, W) uint8 of two classes, of sizes that differ; one of a single class."""
    rng = np.random.default_rng(seed)
    maps = [rng.integers(0, 2, (4 + i, 9 - i), dtype=np.uint8) for i in range(images)]
    return [maps[0] * 0, *maps[1:]]


def run_lengths(mask):
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return Mask(code["size"], code["counts"].decode())


def rows_of_maps(maps):
    seen = [Segmentation(one, np.ones(one.shape, np.float32), np.zeros((*one.shape, 3)), CATEGORIES) for one in maps]
    return [row_of(f"photos/{i}.jpg", one.shape, found) for i, (one, found) in enumerate(zip(maps, seen, strict=True))]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_label_maps_come_back_as_they_were(tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    maps = label_maps()
    folder = write(tmp_path / "found", [*rows_of_maps(maps), Row("other.jpg", 4, 4)], ending, size=2)
    found = class_masks_in(folder, {f"{i}.jpg": 10 * i for i in range(len(maps))})
    assert list(found) == [10 * i for i in range(len(maps))]
    for one, masks in zip(maps, found.values(), strict=True):
        assert np.array_equal(masks.label_map(*one.shape), one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": [run_lengths(np.arange(36).reshape(4, 9) < 35)]}, r"0\.jsonl: the masks of an image do not divide"),
        ({"labels": [0, 1], "scores": [1, 1], "masks": [run_lengths(np.ones((4, 9)))] * 2}, "do not divide its pixels"),
        ({"masks": [Mask([4, 8], "0P1")]}, r"0\.jsonl: a mask is not of the 9 x 4 pixels"),
        ({"masks": [Mask([4, 9], "0S1")]}, r"0\.jsonl: a mask is not of the 9 x 4 pixels"),
        ({"masks": [Mask([4, 9], "0é\\0")]}, r"0\.jsonl: a mask is not of the 9 x 4 pixels"),
        ({"masks": []}, r"0\.jsonl: line 1: there are not as many scores as labels, boxes and masks"),
        ({"masks": None}, r"0\.jsonl: some results have masks and others none"),
        ({"labels": [2]}, r"0\.jsonl: the label 2; the manifest lists 2 categories"),
        ({"labels": [-1]}, r"0\.jsonl: the label -1; the manifest lists 2 categories"),
        ({"labels": [0, 1]}, r"0\.jsonl: line 1: there are not as many scores as labels, boxes and masks"),
        ({"error": "cut short"}, r"found: 1 of 2 images of the ground truth have no results, or could not be read"),
        ({"image": "2.jpg"}, r"found: 1 of 2 images of the ground truth have no results, or could not be read"),
        ({"image": "1.jpg"}, r"0\.jsonl: photos/1\.jpg: the image with the id 1 has results twice"),
    ],
)
def test_label_maps_that_are_damaged_or_missing_are_refused_by_name(tmp_path, change, message):
    rows = rows_of_maps(label_maps(2))
    for name, value in change.items():
        setattr(rows[0], name, value)
    folder = write(tmp_path / "found", rows)
    with pytest.raises(ValueError, match=message):
        class_masks_in(folder, {"0.jpg": 0, "1.jpg": 1})[0].label_map(4, 9)


@pytest.mark.parametrize(
    ("image", "number"),
    [
        ("a/1.jpg", 1),
        ("photos/a/1.jpg", 1),
        ("s3://b/photos/b/1.jpg", 2),
        ("1.jpg", None),  # two have the name
        ("2.jpg", 3),
        ("x/2.jpg", 3),
        ("x\\a\\1.jpg", 1),
        ("3", 3),  # an id
        ("4.jpg", None),
    ],
)
def test_ids_by_name(image, number):
    assert ImageIds({"a/1.jpg": 1, "b/1.jpg": 2, "deep/2.jpg": 3}).of(image) == number


def test_names_of_coco_files(tmp_path):
    path = tmp_path / "gt.json"
    path.write_text(json.dumps({"images": [{"id": "x", "file_name": "a.jpg"}, {"id": "7", "file_name": "b.jpg"}]}))
    assert image_names(path) == {"a.jpg": 8, "b.jpg": 7}  # names are numbered after the largest number
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}]}))
    with pytest.raises(ValueError, match="two have the same file_name"):
        image_names(path)
