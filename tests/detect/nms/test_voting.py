"""Box voting: by hand, the definition written plainly, laws, edges, many, any device; and in a detector."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from detseg.boxes import box_iou
from detseg.detect import batched_nms
from detseg.detect.model import select
from detseg.detect.nms import voting
from detseg.detect.nms.voting import vote


def scene(count, seed, labels=3):
    g = torch.Generator().manual_seed(seed)
    which = torch.randint(5, (count,), generator=g)
    corner = (torch.rand(5, 2, generator=g) * 80)[which] + torch.randn(count, 2, generator=g) * 5
    size = torch.rand(count, 2, generator=g) * 30 + 10
    boxes = torch.cat([corner, corner + size], 1)
    return boxes, torch.rand(count, generator=g), torch.randint(labels, (count,), generator=g)


def plainly(kept, boxes, weights, labels, threshold):
    merged = []
    for k in kept.tolist():
        iou = box_iou(boxes[k : k + 1], boxes)[0]
        voters = [i for i in range(len(boxes)) if i == k or (labels[i] == labels[k] and iou[i] >= threshold)]
        total = sum(float(weights[i]) for i in voters)
        mean = sum(float(weights[i]) * boxes[i].double() for i in voters)
        merged.append(mean / total if total else boxes[k].double())
    return torch.stack(merged).float() if merged else boxes[:0]


def test_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 10], [50, 50, 60, 60]])
    weights, labels = torch.tensor([0.6, 0.2, 0.9, 0.5]), torch.tensor([0, 0, 1, 0])
    merged, total = vote(torch.tensor([0, 2, 3]), boxes, weights, labels, 0.6)
    torch.testing.assert_close(merged[0], torch.tensor([0.0, 0, 10, (0.6 * 10 + 0.2 * 12) / 0.8]))
    torch.testing.assert_close(merged[1:], boxes[2:])
    torch.testing.assert_close(total, torch.tensor([0.8, 0.9, 0.5]))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 40), seed=st.integers(0, 1000), threshold=st.floats(0.05, 0.95))
def test_the_definition(count, seed, threshold):
    boxes, weights, labels = scene(count, seed)
    kept = batched_nms(boxes, weights, labels, 0.5)
    merged, _ = vote(kept, boxes, weights, labels, threshold)
    torch.testing.assert_close(merged, plainly(kept, boxes, weights, labels, threshold), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("pairs", [7000, 1 << 30])
def test_many_as_other_devices_compute_them(monkeypatch, pairs):
    boxes, weights, labels = scene(3000, 1, labels=2)
    kept = torch.arange(400)
    expected, total = vote(kept, boxes, weights, labels, 0.5)
    monkeypatch.setattr(voting, "PAIRS", pairs)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    merged, again = vote(kept, boxes, weights, labels, 0.5)
    torch.testing.assert_close(merged, expected)
    torch.testing.assert_close(again, total)


def test_boxes_without_area_and_scores_of_nothing_stay():
    boxes = torch.tensor([[5.0, 5, 5, 5], [1, 1, 4, 4]])
    merged, total = vote(torch.tensor([0, 1]), boxes, torch.zeros(2), torch.zeros(2, dtype=torch.int64), 0.5)
    assert torch.equal(merged, boxes)
    assert total.tolist() == [0, 0]


def test_votes_of_equals_change_nothing():
    boxes = torch.tensor([[3.0, 4, 50, 60]]).repeat(9, 1)
    merged, _ = vote(torch.tensor([0]), boxes, torch.rand(9) + 0.1, torch.zeros(9, dtype=torch.int64), 0.99)
    torch.testing.assert_close(merged, boxes[:1])


def limits(vote_iou):
    return SimpleNamespace(
        score_threshold=0.01, iou_threshold=0.5, max_detections=50, agnostic=False, vote_iou=vote_iou
    )


def test_voted_boxes_of_noisy_predictions_are_nearer():
    """Of many guesses round true boxes, the mean of those that agree beats the best scored one."""
    g = torch.Generator().manual_seed(0)
    truth = torch.tensor([[20.0, 20, 80, 90], [110, 30, 180, 120], [40, 130, 120, 190]])
    guesses = truth.repeat(12, 1) + torch.randn(36, 4, generator=g) * 4
    scores = torch.rand(36, 1, generator=g) * 0.5 + 0.4
    best, voted = (select(guesses, scores, (200, 200), limits(iou)).found for iou in (None, 0.65))
    assert torch.equal(best["scores"], voted["scores"])
    before, after = (box_iou(truth, found["boxes"]).amax(1).mean() for found in (best, voted))
    assert after > before + 0.03


@pytest.mark.parametrize("vote_iou", [None, 0.65])
def test_boxes_stay_in_the_image(vote_iou):
    boxes, scores, _ = scene(60, 3)
    found = select(boxes - 30, scores[:, None], (40, 50), limits(vote_iou)).found["boxes"]
    assert found.min() >= 0
    assert (found <= torch.tensor([50.0, 40, 50, 40])).all()


def test_on_a_gpu_it_computes_there():
    with FakeTensorMode():
        boxes, weights = torch.rand(30, 4, device="cuda"), torch.rand(30, device="cuda")
        labels, kept = (torch.zeros(n, dtype=torch.int64, device="cuda") for n in (30, 4))
        merged, total = vote(kept, boxes, weights, labels, 0.5)
        assert merged.device.type == total.device.type == "cuda"
        assert merged.shape == (4, 4)


def test_float64_keeps_its_digits():
    boxes = torch.tensor([[5_500_000.1, 0, 5_500_000.9, 1], [5_500_000.2, 0, 5_500_001.0, 1]], dtype=torch.float64)
    merged, _ = vote(torch.tensor([0]), boxes, torch.tensor([3.0, 1.0]), torch.tensor([0, 0]), 0.5)
    assert merged[0].tolist() == pytest.approx([5_500_000.125, 0, 5_500_000.925, 1], rel=0, abs=1e-8)
