"""soft_nms: by hand, the definition written plainly, ensemble-boxes, laws, edges."""

import itertools
import math

import numpy as np
import pytest
import torch

from detseg.boxes import box_iou
from detseg.detect import nms, soft_nms, weighted_boxes_fusion
from tests.mistakes import assert_named


def scene(n, seed, labels=3):
    g = torch.Generator().manual_seed(seed)
    which = torch.randint(5, (n,), generator=g)
    corner = (torch.rand(5, 2, generator=g) * 80)[which] + torch.randn(n, 2, generator=g) * 5
    size = torch.rand(n, 2, generator=g) * 30 + 10
    return torch.cat([corner, corner + size], 1), torch.rand(n, generator=g), torch.randint(labels, (n,), generator=g)


def reference(boxes, scores, labels, method, iou_threshold, sigma, score_threshold):
    """Bodla's algorithm in the words of the paper's figure 2."""
    iou = box_iou(boxes, boxes).double().numpy()
    scores, left, taken = scores.double().tolist(), list(range(len(boxes))), []
    while left:
        best = max(left, key=lambda i: (scores[i], -i))
        left.remove(best)
        taken.append((best, scores[best]))
        for i in left:
            if labels[i] == labels[best]:
                if method == "gaussian":
                    scores[i] *= math.exp(-(iou[best, i] ** 2) / sigma)
                elif iou[best, i] > iou_threshold:
                    scores[i] *= 1 - iou[best, i]
    return [(i, s) for i, s in taken if s > score_threshold]


def test_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]])
    scores = torch.tensor([0.9, 0.8, 0.3])
    kept, new = soft_nms(boxes, scores, method="linear")
    assert kept.tolist() == [0, 1, 2]
    assert new.tolist() == pytest.approx([0.9, 0.4, 0.3])  # 0.8 * (1 - 0.5)
    kept, new = soft_nms(boxes, scores, method="gaussian", sigma=0.5)
    assert new.tolist() == pytest.approx([0.9, 0.8 * math.exp(-0.5), 0.3])
    kept, new = soft_nms(boxes, scores, method="linear", score_threshold=0.35)
    assert kept.tolist() == [0, 1]
    kept, new = soft_nms(boxes, scores, torch.tensor([0, 1, 0]), method="linear")
    assert new.tolist() == pytest.approx([0.9, 0.8, 0.3])


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_equals_the_definition(method):
    for n, seed in itertools.product((0, 1, 2, 30, 120), range(4)):
        boxes, scores, labels = scene(n, seed)
        for given in (None, labels):
            kept, new = soft_nms(
                boxes, scores, given, method=method, iou_threshold=0.25, sigma=0.4, score_threshold=0.01
            )
            same = labels if given is not None else torch.zeros(n)
            expected = reference(boxes, scores, same, method, 0.25, 0.4, 0.01)
            assert kept.tolist() == [i for i, _ in expected]
            assert new.tolist() == pytest.approx([s for _, s in expected], rel=1e-4)
            assert (kept.dtype, new.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize(("method", "number"), [("linear", 1), ("gaussian", 2)])
def test_equals_ensemble_boxes(method, number):
    # Their `soft_nms` gives the old scores back; the loop inside lowers them in place.
    theirs = pytest.importorskip("ensemble_boxes.ensemble_boxes_nms").cpu_soft_nms_float
    for seed in range(5):
        boxes, scores, _ = scene(60, seed)
        lowered = scores.double().numpy()
        expected = theirs(boxes.double().numpy(), lowered, 0.3, 0.5, 0.0, number)
        kept, new = soft_nms(boxes, scores, method=method, score_threshold=0.0)
        assert kept.tolist() == expected.tolist()
        np.testing.assert_allclose(new.numpy(), lowered, rtol=1e-4)


def test_a_step_at_the_threshold_is_hard_suppression():
    # A Gaussian so narrow that any overlap takes the whole score leaves what hard suppression at 0 leaves.
    for seed in range(5):
        boxes, scores, _ = scene(50, seed)
        overlap = box_iou(boxes, boxes)
        if overlap[overlap > 0].min() < 1e-3:
            boxes = boxes.round()
        kept, _ = soft_nms(boxes, scores, sigma=1e-9, score_threshold=1e-3)
        assert kept.tolist() == nms(boxes, scores, 0.0, score_threshold=1e-3).tolist()


def test_no_overlap_changes_nothing():
    boxes = torch.arange(6.0)[:, None] * 20 + torch.tensor([[0.0, 0, 10, 10]])
    scores = torch.tensor([0.5, 0.9, 0.1, 0.5, 0.7, 0.5])
    kept, new = soft_nms(boxes, scores)
    assert kept.tolist() == [1, 4, 0, 3, 5, 2]  # ties by index
    assert torch.equal(new, scores[kept])


def test_without_a_score_threshold_all_stay():
    boxes, scores, labels = scene(40, 0)
    kept, _ = soft_nms(boxes, scores * 1e-4, labels, score_threshold=None)
    assert sorted(kept.tolist()) == list(range(40))


def test_numpy_and_inputs_untouched():
    boxes, scores, labels = scene(40, 0)
    before = scores.clone()
    kept, new = soft_nms(boxes, scores, labels)
    arrays = soft_nms(boxes.numpy(), scores.numpy(), labels.numpy())
    assert torch.equal(scores, before)
    assert all(isinstance(part, np.ndarray) for part in arrays)
    assert arrays[0].tolist() == kept.tolist()
    assert arrays[1].tolist() == new.tolist()


def test_boxes_without_area():
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 9, 9]])
    kept, new = soft_nms(boxes, torch.tensor([0.3, 0.2, 0.1]))
    assert kept.tolist() == [0, 1, 2]
    assert new.tolist() == pytest.approx([0.3, 0.2, 0.1])


def test_mistakes_are_named():
    fine = {"boxes": torch.tensor([[0.0, 0, 1, 1]] * 3), "scores": torch.tensor([0.1, 0.2, 0.3])}
    for change, message in [
        ({"method": "cubic"}, "method must be 'linear' or 'gaussian', got 'cubic'"),
        ({"sigma": 0.0}, "sigma must be above 0, got 0.0"),
        ({"iou_threshold": -0.1}, "iou_threshold must be in"),
        ({"scores": torch.tensor([0.1, -0.5, 0.2])}, r"scores\[1\] = -0.5 is negative"),
        ({"scores": torch.tensor([0.1, float("nan"), 0.2])}, r"scores\[1\] = nan is not finite"),
        ({"boxes": torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [2, 0, 1, 1]])}, r"boxes\[2\] = .* is reversed"),
        ({"boxes": np.array([[0, 0, 1, 1], [10, 0, 5, 10], [0, 0, 1, 1]], np.uint8)}, r"boxes\[1\] = .* is reversed"),
        ({"boxes": np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, np.inf, 1]])}, r"boxes\[2\] = .* is not finite"),
        ({"labels": torch.zeros(2)}, r"labels must have shape \(3,\)"),
    ]:
        arguments = fine | change
        if isinstance(arguments["boxes"], np.ndarray):
            arguments["scores"] = arguments["scores"].numpy()
        assert_named(message, soft_nms, **arguments)


def test_small_types_are_computed_in_float32():
    for boxes in (np.array([[-40000, 0, 40000, 10]], np.float16), np.array([[-100, 0, 100, 10]], np.int8)):
        assert soft_nms(boxes, np.ones(1, np.float32))[0].tolist() == [0], boxes.dtype
        fused, *_ = weighted_boxes_fusion([boxes], [np.ones(1, np.float32)], [np.zeros(1, np.int64)])
        assert fused.tolist() == [boxes[0].astype(np.float32).tolist()], boxes.dtype
