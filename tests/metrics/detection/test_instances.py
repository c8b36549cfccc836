"""Boxes and masks of the same detections measured together: each as by itself."""

import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

from detseg.data.measurable import measurable_masks
from detseg.metrics import DetectionEvaluator, Detections, InstanceEvaluator, evaluate_detections
from detseg.metrics.detection import FIGURES
from detseg.metrics.detection.average_precision import of_masks
from tests.metrics.coco_scenes import as_annotations, mask_scene
from tests.metrics.detection.test_masks import many_masks


def predictions_of(truth, results):
    """What a model would have returned for each image."""
    categories = [c["id"] for c in truth["categories"]]
    rows = []
    for image in truth["images"]:
        mine = [r for r in results if r["image_id"] == image["id"]]
        boxes = np.array([r.get("bbox", [0, 0, 1, 1]) for r in mine], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([categories.index(r["category_id"]) for r in mine], int)
        scores = np.array([r["score"] for r in mine], float)
        rows.append({"boxes": boxes, "labels": labels, "scores": scores, "masks": [r["segmentation"] for r in mine]})
    return rows, [image["id"] for image in truth["images"]], categories


@pytest.mark.parametrize("make", [lambda: mask_scene(2), many_masks], ids=["scene", "more than 255 masks"])
def test_each_is_as_by_itself(make):
    truth, results = make()
    rows, ids, categories = predictions_of(truth, results)
    shares = [InstanceEvaluator(truth) for _ in range(2)]
    for i, (row, image) in enumerate(zip(rows, ids, strict=True)):
        shares[i % 2].update([row], [image])
    shares[0].merge(pickle.loads(pickle.dumps(shares[1])))
    metrics = shares[0].compute()
    found = Detections.from_predictions(rows, ids, categories)
    assert metrics.stats == evaluate_detections(truth, found).stats
    assert metrics.masks.stats == evaluate_detections(truth, found, "segm").stats != metrics.stats
    assert (metrics.iou_type, metrics.masks.iou_type) == ("bbox", "segm")
    content = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert content["masks"]["stats"] == list(metrics.masks.stats)
    assert content["figures"]["mask_AP"] == metrics.masks.map and content["figures"]["AP"] == metrics.map


def test_figures_of_masks_follow_those_of_boxes():
    truth, results = mask_scene(1)
    rows, ids, _ = predictions_of(truth, results)
    both, boxes = InstanceEvaluator(truth), DetectionEvaluator(truth)
    for evaluator in (both, boxes):
        evaluator.update(rows, ids)
    names = [f.name for f in boxes.compute().shown()]
    metrics = both.compute()
    assert [f.name for f in metrics.shown()] == names + [f"mask_{name}" for name in names]
    assert metrics.figures()["mask_AP75"] == metrics.masks.map75
    assert all(math.isnan(of_masks(figure).compute(boxes.compute())) for figure in FIGURES)
    assert of_masks(FIGURES[0])[:2] == ("mask_AP", "mask mAP@[.5:.95]")


def test_part_of_the_images_and_missing_masks():
    truth, results = mask_scene(3)
    rows, ids, _ = predictions_of(truth, results)
    evaluator = InstanceEvaluator(truth)
    without = {name: values for name, values in rows[0].items() if name != "masks"}
    with pytest.raises(ValueError, match=f"image {ids[0]}: the prediction has no 'masks'"):
        evaluator.update([without], ids[:1])
    evaluator.update(rows[:3], ids[:3])
    assert len(evaluator) == 3
    with pytest.raises(ValueError, match="2 of 5 images of the ground truth had no update"):
        evaluator.compute()
    assert evaluator.compute(partial=True).images == evaluator.compute(partial=True).masks.images == 3


def test_objects_without_a_mask_count_as_boxes_alone():
    truth, results = mask_scene(2)
    rows, ids, categories = predictions_of(truth, results)
    whole = as_annotations(truth)
    removed = np.arange(len(whole.ids)) % 3 == 0
    data = replace(whole, segments=whole.segments.without(removed))
    evaluator = InstanceEvaluator(data, measurable_masks(data))
    evaluator.update(rows, ids)
    metrics = evaluator.compute()
    found = Detections.from_predictions(rows, ids, categories)
    assert metrics.stats == evaluate_detections(whole, found).stats, "boxes: as before"
    # Masks: as if the boxes without one were crowd regions, with the box as their mask.
    for annotation in truth["annotations"]:
        if removed[whole.ids.tolist().index(annotation["id"])]:
            x, y, w, h = annotation["bbox"]
            annotation |= {"iscrowd": 1, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
    assert metrics.masks.stats == evaluate_detections(truth, found, "segm").stats
    assert metrics.masks.objects < metrics.objects
