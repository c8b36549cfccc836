"""Images of many objects: how many detections they may have, and a word where that is met."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detseg.backbones import create_backbone
from detseg.data.limits import AtTheCap, most_detections
from detseg.detect import FasterRcnn, YoloDetector
from detseg.detect.model import select


@pytest.mark.parametrize(
    ("counts", "most"), [([], 100), ([0, 3], 100), ([50], 100), ([51], 200), ([225, 1], 500), ([250], 500)]
)
def test_the_cap_is_twice_what_training_images_have(counts, most):
    assert most_detections(np.array(counts, np.int64)) == most


def grid_of_objects(copies):
    """225 objects beside each other, each seen `copies` times at nearly the same place: boxes (P, 4), scores (P, 1)."""
    corner = torch.cartesian_prod(torch.arange(15.0), torch.arange(15.0)) * 20
    boxes = torch.cat([corner, corner + 16], 1).repeat(copies, 1)
    generator = torch.Generator().manual_seed(0)
    boxes += torch.rand(boxes.shape, generator=generator)
    return boxes, torch.rand(len(boxes), 1, generator=generator) * 0.5 + 0.5


@pytest.mark.slow
def test_all_of_225_objects_are_found_behind_their_many_copies():
    boxes, scores = grid_of_objects(12)  # 2700: objects whose copies are all beyond the best 1000 would be lost
    for most, wanted in [(100, 100), (500, 225)]:
        limits = SimpleNamespace(
            score_threshold=0.001, iou_threshold=0.5, max_detections=most, vote_iou=None, agnostic=False
        )
        found = select(boxes, scores, (320, 320), limits).found["boxes"]
        assert len(found) == wanted
    assert len(torch.unique((found / 20).floor(), dim=0)) == 225, "each of them once"


def test_a_detector_returns_as_many_as_it_is_told():
    model = YoloDetector(
        create_backbone("test_efficientnet", pretrained=False, strides=(16,)), 1, torch.full((1, 1, 2), 8.0), reach=0.5
    ).eval()
    plain = model.outputs

    def sure(images):
        """A box of 8 px in the middle of each cell, as sure as can be."""
        seen = plain(images)
        return seen._replace(box=torch.zeros_like(seen.box), objectness=torch.full_like(seen.objectness, 9.0))

    model.outputs = sure
    assert len(model(torch.rand(1, 3, 320, 320))[0]["boxes"]) == 100
    model.max_detections = 5000
    assert len(model(torch.rand(1, 3, 1280, 640))[0]["boxes"]) == 80 * 40, "more than 1000 candidates too"


def test_proposals_grow_with_the_cap():
    anchors = torch.tensor([[[16.0, 16]], [[64.0, 64]]])
    model = FasterRcnn(create_backbone("test_efficientnet", pretrained=False, strides=(8,)), 1, anchors).eval()
    images = torch.rand(1, 3, 320, 320)
    with torch.no_grad():
        shapes = []
        for model.max_detections in (10, 100, 500):
            shapes.append(model.look(images).proposals.boxes.shape[1])
    assert shapes == [200, 200, 1000]


def scored(*scores):
    return {"scores": np.array(scores, np.float32)}


def test_images_at_the_cap_are_counted_once_at_the_end(caplog):
    cap = AtTheCap(2)
    images = [scored(0.9, 0.3), scored(0.9, 0.29), scored(0.9), scored(), {"scores": torch.tensor([0.5, 0.4])}]
    with caplog.at_level(logging.WARNING):
        assert list(cap.watch(images)) == images
    (record,) = caplog.records
    assert record.getMessage().startswith("in 2 of 5 images 2 objects with scores of 0.3 or more are found")


def test_no_word_below_the_cap_or_without_one(caplog):
    with caplog.at_level(logging.WARNING):
        for cap in (AtTheCap(3), AtTheCap(None), AtTheCap(2, clear=0.95)):
            list(cap.watch([scored(0.9, 0.8), scored()]))
    assert not caplog.records


def test_of_a_tree_what_the_model_itself_returns_counts():
    found = {"scores": np.full(4, 0.9, np.float32), "level": np.array([0, 0, 1, 2])}
    for most, met in [(2, 1), (3, 0)]:
        cap = AtTheCap(most)
        list(cap.watch([found]))
        assert cap.met == met
