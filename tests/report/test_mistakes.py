"""The sheet of wrong detections: which they are, what is said of them, when there is none."""

import numpy as np
import pytest

import detseg.report.pages.mistakes
from detseg.metrics.detection.levels import TreeMetrics
from detseg.report.pages.mistakes import MOST, mistake_sheet, surest_mistakes, verdict, wrong_rows
from detseg.visualize.detection_heat import BOX
from detseg.visualize.heat import WIDTH
from tests.report.runs import detector, instances, sure_detector

TRUTH = {"boxes": np.array([[10.0, 10, 50, 50], [60, 10, 90, 40]]), "labels": np.array([0, 1])}


def found(*rows):
    """Detections of (box, label, score)."""
    boxes, labels, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return {"boxes": np.array(boxes, float).reshape(-1, 4), "labels": np.array(labels), "scores": np.array(scores)}


def test_wrong_detections_are_what_matches_nothing_by_its_box():
    right, twice = ([10, 10, 50, 52], 0, 0.9), ([10, 12, 50, 50], 0, 0.8)
    other, weak = ([60, 10, 90, 40], 0, 0.95), ([0, 60, 9, 70], 0, 0.29)
    for rows, wrong in (([], []), ([right], []), ([right, twice], [1]), ([right, weak], []), ([right, other], [1])):
        assert wrong_rows(TRUTH, found(*rows)) == wrong
    assert wrong_rows(TRUTH, found(right, twice, other)) == [2, 1], "the surest first"
    crowd = TRUTH | {"iscrowd": np.array([False, True])}
    assert wrong_rows(crowd, found(([62, 12, 70, 20], 1, 0.9))) == [], "in a crowd of its class"
    masks = {"masks": np.zeros((2, 8, 8), bool)}
    assert wrong_rows(TRUTH | masks, found(right) | {"masks": np.zeros((1, 8, 8), bool)}) == []


def test_what_is_said_of_them():
    names = ["rose", "tulip"]
    for box, label, words in (
        ([100, 60, 120, 80], 0, "background"),
        ([10, 10, 50, 50], 0, "found twice"),
        ([10, 10, 50, 50], 1, "is rose"),
        ([60, 10, 90, 40], 0, "is tulip"),
        ([10, 10, 50, 22], 0, "loose box, IoU 0.30"),
        ([60, 10, 90, 20], 0, "part of tulip"),
    ):
        assert verdict(TRUTH, box, label, names) == words
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, np.int64)}
    assert verdict(nothing, [0, 0, 9, 9], 1, names) == "background"


def test_images_with_the_surest_mistakes():
    wrong = [[([100, 60, 120, 80], 0, score)] for score in (0.5, 0.9, 0.2, 0.7)]
    predictions = [found(*rows) for rows in (*wrong, ())]
    assert surest_mistakes([TRUTH] * 5, predictions) == [1, 3, 0]
    assert surest_mistakes([], []) == [] == surest_mistakes([TRUTH], [found()])
    assert surest_mistakes([TRUTH] * 30, [predictions[0]] * 30) == list(range(MOST))


def test_a_tile_for_each_image_with_a_mistake():
    images = [np.random.default_rng(i).integers(0, 256, (60, 90, 3), dtype=np.uint8) for i in range(5)]
    sheets = [mistake_sheet(sure_detector(), images[:n], [TRUTH] * n, ["a.jpg"] * n) for n in (0, 1, 4, 5)]
    assert sheets[0] is None
    heights = [sheet.shape[0] for sheet in sheets[1:]]
    assert heights[0] == heights[1] < heights[2] and {sheet.shape[1] for sheet in sheets[1:]} == {WIDTH}
    columns = np.nonzero((sheets[2] == BOX).all(2).any(0))[0]
    assert {int(4 * x / WIDTH) for x in columns} == {0, 1, 2, 3}
    (seen,) = sure_detector().predict([images[0]])
    assert mistake_sheet(sure_detector(), images[:1], [dict(seen)], ["a.jpg"]) is None, "all right"


def test_a_run_without_mistakes_is_not_looked_at_again(tmp_path, monkeypatch):
    def refuse(*_, **__):
        pytest.fail("no image is looked at")

    monkeypatch.setattr(detseg.report.pages.mistakes, "explain_detections", refuse)
    page = detector(tmp_path)
    page.run.predictions = [{**page.truth(i), "scores": np.full(len(page.truth(i)["labels"]), 0.9)} for i in range(5)]
    assert page.mistakes() == {} and not (tmp_path / "mistakes.jpg").exists()


def test_a_run_with_a_tree_has_no_such_sheet(tmp_path):
    page = detector(tmp_path)
    page.run.metrics = TreeMetrics.__new__(TreeMetrics)
    assert page.mistakes() == {}


def test_a_run_with_masks(tmp_path):
    page = instances(tmp_path)
    (path,) = page.mistakes().values()
    assert path == tmp_path / "mistakes.jpg" and path.is_file()
