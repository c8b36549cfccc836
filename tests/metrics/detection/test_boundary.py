"""Boundary AP against its definition: masks eroded pixel by pixel with OpenCV, IoU and AP by pycocotools."""

import contextlib
import copy
import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.metrics import DetectionEvaluator, Detections, analyse, evaluate_detections
from detseg.metrics.detection.boundary_iou import mask_boundary
from detseg.metrics.detection.run_lengths import encode_masks
from detseg.metrics.segmentation.boundary import boundary_distance, boundary_region
from tests.metrics.coco_scenes import as_annotations, mask_scene
from tests.metrics.detection.test_masks import many_masks


def eroded_away(mask):
    """The boundary (H, W) of a mask (H, W) uint8, one erosion a pixel of distance, with nothing around the image."""
    height, width = mask.shape
    distance = max(1, round(0.02 * (height**2 + width**2) ** 0.5))
    whole = cv2.erode(np.pad(mask, 1), np.ones((3, 3), np.uint8), iterations=distance)
    return mask - whole[1:-1, 1:-1]


def packed(mask):
    return coco_mask.encode(np.asfortranarray(mask))


class BoundaryEval(COCOeval):
    """pycocotools with the overlaps of the paper."""

    def computeIoU(self, image, category):
        overlaps = super().computeIoU(image, category)
        objects, found = self._gts[image, category], self._dts[image, category]
        if not objects or not found:
            return overlaps
        found = sorted(found, key=lambda d: -d["score"])[: self.params.maxDets[-1]]
        crowd = [int(g["iscrowd"]) for g in objects]
        sides = [[packed(eroded_away(coco_mask.decode(x["segmentation"]))) for x in side] for side in (found, objects)]
        edges = coco_mask.iou(*sides, crowd)
        return np.where(np.array(crowd, bool), overlaps, np.minimum(overlaps, edges))


def paper_stats(truth, results):
    truth, results = copy.deepcopy(truth), copy.deepcopy(results)
    with contextlib.redirect_stdout(io.StringIO()):
        side = COCO()
        side.dataset = truth
        side.createIndex()
        evaluator = BoundaryEval(side, side.loadRes(results), "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


def any_mask(seed, height, width):
    """Dots, blobs with holes, everything but a pixel, nothing."""
    rng = np.random.default_rng(seed)
    full = np.ones((height, width), np.uint8)
    full[rng.integers(height), rng.integers(width)] = 0
    blobs = cv2.resize((rng.random((5, 5)) < 0.6).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    dots = (rng.random((height, width)) < rng.random()).astype(np.uint8)
    return [dots, blobs, full, np.zeros_like(full), np.ones_like(full)][seed % 5]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 130), st.integers(1, 130))
def test_boundary_is_what_erosion_takes_away(seed, height, width):
    mask = any_mask(seed, height, width)
    found = coco_mask.decode(mask_boundary(packed(mask)))
    assert (found == eroded_away(mask)).all()
    assert (found == (boundary_region(mask) & (mask > 0))).all(), "as for label maps"


def test_boundary_of_a_large_mask_and_of_touching_runs():
    mask = np.zeros((1500, 2000), np.uint8)
    cv2.circle(mask, (900, 700), 500, 1, -1)
    assert boundary_distance(1500, 2000) == 50
    assert (coco_mask.decode(mask_boundary(packed(mask))) == eroded_away(mask)).all()
    torn = {"size": [60, 80], "counts": [600, 30, 0, 29, 1, 0, 0, 1200, 2940]}  # runs with nothing between them
    rle = coco_mask.frPyObjects(torn, 60, 80)
    assert (coco_mask.decode(mask_boundary(rle)) == eroded_away(coco_mask.decode(rle))).all()


@pytest.mark.parametrize("seed", range(3))
def test_boundary_ap_is_the_papers(seed):
    truth, results = mask_scene(seed)
    assert any(a["iscrowd"] for a in truth["annotations"])
    expected = paper_stats(truth, results)
    metrics = evaluate_detections(truth, results, "boundary")
    np.testing.assert_allclose(metrics.stats, expected, rtol=0, atol=1e-12)
    assert 0 < metrics.map < evaluate_detections(truth, results, "segm").map
    assert evaluate_detections(as_annotations(truth), results, "boundary").stats == metrics.stats
    assert metrics.to_dict()["iou_type"] == "boundary"


def test_more_than_255_masks_in_one_image():
    truth, results = many_masks()
    expected = paper_stats(truth, results)
    assert 0.01 < expected[0] < 0.9
    np.testing.assert_allclose(evaluate_detections(truth, results, "boundary").stats, expected, rtol=0, atol=1e-12)


def test_batches_and_analysis_by_boundaries():
    truth, results = mask_scene(4)
    ids, names = [i["id"] for i in truth["images"]], [c["id"] for c in truth["categories"]]
    predictions = []
    for image in ids:
        mine = [r for r in results if r["image_id"] == image]
        boxes = np.array([r["bbox"] for r in mine]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([names.index(r["category_id"]) for r in mine], int)
        masks = [r["segmentation"] for r in mine]
        predictions.append({"boxes": boxes, "labels": labels, "scores": [r["score"] for r in mine], "masks": masks})
    evaluator = DetectionEvaluator(truth, "boundary")
    evaluator.update(predictions, ids)
    detections = Detections.from_predictions(predictions, ids, names)
    assert evaluator.compute().stats == evaluate_detections(truth, detections, "boundary").stats
    by_mask, by_boundary = (analyse(truth, detections, kind, resamples=0) for kind in ("segm", "boundary"))
    assert by_boundary.errors.ap < by_mask.errors.ap
    assert evaluate_detections(truth, [], "boundary").map == 0


def test_any_overlap_may_count():
    square = np.zeros((2, 100, 100), np.uint8)
    square[0, 10:60, 10:60] = square[1, 20:70, 10:60] = 1
    rles = [r | {"counts": r["counts"].decode()} for r in encode_masks(square, 2, "test")]
    truth = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": rles[0]}],
    }
    results = [{"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": rles[1]}]
    edges = [eroded_away(mask) for mask in square]
    iou = (edges[0] & edges[1]).sum() / (edges[0] | edges[1]).sum()
    for threshold, expected in ((0.0, 1), (iou, 1), (iou + 1e-6, 0)):
        metrics = evaluate_detections(truth, results, "boundary", iou_thresholds=[threshold])
        assert metrics.map == pytest.approx(expected)
