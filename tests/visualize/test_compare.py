"""Ground truth beside predictions: what counts as found, wrong or missed."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from detseg.visualize import compare_sheet, match_objects, worst_images
from detseg.visualize.compare import FOUND, IGNORED, MISSED, WRONG
from tests.visualize.images import BACKGROUND, blank


def objects(*rows, scores=None, iscrowd=None):
    """Rows (label, x1, y1, x2, y2) as a target or, with scores, a detection."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    result = {"boxes": table[:, 1:], "labels": table[:, 0].astype(np.int64)}
    if scores is not None:
        result["scores"] = np.array(scores, np.float32)
    if iscrowd is not None:
        result["iscrowd"] = np.array(iscrowd, bool)
    return result


def test_match_by_hand():
    truth = objects((0, 0, 0, 10, 10), (0, 20, 0, 30, 10), (1, 40, 0, 50, 10), (1, 60, 0, 70, 10))
    prediction = objects(
        (0, 0, 0, 10, 10),  # right
        (0, 0, 0, 10, 9),  # a double of it
        (0, 20, 0, 30, 5),  # IoU exactly 0.5: right
        (0, 40, 0, 50, 10),  # the wrong class
        (1, 60, 0, 70, 4),  # too loose
        (1, 60, 0, 70, 10),  # right, but below the score threshold
        scores=[0.9, 0.8, 0.7, 0.6, 0.5, 0.1],
    )
    match = match_objects(truth, prediction)
    assert match.found.tolist() == [True, True, False, False]
    assert match.kept.tolist() == [0, 1, 2, 3, 4]
    assert match.right.tolist() == [True, False, True, False, False]
    assert (match.hits, match.wrong, match.missed) == (2, 3, 2)
    assert match.f1 == pytest.approx(4 / 9)
    assert match_objects(truth, prediction, score_threshold=0.05).found.tolist() == [True, True, False, True]


def test_better_score_chooses_first_and_takes_the_highest_iou():
    truth = objects((0, 0, 0, 10, 10), (0, 2, 0, 12, 10))
    prediction = objects((0, 1.8, 0, 12, 10), (0, 1, 0, 11, 10), scores=[0.5, 0.9])
    match = match_objects(truth, prediction)
    assert match.kept.tolist() == [1, 0] and match.right.all() and match.found.all()


def test_crowd_is_neither_missed_nor_wrong():
    truth = objects((0, 0, 0, 100, 100), (1, 200, 0, 210, 10), iscrowd=[True, False])
    prediction = objects((0, 5, 5, 15, 15), (1, 5, 5, 15, 15), (0, 95, 0, 120, 10), scores=[0.9, 0.8, 0.7])
    match = match_objects(truth, prediction)
    assert match.ignored.tolist() == [True, False, False]  # other class; only a fifth of it inside
    assert (match.hits, match.wrong, match.missed) == (0, 2, 1)


def test_match_of_nothing():
    nothing, none_found = objects(), objects(scores=[])
    assert match_objects(nothing, none_found).f1 == 1.0
    assert match_objects(objects((0, 0, 0, 5, 5)), none_found).f1 == 0.0
    assert match_objects(nothing, objects((0, 0, 0, 5, 5), scores=[0.9])).f1 == 0.0


def test_match_takes_tensors():
    truth = {
        "boxes": torch.tensor([[0.0, 0, 5, 5]]),
        "labels": torch.tensor([0]),
        "iscrowd": torch.tensor([False]),
    }
    prediction = {k: truth[k] for k in ("boxes", "labels")} | {"scores": torch.tensor([0.9])}
    assert match_objects(truth, prediction).hits == 1


def test_worst_images_come_first():
    one, two = objects((0, 0, 0, 9, 9)), objects((0, 0, 0, 9, 9), (0, 20, 20, 29, 29))
    right, nothing = objects((0, 0, 0, 9, 9), scores=[0.9]), objects(scores=[])
    order = worst_images([one, one, two, two], [right, nothing, right, nothing])
    assert order == [3, 1, 2, 0]
    assert worst_images([one, one], [right, nothing], 1) == [1]


def test_compare_sheet_paints_each_fate_on_its_side():
    truth = objects((0, 10, 40, 60, 90), (0, 80, 40, 130, 90), (0, 140, 40, 190, 90), iscrowd=[False, False, True])
    prediction = objects((0, 10, 40, 60, 90), (0, 80, 100, 130, 140), scores=[0.9, 0.8])
    image = blank(150, 200)
    sheet = compare_sheet([image], [truth], [prediction], ["rose"], tile=200)
    body = sheet[40:]  # below the legend
    half = body.shape[1] // 2
    left, right = body[:, :half], body[:, half:]

    def has(part, color):
        return (part == color).all(axis=2).sum() > 30

    assert has(left, FOUND) and has(left, MISSED) and has(left, IGNORED) and not has(left, WRONG)
    assert has(right, FOUND) and has(right, WRONG) and not has(right, MISSED) and not has(right, IGNORED)
    assert (image == BACKGROUND).all()


def test_compare_sheet_shows_masks_at_the_size_of_the_tile():
    truth, prediction = objects((0, 10, 40, 60, 90)), objects((0, 10, 40, 60, 90), (0, 0, 0, 9, 9), scores=[0.9, 0.1])
    plain = compare_sheet([blank(150, 200)], [truth], [prediction], ["rose"], tile=400)
    truth["masks"] = np.zeros((1, 150, 200), bool)
    prediction["masks"] = np.zeros((2, 150, 200), np.uint8)
    truth["masks"][0, 40:90, 10:60], prediction["masks"][0, 40:90, 10:60] = True, 1
    drawn = compare_sheet([blank(150, 200)], [truth], [prediction], ["rose"], tile=400)
    tinted = np.rint((BACKGROUND + np.array(FOUND, float)) / 2)
    share = (np.abs(drawn - tinted) <= 1).all(axis=2).sum() / (2 * 100 * 100)
    assert 0.8 < share <= 1 and (np.abs(plain - tinted) <= 1).all(axis=2).sum() < 100


def test_compare_sheet_of_images_of_many_sizes():
    images = [blank(100, 200), blank(200, 100), blank(7, 7)]
    truths = [objects((0, 0, 0, 50, 50)), objects(), objects((1, 0, 0, 7, 7))]
    predictions = [
        objects(scores=[]),
        objects((1, 5, 5, 50, 50), scores=[0.9]),
        objects((1, 0, 0, 7, 7), scores=[1]),
    ]
    sheet = compare_sheet(images, truths, predictions, ["a", "b"], columns=2, tile=100, captions=["x", "y", "z"])
    assert sheet.shape[1] > 400 and sheet.shape[0] > 200


def test_real_flowers_are_matched_to_themselves(flowers_det):
    content = json.loads((flowers_det / "val.json").read_text())
    picture = max(content["images"], key=lambda i: sum(a["image_id"] == i["id"] for a in content["annotations"]))
    mine = [a for a in content["annotations"] if a["image_id"] == picture["id"]]
    boxes = np.array([a["bbox"] for a in mine])
    boxes[:, 2:] += boxes[:, :2]
    truth = {"boxes": boxes, "labels": np.array([a["category_id"] - 1 for a in mine])}
    match = match_objects(truth, truth | {"scores": np.linspace(0.9, 0.4, len(mine))})
    assert match.f1 == 1.0 and match.hits == len(mine) > 10


def test_masks_are_matched_by_their_own_iou():
    truth, prediction = objects((0, 0, 0, 40, 40)), objects((0, 0, 0, 40, 40), scores=[0.9])
    real = np.zeros((1, 60, 80), bool)
    real[0, :40, :10] = True
    for found, hits, iou in ((real, 1, 1.0), (np.roll(real, 3, 2), 1, 7 / 13), (np.roll(real, 30, 2), 0, 1.0)):
        for truth["masks"], prediction["masks"] in ((real, found), (coded(real), coded(found)), (real, coded(found))):
            match = match_objects(truth, prediction)
            assert match.hits == hits and match.mean_iou == pytest.approx(iou)
    del truth["masks"]
    assert match_objects(truth, prediction).hits == 1, "boxes, where one side has no masks"


def test_a_mask_in_a_crowd_region_is_ignored():
    masks = np.zeros((3, 60, 80), bool)
    masks[0, 10:50, 10:70] = masks[1, 10:20, 10:20] = masks[2, 50:, 70:] = True
    truth = objects((0, 10, 10, 70, 50), iscrowd=[True]) | {"masks": masks[:1]}
    prediction = objects((0, 0, 0, 9, 9), (0, 0, 0, 9, 9), scores=[0.9, 0.8]) | {"masks": coded(masks[1:])}
    assert match_objects(truth, prediction).ignored.tolist() == [True, False]
    nothing = objects(scores=[]) | {"masks": []}
    assert match_objects(truth, nothing).f1 == 1.0
    assert match_objects(objects() | {"masks": []}, prediction).wrong == 2


def test_more_than_255_masks_and_the_worst_of_those_found():
    masks = np.zeros((300, 60, 80), bool)
    for i, mask in enumerate(masks):
        mask[3 * (i // 20) : 3 * (i // 20) + 3, 4 * (i % 20) : 4 * (i % 20) + 4] = True
    boxes = [(0, 0, 0, 80, 60)] * 300
    truth = objects(*boxes) | {"masks": coded(masks)}
    exact = objects(*boxes, scores=np.linspace(1, 0.5, 300)) | {"masks": coded(masks)}
    match = match_objects(truth, exact)
    assert match.hits == 300 and match.f1 == match.mean_iou == 1
    loose = exact | {"masks": coded(masks & (np.arange(80) % 4 > 0))}
    assert match_objects(truth, loose).mean_iou == pytest.approx(0.75)
    assert worst_images([truth, truth], [exact, loose]) == [1, 0]


def test_sheet_of_run_lengths_is_that_of_masks():
    masks = np.zeros((2, 150, 200), np.uint8)
    masks[0, 40:90, 10:60] = masks[1, 100:140, 80:190] = 1
    truth = objects((0, 10, 40, 60, 90), (0, 80, 100, 190, 140))
    prediction = objects((0, 10, 40, 60, 90), (0, 80, 100, 190, 140), scores=[0.9, 0.1])
    sheets = [
        compare_sheet([blank(150, 200)], [truth | {"masks": m}], [prediction | {"masks": m}], ["rose"], tile=300)
        for m in (masks, coded(masks))
    ]
    assert (sheets[0] == sheets[1]).all()


def coded(masks):
    """The masks (M, H, W) as COCO run lengths."""
    return [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
