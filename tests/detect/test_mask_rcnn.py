"""Mask R-CNN: the masks; boxes are those of Faster R-CNN."""

import pytest
import torch
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from detseg.backbones import create_backbone
from detseg.detect import MaskRcnn
from detseg.detect.mask_rcnn import masks_in_boxes
from detseg.detect.proposals import published_anchors
from tests.detect.rcnn_pairs import found_alike, pair

ANCHORS = published_anchors([[16], [32], [64]], (0.5, 1.0, 2.0))


def detector(**options):
    torch.manual_seed(0)
    backbone = create_backbone("test_efficientnet", strides=(8, 16))
    return MaskRcnn(backbone, 3, ANCHORS, width=16, hidden=32, mask_width=8, **options)


def images(count=2, side=64):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3))


@pytest.mark.slow
def test_with_torchvisions_parameters_masks_are_torchvisions():
    theirs, ours = pair("mask_rcnn", "resnet50", 160)
    heads = []
    theirs.roi_heads.register_forward_hook(
        lambda _module, _inputs, output: heads.extend(dict(one) for one in output[0])
    )
    with torch.no_grad():
        theirs(list(images(2, 160)))
        found_alike(heads, ours(images(2, 160)))
    assert all(one["masks"].std() > 0.01 for one in heads)


def test_masks_in_boxes_are_torchvisions():
    generator = torch.Generator().manual_seed(1)
    masks = (torch.rand(5, 8, 8, generator=generator) < 0.5).repeat_interleave(12, 1).repeat_interleave(12, 2)
    low = torch.rand(20, 2, generator=generator) * 80
    boxes = torch.cat([low, low + 1 + torch.rand(20, 2, generator=generator) * 60], 1)
    objects = torch.randint(0, 5, (20,), generator=generator)
    ours = masks_in_boxes(masks.to(torch.uint8), objects, boxes, 28)
    torch.testing.assert_close(ours, project_masks_on_boxes(masks, boxes, objects, 28))
    assert not masks_in_boxes(torch.zeros(0, 96, 96, dtype=torch.uint8), objects * 0, boxes, 28).any()


def targets(masks):
    boxes = torch.tensor([[8.0, 8, 40, 40], [20, 4, 60, 50]])
    return [{"boxes": boxes, "labels": torch.tensor([0, 2]), "masks": masks}] * 2


def test_the_mask_loss_is_of_the_objects_class_alone():
    model = detector().train()
    ones = torch.ones(2, 64, 64, dtype=torch.uint8)
    losses = model(images(), targets(ones))
    gradient = torch.autograd.grad(losses["loss_mask"], model.mask_head.classes.bias)[0]
    assert (gradient[[1, 3]] < 0).all(), "logits of classes 0 and 2 should rise"
    assert (gradient[[0, 2]] == 0).all(), "background and class 1 have no objects"
    torch.nn.init.constant_(model.mask_head.classes.bias, 50.0)
    assert model(images(), targets(ones))["loss_mask"] < 1e-6
    elsewhere = ones * 0
    elsewhere[:, 0, 0] = 1
    assert model(images(), targets(elsewhere))["loss_mask"] > 10
    assert model(images(), targets(ones * 0))["loss_mask"] == 0, "no pixel: the mask is not known"


def test_every_parameter_has_a_gradient_without_objects_too():
    model = detector().train()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = model(images(), [nothing | {"masks": torch.zeros(0, 64, 64, dtype=torch.uint8)}] * 2)
    assert losses["loss_mask"] == 0
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_detections_have_masks_over_their_boxes():
    model = detector(score_threshold=0.25).eval()
    with torch.no_grad():
        found = model(images())
        boxes, scores, masks = model.exportable()(images())
        none = detector(score_threshold=1.0).eval()(images())
    assert boxes.shape == (2, 100, 4) and scores.shape == (2, 100, 3) and masks.shape == (2, 100, 28, 28)
    for n, one in enumerate(found):
        count = len(one["boxes"])
        assert count and one["masks"].shape == (count, 28, 28)
        assert torch.equal(one["regions"], one["boxes"])
        torch.testing.assert_close(masks[n, :count], one["masks"])
    assert [one["masks"].shape for one in none] == [(0, 28, 28)] * 2
    assert model.finds_masks and model.needs_masks(None)


@pytest.mark.slow
def test_torch_exports_it():
    model = detector().eval()
    torch.nn.init.normal_(model.box_head.classes.weight)
    exported = torch.export.export(model.exportable(), (images(),), strict=False)
    with torch.no_grad():
        for ours, theirs in zip(model.exportable()(images()), exported.module()(images()), strict=True):
            torch.testing.assert_close(theirs, ours)
