"""detseg.metrics: every name it lists can be had from it."""

import detseg.boxes
from detseg import metrics


def test_every_listed_name_is_there() -> None:
    for name in metrics.__all__:
        assert getattr(metrics, name).__name__ == name


def test_overlaps_of_boxes_are_those_of_the_package() -> None:
    assert metrics.box_iou is detseg.boxes.box_iou
    assert metrics.crowd_iou is detseg.boxes.crowd_iou
    assert metrics.paired_iou is detseg.boxes.paired_iou
