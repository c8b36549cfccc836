"""analyse: what its parts say is JSON, whatever is unknown; ground truth that is read already is not read again."""

import json

import pytest

from detseg.metrics import evaluate_detections
from detseg.metrics.bootstrap.detection import compare_detection, compare_matches
from detseg.metrics.detection.analysis import analyse
from detseg.metrics.detection.inputs import read_found, read_truth
from detseg.metrics.detection.matching import match
from tests.metrics.scenes import random_scene


def unknown():
    """One image with one object of two classes, and nothing found: there is no interval, and no best score."""
    truth = {
        "images": [{"id": 1, "width": 640, "height": 480}],
        "categories": [{"id": 1, "name": "rose"}, {"id": 2, "name": "tulip"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0}],
    }
    return truth, []


def nothing():
    """No objects at all: AP itself is unknown."""
    truth, _ = unknown()
    return truth | {"annotations": []}, [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]


@pytest.mark.parametrize("scene", [unknown, nothing])
def test_every_part_is_json_with_none_for_what_is_unknown(scene):
    truth, found = scene()
    analysis = analyse(truth, found, resamples=5)
    comparison = compare_detection(truth, found, found, resamples=5)
    parts = [analysis, analysis.metrics, analysis.intervals, analysis.errors, analysis.thresholds, comparison]
    told = [json.loads(json.dumps(part.to_dict(), allow_nan=False)) for part in parts]
    assert told[2]["figures"]["AP"]["low"] is None
    assert told[2]["per_class"][1]["ap"]["value"] is None
    assert told[4]["overall"]["score"] is None
    assert told[5]["figures"]["AP"]["low"] is None
    assert told[5]["per_class"][1]["b_better"] is None
    assert told[3]["ap"] == (0 if scene is unknown else None)
    assert told[0] == told[1] | {
        name: told[0][name] for name in ("intervals", "errors", "best_thresholds", "confusion", "reliability")
    }


def test_ground_truth_that_is_read_already_gives_the_same():
    coco, found = random_scene(3)
    truth = read_truth(coco, "bbox")
    assert read_truth(truth, "bbox") is truth
    assert evaluate_detections(truth, found).stats == evaluate_detections(coco, found).stats
    sides = [match(truth, read_found(side, truth, "bbox"), "bbox") for side in (found, found[::2])]
    again = compare_matches(*sides, resamples=9).to_dict()
    assert again == compare_detection(coco, found, found[::2], resamples=9).to_dict()
