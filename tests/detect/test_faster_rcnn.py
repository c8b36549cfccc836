"""Faster R-CNN as a whole, against torchvision's; its parts have tests of their own."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import fastrcnn_loss

from detseg.backbones import create_backbone
from detseg.detect import FasterRcnn
from detseg.detect.coder import HEAD, encode_deltas
from detseg.detect.faster_rcnn import Regions
from detseg.detect.model import flatten_targets, select
from detseg.detect.proposals import Proposals, published_anchors
from detseg.detect.rcnn_weights import rename_resnet
from detseg.models import build_model
from detseg.train.config import config_for
from tests.detect.rcnn_pairs import found_alike, pair

ANCHORS = published_anchors([[16], [32], [64]], (0.5, 1.0, 2.0))


def detector(**options):
    torch.manual_seed(0)
    backbone = create_backbone("test_efficientnet", strides=(8, 16))
    return FasterRcnn(backbone, 3, ANCHORS, width=16, hidden=32, **options)


def target(boxes, labels, crowd=None):
    crowd = torch.zeros(len(labels), dtype=torch.bool) if crowd is None else torch.tensor(crowd)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "iscrowd": crowd,
    }


def images(count=2, side=64):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3))


# 224 pixels are no multiple of 64: the coarsest map has a cell more than fits.
@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "size"), [("mobilenet_v3_large", 224), ("resnet50", 160)])
def test_with_torchvisions_parameters_it_finds_what_torchvision_finds(backbone, size):
    theirs, ours = pair("faster_rcnn", backbone, size)
    with torch.no_grad():
        found_alike(theirs(list(images(2, size))), ours(images(2, size)))


def test_names_of_older_files_are_known():
    new = ("rpn.head.conv.0.0.bias", "backbone.fpn.layer_blocks.3.0.weight", "roi_heads.mask_head.2.0.bias")
    old = ("rpn.head.conv.bias", "backbone.fpn.layer_blocks.3.weight", "roi_heads.mask_head.mask_fcn3.bias")
    found = [list(rename_resnet({name: torch.zeros(1) for name in names})) for names in (new, old)]
    assert (
        found[0]
        == found[1]
        == ["proposal_head.body.0.bias", "pyramid.neck.layer_blocks.3.0.weight", "mask_head.body.4.bias"]
    )
    with pytest.raises(ValueError, match=r"head\.weight is no tensor of one of torchvision's R-CNNs"):
        rename_resnet({"head.weight": torch.zeros(1)})


def test_coco_weights_bring_their_network():
    options = config_for("detector", "faster_rcnn")
    config = options(weights="coco", backbone="mobilenet_v3_large", regions=32)
    assert FasterRcnn.options_for(None, config) == {**FasterRcnn.coco["mobilenet_v3_large"].options, "regions": 32}


@pytest.mark.parametrize("class_boxes", [False, True])
@pytest.mark.parametrize("objects", [0, 3])
def test_losses_of_regions_are_torchvisions(class_boxes, objects):
    model = detector(class_boxes=class_boxes)
    torch.nn.init.normal_(model.box_head.boxes.weight, std=0.1)
    boxes = [[4, 4, 30, 40], [20, 10, 60, 50], [2, 30, 40, 60]][:objects]
    flat = flatten_targets([target(boxes, [0, 2, 1][:objects]), target([], [])], 2)
    regions = torch.tensor([[5, 5, 30, 40], [18, 12, 60, 48], [0, 32, 40, 60], [0, 0, 20, 20]]).float().expand(2, 4, 4)
    positive = torch.zeros(2, 4, dtype=torch.bool)
    positive[0, :objects] = True
    index = torch.arange(4).clamp(max=max(0, objects - 1)).expand(2, 4)
    chosen = Regions(regions, index, positive, torch.ones_like(positive))
    maps = model.look(images()).maps
    ours = model.region_losses(maps, chosen, flat, [])
    classes, deltas = model.box_head(model.align(maps, regions, 7))
    labels = torch.zeros(2, 4, dtype=torch.int64)
    labels[0, :objects] = flat.labels + 1
    wanted = torch.zeros(2, 4, 4)
    wanted[0, :objects] = encode_deltas(flat.boxes, regions[0, :objects], HEAD)
    deltas = deltas.expand(-1, 4, 4).flatten(1)
    expected = fastrcnn_loss(classes, deltas, [labels.flatten()], [wanted.flatten(0, 1)])
    torch.testing.assert_close(ours["loss_class"], expected[0])
    torch.testing.assert_close(ours["loss_box"], expected[1])


def test_objects_are_among_the_regions_but_for_crowds():
    model = detector(regions=8)
    targets = [target([[0, 0, 30, 30], [30, 30, 60, 60]], [0, 1], [False, True]), target([[5, 5, 50, 50]], [2])]
    empty = Proposals(torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.bool))
    chosen = model.choose(empty, targets, flatten_targets(targets, 2))
    assert chosen.positive.sum(1).tolist() == chosen.chosen.sum(1).tolist() == [1, 1]
    assert chosen.boxes[:, 0].tolist() == [[0, 0, 30, 30], [5, 5, 50, 50]]
    assert chosen.objects[:, 0].tolist() == [0, 2]


def test_proposals_in_crowds_are_not_background():
    model = detector(regions=8)
    targets = [target([[0, 0, 40, 40]], [0], [True])]
    boxes = torch.tensor([[[2.0, 2, 30, 30], [45, 45, 60, 60]]])
    chosen = model.choose(Proposals(boxes, torch.ones(1, 2, dtype=torch.bool)), targets, flatten_targets(targets, 1))
    assert not chosen.positive.any()
    assert chosen.boxes[chosen.chosen].tolist() == [[45, 45, 60, 60]]


@pytest.mark.parametrize("targets", [[target([], [])] * 2, [target([[4, 4, 40, 50]], [1]), target([], [])]])
def test_every_parameter_has_a_gradient_in_every_step(targets):
    model = detector().train()
    sum(model(images(), targets).values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_a_seed_repeats_a_step():
    model, targets = detector().train(), [target([[4, 4, 40, 50]], [1]), target([[10, 8, 30, 60]], [0])]
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(torch.stack(list(model(images(), targets).values())).tolist())
    assert results[0] == results[1]


def test_raw_outputs_selected_are_the_detections():
    model = detector().eval()
    torch.nn.init.normal_(model.box_head.classes.weight)  # else scores are equal, in any order
    with torch.no_grad():
        boxes, scores = model.raw(images())
        found = model(images())
    assert boxes.shape == (2, 100, 4) and scores.shape == (2, 100, 3)
    for n in range(2):
        again = select(boxes[n], scores[n], (64, 64), model).found
        for name, value in found[n].items():
            torch.testing.assert_close(again[name], value)


def test_bf16_has_float32_losses_and_boxes():
    model, targets = detector(), [target([[4, 4, 40, 50]], [1])] * 2
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()(images(), targets)
        (found, _) = model.eval()(images())
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32


def test_images_of_any_size():
    model = detector().eval()
    with torch.no_grad():
        for shape in ((2, 3, 50, 70), (1, 3, 33, 97), (0, 3, 64, 64)):
            found = model(F.interpolate(images(), shape[2:])[: shape[0]])
            assert len(found) == shape[0]
            for one in found:
                assert (one["boxes"] >= 0).all() and (
                    one["boxes"].max(0).values[2:] <= torch.tensor(shape[:1:-1])
                ).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchors": ANCHORS[:2]}, r"anchors must have the shape \(levels, anchors a level, 2\) with 3 levels"),
        ({"anchors": [[[0.0, 3.0]]] * 3}, "anchors must be positive"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    entries = {"kind": "faster_rcnn", "backbone": "test_efficientnet", "strides": [8, 16], "num_classes": 3}
    with pytest.raises(ValueError, match=message):
        build_model(entries | {"anchors": ANCHORS} | change)
