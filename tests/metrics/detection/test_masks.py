"""Masks as run lengths: areas of any number of them, masks in predictions, crowded images against pycocotools."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from detseg.metrics import Detections, evaluate_detections
from detseg.metrics.detection.run_lengths import encode_masks, mask_areas
from tests.metrics.coco_scenes import mask_scene, pycocotools_stats

SIDE = 60


def circles(seed, count, side=SIDE):
    """(count, side, side) bool, some of them empty."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, side, (2, count, 1, 1))
    radius, grid = rng.uniform(-1, 9, (count, 1, 1)), np.mgrid[:side, :side]
    return (grid[1] - x) ** 2 + (grid[0] - y) ** 2 < np.maximum(radius, 0) ** 2


def plain_run_lengths(mask):
    """Uncompressed run lengths of a bitmap (H, W)."""
    borders = np.flatnonzero(np.diff(np.r_[False, mask.T.ravel()]))
    return {"size": list(mask.shape), "counts": np.diff(np.r_[0, borders, mask.size]).tolist()}


def many_masks():
    """One image of 400 circles in three forms of outline, and 500 masks found in it, most of them near a circle."""
    masks = circles(0, 400)
    masks[:, :2, :2] = True  # none is empty
    annotations = []
    for n, (mask, rle) in enumerate(zip(masks, encode_masks(masks, 400, "scene"), strict=True)):
        outline = [
            {"size": [SIDE, SIDE], "counts": rle["counts"].decode()},
            plain_run_lengths(mask),
            [[3 + n % 40, 2, 12 + n % 40, 2, 12 + n % 40, 9, 3 + n % 40, 9], [2, 30, 9, 30, 9, 33 + n % 20]],
        ][n % 3]
        area = float(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(outline, SIDE, SIDE)))) if n % 3 == 2 else 0
        common = {"id": n + 1, "image_id": 7, "category_id": 1 + n % 2, "iscrowd": 0}
        area = area or float(mask.sum())
        annotations.append(common | {"segmentation": outline, "area": area, "bbox": [0, 0, 1, 1]})
    found = np.concatenate([np.roll(masks, 1, axis=2), masks[:100]])
    rng = np.random.default_rng(1)
    results = [
        {"image_id": 7, "category_id": 1 + n % 2, "score": float(rng.random()), "segmentation": rle}
        for n, rle in enumerate(encode_masks(found, 500, "scene"))
    ]
    for result in results:
        result["segmentation"] = result["segmentation"] | {"counts": result["segmentation"]["counts"].decode()}
    truth = {
        "images": [{"id": 7, "width": SIDE, "height": SIDE}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": annotations,
    }
    return truth, results


def test_areas_of_thousands_of_masks():
    masks = circles(3, 5000)
    rles = encode_masks(masks, 5000, "test")
    expected = masks.sum(axis=(1, 2))
    assert (expected == 0).any()
    assert mask_areas(rles).tolist() == expected.tolist()
    as_text = [rle | {"counts": rle["counts"].decode()} for rle in rles]
    assert mask_areas(as_text).tolist() == expected.tolist()
    assert mask_areas([]).tolist() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 9), st.floats(0, 1)), max_size=6))
def test_areas_of_any_masks(drawn):
    bitmaps = [np.random.default_rng(seed).random((side, 2 * side)) < share for seed, side, share in drawn]
    rles = [coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8))) for bitmap in bitmaps]
    assert mask_areas(rles).tolist() == [bitmap.sum() for bitmap in bitmaps]


def test_areas_of_large_masks_and_of_damaged_ones():
    runs = [[0, 30_000 * 40_000], [5, 10**9, 10, 7], [1_200_000_000], [10**9, 3, 9, 10**8, 2, 10**7, 1]]
    rles = [coco_mask.frPyObjects({"size": [30_000, 40_000], "counts": counts}, 30_000, 40_000) for counts in runs]
    assert mask_areas(rles).tolist() == [sum(counts[1::2]) for counts in runs]
    damaged = [{"counts": text, "size": [9, 9]} for text in ("", "o", "P" * 20, "oooo0")]
    assert mask_areas([rles[0], *damaged, rles[1]])[[0, -1]].tolist() == [1.2e9, 10**9 + 7]


def test_more_than_255_masks_in_one_image(tmp_path):
    truth, results = many_masks()
    expected = pycocotools_stats(truth, results, "segm")
    assert 0.05 < expected[0] < 0.9
    for gone in ((), ("area",)):
        given = copy.deepcopy(truth)
        for annotation in given["annotations"]:
            for name in gone:
                del annotation[name]
        np.testing.assert_allclose(evaluate_detections(given, results, "segm").stats, expected, rtol=0, atol=1e-12)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(results))
    stats = evaluate_detections(tmp_path / "gt.json", tmp_path / "dt.json", "segm").stats
    np.testing.assert_allclose(stats, expected, rtol=0, atol=1e-12)


FORMS = {
    "bool": lambda masks: masks,
    "uint8": lambda masks: masks.astype(np.uint8),
    "torch": torch.from_numpy,
    "run lengths": lambda masks: encode_masks(masks, len(masks), "test"),
    "plain run lengths": lambda masks: [plain_run_lengths(mask) for mask in masks],
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_in_predictions_equal_pycocotools(form):
    truth, _ = mask_scene(4)
    rng = np.random.default_rng(0)
    ids, predictions = [image["id"] for image in truth["images"]], []
    for image_id in ids:
        outlines = [a["segmentation"] for a in truth["annotations"] if a["image_id"] == image_id and not a["iscrowd"]]
        categories = [a["category_id"] for a in truth["annotations"] if a["image_id"] == image_id and not a["iscrowd"]]
        rles = [coco_mask.merge(coco_mask.frPyObjects(o, 480, 640)) if isinstance(o, list) else o for o in outlines]
        masks = np.stack([np.zeros((480, 640), bool), *(np.roll(coco_mask.decode(r), 3, 1) > 0 for r in rles)])[1:]
        rows = [(mask.any(0).nonzero()[0], mask.any(1).nonzero()[0]) for mask in masks]
        boxes = [[x[0], y[0], x[-1] + 1, y[-1] + 1] for x, y in rows]
        labels = [[c["id"] for c in truth["categories"]].index(category) for category in categories]
        row = {"boxes": np.array(boxes, float).reshape(-1, 4), "scores": rng.random(len(masks))}
        predictions.append(row | {"labels": np.array(labels, np.int64), "masks": FORMS[form](masks)})
    detections = Detections.from_predictions(predictions, ids, [c["id"] for c in truth["categories"]])
    results = json.loads(json.dumps(detections.to_results()))
    expected = pycocotools_stats(truth, results, "segm")
    assert 0.5 < expected[0] < 1
    np.testing.assert_allclose(evaluate_detections(truth, detections, "segm").stats, expected, rtol=0, atol=1e-12)


def test_masks_that_do_not_fit_their_predictions_are_named():
    row = {
        "boxes": np.ones((2, 4)),
        "scores": np.ones(2),
        "labels": np.zeros(2, int),
        "masks": np.ones((2, 5, 5), bool),
    }
    empty = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, int)}
    assert len(Detections.from_predictions([row, empty], [3, 4], [1]).masks) == 2
    assert Detections.from_predictions([empty], [3], [1]).masks is None
    without = {name: values for name, values in row.items() if name != "masks"}
    for wrong, message in (
        (row | {"masks": np.ones((3, 5, 5), bool)}, "image 4: the prediction: 3 masks for 2 labels"),
        (row | {"masks": np.full((2, 5, 5), 0.3)}, r"image 4: the prediction: masks must be bool .* got float64"),
        (without, "image 4: the prediction has no 'masks'; it has boxes, scores, labels"),
    ):
        with pytest.raises(ValueError, match=message):
            Detections.from_predictions([row, wrong], [3, 4], [1])


@pytest.mark.parametrize("counts", [[1, 2, 3], "", [], [9, 5, SIDE * SIDE - 15], [1, SIDE * SIDE], "abc"])
def test_run_lengths_that_do_not_fill_the_image_are_refused(counts):
    square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}
    truth = {"images": [{"id": 1, "width": SIDE, "height": SIDE}], "categories": [{"id": 1, "name": "a"}]}
    mask = {"size": [SIDE, SIDE], "counts": counts}
    found = [{"image_id": 1, "category_id": 1, "segmentation": mask, "score": 0.5}]
    with pytest.raises(ValueError, match=r"detection 0 .* run lengths of its mask are damaged: they do not fill"):
        evaluate_detections(truth | {"annotations": [square]}, found, iou_type="segm")
    # Nor do those pass that are compared with nothing.
    for objects, results in (([], found), ([square | {"segmentation": mask, "iscrowd": 1, "area": 9, "id": 5}], [])):
        for iou_type in ("segm", "boundary"):
            with pytest.raises(ValueError, match=r"image 1: (detection|object of the ground truth) 0 .*do not fill"):
                evaluate_detections(truth | {"annotations": objects}, results, iou_type=iou_type)


@pytest.mark.parametrize("form", ["file", "dict"])
@pytest.mark.parametrize(
    ("height", "width"), [(12, 2**63 - 1), (2**40, 2**40), (2**16, 2**16), (-5, 16), (5, 10**30)], ids=str
)
def test_images_of_sizes_that_no_mask_has_are_refused_by_name(tmp_path, form, height, width):
    """pycocotools counts pixels in 32 bits and reads past the end of what has more."""
    polygons = [[1, 1, 5, 1, 5, 5], [7, 7, 9, 7, 9, 9]]
    annotation = {"id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 9, "bbox": [1, 1, 4, 4]}
    truth = {
        "images": [{"id": 7, "file_name": "a.png", "height": height, "width": width}],
        "categories": [{"id": 1, "name": "rose"}],
        "annotations": [annotation | {"segmentation": polygons}],
    }
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(truth))
    place = str(file) if form == "file" else "ground truth"
    with pytest.raises(ValueError, match=f"{place}: image 7 is said to be {width} x {height} pixels"):
        evaluate_detections(file if form == "file" else truth, [], iou_type="segm")
