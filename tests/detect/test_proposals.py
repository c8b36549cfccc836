"""The region proposal network's parts, against torchvision's and against loops."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from detseg.boxes import crowd_iou
from detseg.detect.model import flatten_targets
from detseg.detect.nms import nms
from detseg.detect.proposals import anchor_boxes, keep_best, proposal_losses, propose, published_anchors

RATIOS = (0.5, 1.0, 2.0)


def boxes_of(count, generator, size=60):
    low = torch.rand(count, 2, generator=generator) * size
    return torch.cat([low, low + 1 + torch.rand(count, 2, generator=generator) * size / 2], 1)


@pytest.mark.parametrize("sizes", [[[32], [64], [128]], [[32, 64, 128, 256, 512]] * 3])
def test_anchors_are_torchvisions(sizes):
    height, width = 96, 160
    cells = [(12, 20), (6, 10), (3, 5)]
    theirs = AnchorGenerator(tuple(map(tuple, sizes)), (RATIOS,) * 3)
    images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    (expected,) = theirs(images, [torch.zeros(1, 1, *shape) for shape in cells])
    steps = [(height // rows, width // columns) for rows, columns in cells]
    ours = anchor_boxes(cells, steps, [torch.tensor(level) for level in published_anchors(sizes, RATIOS)])
    torch.testing.assert_close(torch.cat(ours), expected)


def network(anchors):
    return RegionProposalNetwork(anchors, RPNHead(1, 1), 0.7, 0.3, 256, 0.5, {}, {}, 0.7)


@pytest.mark.parametrize("objects", [0, 1, 7])
def test_losses_are_torchvisions_where_all_anchors_are_drawn(objects):
    generator = torch.Generator().manual_seed(objects)
    anchors = boxes_of(100, generator)
    logits, deltas = torch.randn(2, 100, generator=generator), torch.randn(2, 100, 4, generator=generator)
    boxes = anchors[:objects] + torch.rand(objects, 4, generator=generator) * 2  # each with an anchor of its own
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    targets = [{"boxes": boxes, "labels": torch.zeros(objects, dtype=torch.int64)}, nothing]
    found = proposal_losses(logits, deltas, anchors, flatten_targets(targets, 2))
    theirs = network(None)
    labels, matched = theirs.assign_targets_to_anchors([anchors] * 2, targets)
    wanted = theirs.box_coder.encode(matched, [anchors] * 2) if objects else [torch.zeros(100, 4)] * 2
    expected = theirs.compute_loss(logits.flatten()[:, None], deltas.flatten(0, 1), labels, wanted)
    torch.testing.assert_close(found["loss_objectness"], expected[0])
    torch.testing.assert_close(found["loss_proposal_box"], expected[1])


def test_crowds_teach_nothing():
    anchors = boxes_of(100, torch.Generator().manual_seed(1))
    logits, deltas = torch.zeros(1, 100, requires_grad=True), torch.zeros(1, 100, 4, requires_grad=True)
    crowd = torch.tensor([[0.0, 0.0, 40.0, 40.0]])
    target = {"boxes": crowd, "labels": torch.zeros(1, dtype=torch.int64), "iscrowd": torch.tensor([True])}
    losses = proposal_losses(logits, deltas, anchors, flatten_targets([target], 1))
    assert losses["loss_proposal_box"] == 0
    sum(losses.values()).backward()
    inside = crowd_iou(anchors, crowd)[:, 0] > 0.5
    assert inside.any() and not logits.grad[0, inside].any()
    assert (logits.grad[0] > 0).any(), "the rest is background"


def test_the_best_of_each_image_are_what_a_loop_keeps():
    generator = torch.Generator().manual_seed(2)
    boxes = torch.stack([boxes_of(80, generator) for _ in range(3)])
    scores = torch.rand(3, 80, generator=generator)
    groups = torch.randint(0, 3, (80,), generator=generator)
    allowed = torch.rand(3, 80, generator=generator) < 0.8
    allowed[2] = False
    index, valid = keep_best(boxes, scores, groups, allowed, 30, 0.4, 0.2)
    assert index.shape == valid.shape == (3, 30) and not valid[2].any()
    for n in range(2):
        kept = []
        for group in range(3):
            (mine,) = torch.where(groups == group)
            kept += mine[nms(boxes[n, mine], scores[n, mine], 0.4, score_threshold=0.2)].tolist()
        kept = sorted((i for i in kept if allowed[n, i]), key=lambda i: -scores[n, i])[:30]
        assert index[n][valid[n]].tolist() == kept


def test_numbers_of_a_diverging_network_raise_nothing():
    anchors = [boxes_of(20, torch.Generator().manual_seed(3))]
    logits, deltas = torch.full((1, 20), torch.nan), torch.full((1, 20, 4), torch.inf)
    found = propose(logits, deltas, anchors, (60, 60), candidates=10, count=5, least=0.0)
    assert found.boxes.shape == (1, 5, 4) and found.boxes.isfinite().all()
