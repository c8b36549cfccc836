"""nms and batched_nms: hand-computed cases, a slow obvious reference, torchvision, ONNX, laws, edges."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torchvision import ops

from detseg.boxes import box_iou, paired_iou
from detseg.detect.nms import batched_nms, nms, on_cpu
from detseg.detect.nms import by_torchvision as nms_torch
from detseg.detect.nms.by_torchvision import keep_by_torchvision
from detseg.detect.nms.soft import soft_nms
from tests.mistakes import assert_named


@pytest.fixture(params=["densely", "nearby"])
def way(request, monkeypatch):
    """Both of the kernels, whatever the number of boxes."""
    monkeypatch.setattr(on_cpu, "_FEW_BOXES", 10**9 if request.param == "densely" else 0)
    monkeypatch.setattr(on_cpu, "_FEW_BESIDE", -1)
    return request.param


def on_the_gpu(boxes, scores, labels, threshold, score_threshold=None):
    """What runs for GPU tensors, on the CPU."""
    return keep_by_torchvision(
        boxes,
        scores,
        labels,
        threshold=threshold,
        score_threshold=score_threshold,
        tracing=False,
    )


def reference(boxes, scores, labels, threshold, score_threshold=None, max_detections=None) -> list[int]:
    """The definition, one box after the other."""
    threshold = np.float32(threshold)
    iou = box_iou(boxes, boxes).numpy()
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i)):
        if score_threshold is not None and not scores[i] > score_threshold:
            continue
        if all(labels[i] != labels[j] or not iou[i, j] > threshold for j in kept):
            kept.append(i)
    return kept[:max_detections]


def scene(n: int, seed: int, *, objects: int = 6, labels: int = 3, at: float = 0.0, ties: bool = True):
    """Boxes jittered about a few objects, coarse scores (many ties), labels."""
    g = torch.Generator().manual_seed(seed)
    which = torch.randint(objects, (n,), generator=g)
    corner = (torch.rand(objects, 2, generator=g) * 80)[which] + torch.randn(n, 2, generator=g) * 4 + at
    size = (torch.rand(objects, 2, generator=g) * 40 + 8)[which] * (torch.rand(n, 2, generator=g) / 2 + 0.75)
    scores = torch.rand(n, generator=g)
    if ties:
        scores = (scores * 10).floor() / 10
    return torch.cat([corner, corner + size], 1), scores, torch.randint(labels, (n,), generator=g)


# ------------------------------------------------------------------ by hand


def test_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 5]])
    scores = torch.tensor([0.8, 0.9, 0.1, 0.7])
    # 1 removes 0 (IoU 90 / 110); 3 overlaps 1 by 45 / 105 = 0.43 and stays.
    kept = nms(boxes, scores, 0.5)
    assert kept.tolist() == [1, 3, 2]
    assert kept.dtype == torch.int64
    assert nms(boxes, scores, 0.4).tolist() == [1, 2]
    assert nms(boxes, scores, 0.5, score_threshold=0.1).tolist() == [1, 3]  # 0.1 is not above 0.1
    assert nms(boxes, scores, 0.5, max_detections=1).tolist() == [1]
    assert nms(boxes, scores, 0.5, max_detections=0).tolist() == []
    assert batched_nms(boxes, scores, torch.tensor([7, -2, 7, 7]), 0.4).tolist() == [1, 0, 2]


def test_a_removed_box_removes_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])  # a chain: IoU 6/14 and 2/18
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]


def test_iou_equal_to_the_threshold_is_kept() -> None:
    for threshold in (0.1, 0.2, 0.25, 0.3, 0.5, 0.6, 0.7):
        # [0, t * 1000) inside [0, 1000): the IoU is the float32 nearest to t, for 0.1 above the float64 0.1.
        boxes = torch.tensor([[0.0, 0, 1000, 1], [0, 0, threshold * 1000, 1]])
        scores = torch.tensor([1.0, 0.5])
        assert nms(boxes, scores, threshold).tolist() == [0, 1], threshold
        boxes[1, 2] += 0.01  # 1e-5 above the threshold
        assert nms(boxes, scores, threshold).tolist() == [0], threshold


def test_equal_scores_keep_the_lower_index() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(500, 1)
    assert nms(boxes, torch.full((500,), 0.5), 0.5).tolist() == [0]
    assert nms(boxes, torch.full((500,), 0.5), 1.0).tolist() == list(range(500))  # nothing is above 1
    labels = torch.arange(500) % 7
    assert batched_nms(boxes, torch.full((500,), 0.5), labels, 0.5).tolist() == list(range(7))


def test_threshold_zero_and_touching_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [1, 0, 2, 1], [0.9, 0, 1.9, 1]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.0).tolist() == [0, 1]


def test_boxes_without_area_remove_nothing() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 5, 9, 5]])
    assert nms(boxes, torch.tensor([0.1, 0.2, 0.3]), 0.0).tolist() == [2, 1, 0]


# ------------------------------------------------------------------ oracles


def test_equals_the_reference(way) -> None:
    options = {"score_threshold": 0.2, "max_detections": 25}
    for n, threshold, seed in itertools.product((1, 2, 60, 200), (0.0, 0.3, 0.5, 0.9, 1.0), range(3)):
        boxes, scores, labels = scene(n, seed)
        same = torch.zeros_like(labels)
        expected = reference(boxes, scores, same, threshold)
        assert nms(boxes, scores, threshold).tolist() == expected, (n, threshold, seed)
        for more in ({}, options):
            expected = reference(boxes, scores, labels, threshold, **more)
            found = batched_nms(boxes, scores, labels, threshold, **more).tolist()
            assert found == expected, (n, threshold, seed, more)


def test_equals_torchvision_where_scores_differ(way) -> None:
    for n, seed in itertools.product((0, 1, 50, 800), range(10)):
        boxes, scores, labels = scene(n, seed, ties=False)
        assert torch.equal(nms(boxes, scores, 0.45), ops.nms(boxes, scores, 0.45)), (n, seed)
        ours, theirs = batched_nms(boxes, scores, labels, 0.45), ops.batched_nms(boxes, scores, labels, 0.45)
        assert torch.equal(ours, theirs), (n, seed)


def clustered(g, n):
    which = torch.randint(max(1, n // 20), (n,), generator=g)
    corner = (torch.rand(n, 2, generator=g) * 600)[which] + torch.randn(n, 2, generator=g) * 5
    size = (torch.rand(n, 2, generator=g) * 90 + 10)[which] * (torch.rand(n, 2, generator=g) / 2 + 0.75)
    return torch.cat([corner, corner + size], 1)


def sparse(g, n):
    corner = torch.rand(n, 2, generator=g) * 1000 - 300
    return torch.cat([corner, corner + torch.rand(n, 2, generator=g) * 30], 1)


def of_all_sizes(g, n):
    corner = torch.rand(n, 2, generator=g) * 100
    size = torch.exp(torch.randn(n, 2, generator=g) * 3)
    return torch.cat([corner, corner + size], 1)


def identical(g, n):
    return torch.tensor([[3.0, 4, 50, 60]]).repeat(n, 1)


def nested(g, n):
    margin = torch.rand(n, 1, generator=g) * 40
    return torch.tensor([[0.0, 0, 100, 100]]) + margin * torch.tensor([[1.0, 1, -1, -1]])


def degenerate(g, n):
    boxes = torch.randint(0, 6, (n, 4), generator=g).float()
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] // 2], 1)


def far_away(g, n):
    return clustered(g, n) + 1e6


def tiny(g, n):
    return clustered(g, n) * 1e-18  # areas of which float32 has few digits


def thin(g, n):
    corner = torch.rand(n, 2, generator=g) * 50
    size = torch.rand(n, 2, generator=g) * torch.tensor([200.0, 0.5])
    return torch.cat([corner, corner + size], 1)


@pytest.mark.parametrize(
    "boxes_of", [clustered, sparse, of_all_sizes, identical, nested, degenerate, far_away, tiny, thin]
)
def test_thousands_of_scenes(boxes_of, way) -> None:
    g = torch.Generator().manual_seed(0)
    for number in range(120):
        n = int(torch.randint(1, 120, (1,), generator=g))
        boxes, scores = boxes_of(g, n), torch.rand(n, generator=g)
        if number % 2:
            scores = (scores * 8).floor() / 8 - 0.5  # ties, 0 and numbers below
        threshold = float(np.float32([0.0, 0.01, 0.3, 0.5, 0.7, 0.95, 1.0][number % 7]))
        expected = ops.nms(boxes, scores, threshold)
        assert torch.equal(nms(boxes, scores, threshold), expected), (number, threshold)
        if number % 3 == 0:
            labels = torch.randint(3, (n,), generator=g)
            per_label = [(labels == k).nonzero()[:, 0] for k in range(3)]
            kept = torch.cat([index[ops.nms(boxes[index], scores[index], threshold)] for index in per_label])
            together = batched_nms(boxes, scores, labels, threshold)
            assert sorted(together.tolist()) == sorted(kept.tolist())
            assert (scores[together].diff() <= 0).all()


@pytest.mark.slow
def test_many_boxes() -> None:
    for boxes_of in (clustered, sparse, of_all_sizes):
        g = torch.Generator().manual_seed(1)
        boxes, scores = boxes_of(g, 20_000), torch.rand(20_000, generator=g)
        for threshold in (0.25, 0.5):
            kept = nms(boxes, scores, threshold)
            assert torch.equal(kept, ops.nms(boxes, scores, threshold)), (boxes_of.__name__, threshold)


def onnx_cases():
    """ONNX's own examples of its operator NonMaxSuppression."""
    module = pytest.importorskip("onnx.backend.test.case.node.nonmaxsuppression")
    cases = []
    original = module.expect
    module.expect = lambda node, inputs, outputs, name: cases.append((name, node, inputs, outputs))
    try:
        for name in dir(module.NonMaxSuppression):
            if name.startswith("export_"):
                getattr(module.NonMaxSuppression, name)()
    finally:
        module.expect = original
    return cases


def test_onnx_cases() -> None:
    cases = onnx_cases()
    assert len(cases) >= 10
    for name, node, inputs, (expected,) in cases:
        boxes, scores, most, threshold, lowest = [*inputs, *[None] * (5 - len(inputs))]
        if any(a.name == "center_point_box" and a.i for a in node.attribute):
            corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
        else:  # any two opposite corners
            corners = np.concatenate(
                [np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])], -1
            )
        found = [
            [image, label, index]
            for image in range(len(boxes))
            for label in range(scores.shape[1])
            for index in nms(
                corners[image],
                scores[image, label],
                float(threshold[0]),
                score_threshold=None if lowest is None else float(lowest[0]),
                max_detections=int(most[0]),
            )
        ]
        assert found == expected.tolist(), name


# ------------------------------------------------------------------ DIoU


def diou_reference(boxes, scores, labels, threshold) -> list[int]:
    kept: list[int] = []
    for i in torch.argsort(scores, descending=True, stable=True).tolist():
        rivals = [j for j in kept if labels[i] == labels[j]]
        penalised = paired_iou(boxes[rivals], boxes[[i] * len(rivals)], "diou")
        if not (penalised > threshold).any():
            kept.append(i)
    return kept


def test_diou_by_hand() -> None:
    # Same IoU with the first, 1/3, but the third lies inside with the same centre and the second beside it.
    boxes = torch.tensor([[0.0, 0, 30, 10], [15, 0, 45, 10], [10, 0, 20, 10]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert nms(boxes, scores, 0.3).tolist() == [0]
    # 1/3 - 15² / (45² + 10²) = 0.227
    assert nms(boxes, scores, 0.3, metric="diou").tolist() == [0, 1]
    assert nms(boxes, scores, 0.2, metric="diou").tolist() == [0]


def test_diou_equals_the_reference(way) -> None:
    for seed in range(30):
        boxes, scores, labels = scene(70, seed)
        expected = diou_reference(boxes, scores, labels, 0.4)
        assert batched_nms(boxes, scores, labels, 0.4, metric="diou").tolist() == expected
        same = torch.zeros_like(labels)
        expected = diou_reference(boxes, scores, same, 0.4)
        assert nms(boxes, scores, 0.4, metric="diou").tolist() == expected


class Elsewhere(torch.Tensor):
    """A tensor that says it is on another device, to which results can go but where nothing can be computed."""

    device = torch.device("meta")


def test_diou_elsewhere_is_done_on_the_cpu(monkeypatch) -> None:
    boxes, scores, labels = scene(70, 1)
    computed = []
    compute = on_cpu.keep_on_cpu
    monkeypatch.setattr(on_cpu, "keep_on_cpu", lambda *a, **k: computed.append(compute(*a, **k)) or computed[-1])
    given = [tensor.as_subclass(Elsewhere) for tensor in (boxes, scores, labels)]
    kept = batched_nms(*given, 0.4, metric="diou", max_detections=9)
    assert (kept.device.type, kept.shape, kept.dtype) == ("meta", (9,), torch.int64)
    assert computed[0].tolist() == diou_reference(boxes, scores, labels, 0.4)[:9]


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    boxes, scores, labels = scene(2000, 1, labels=9)
    on_gpu = (boxes.cuda(), scores.cuda(), labels.cuda())
    for threshold in (0.3, 0.5, 0.7):
        assert torch.equal(nms(*on_gpu[:2], threshold).cpu(), nms(boxes, scores, threshold)), threshold
        together = batched_nms(*on_gpu, threshold).cpu()
        assert torch.equal(together, batched_nms(boxes, scores, labels, threshold)), threshold


@pytest.mark.gpu
def test_diou_on_a_gpu() -> None:
    boxes, scores, labels = scene(2000, 1)
    kept = batched_nms(boxes.cuda(), scores.cuda(), labels.cuda(), 0.4, metric="diou")
    assert kept.device.type == "cuda"
    assert torch.equal(kept.cpu(), batched_nms(boxes, scores, labels, 0.4, metric="diou"))


# ------------------------------------------------------------------ labels and coordinates


def test_batched_is_exact_for_any_labels_and_coordinates() -> None:
    for n, at in itertools.product((40, 400), (0.0, -50.0, 1e6)):
        boxes, scores, labels = scene(n, 5, labels=80, objects=2, at=at)
        expected = reference(boxes, scores, labels, 0.5)
        huge = torch.tensor([-(2**62), 2**62])[labels % 2] + labels
        for values in (labels, labels - 40, huge, labels.double() / 7, labels.to(torch.uint8)):
            assert batched_nms(boxes, scores, values, 0.5).tolist() == expected, (n, at, values)
            assert on_the_gpu(boxes, scores, values, 0.5).tolist() == expected, (n, at, values)


def in_metres(n: int, seed: int):
    """Boxes of half a metre to two in coordinates of a map, which float32 knows to half a metre."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=g, dtype=torch.float64) * 6
    boxes = torch.cat([corner, corner + torch.rand(n, 2, generator=g, dtype=torch.float64) * 1.5 + 0.5], 1)
    at = torch.tensor([500_000.0, 5_500_000.0] * 2, dtype=torch.float64)
    return boxes + at, torch.rand(n, generator=g), at


def test_float64_keeps_its_digits_far_from_the_origin() -> None:
    for seed in range(5):
        boxes, scores, at = in_metres(400, seed)
        for threshold in (0.3, 0.5):
            expected = ops.nms(boxes, scores.double(), threshold).tolist()
            assert len(expected) < 300
            assert nms(boxes, scores, threshold).tolist() == expected, (seed, threshold)
            assert nms(boxes.numpy(), scores.numpy(), threshold).tolist() == expected
            assert on_the_gpu(boxes, scores, None, threshold).tolist() == expected
        mirrored = torch.cat([-boxes[:, 2:], -boxes[:, :2]], 1)
        assert nms(mirrored, scores, 0.5).tolist() == expected
        near = [torch.stack(soft_nms(given, scores, score_threshold=None)) for given in (boxes, boxes - at)]
        torch.testing.assert_close(near[0], near[1], rtol=1e-4, atol=1e-5)


def in_float64(g, n):
    """Boxes (N, 4) that float32 has too few digits for: metres of a map, of two sites far apart; degrees; all sizes."""
    kind = int(torch.randint(4, (1,), generator=g))
    unit = (1.0, 1.0, 1e-5, 10.0 ** float(torch.randint(-8, 8, (1,), generator=g)))[kind]
    corner = torch.rand(n, 2, generator=g, dtype=torch.float64) * 6
    corner += torch.randint(2, (n, 1), generator=g) * (300_000.0 if kind == 1 else 0.0)
    size = torch.rand(n, 2, generator=g, dtype=torch.float64) * 1.5 + 0.5
    if kind == 3:
        size = torch.exp(torch.randn(n, 2, generator=g, dtype=torch.float64) * 3)
    at = torch.tensor([(500_000.0, 5_500_000.0), (400_000.0, -5e6), (8.5, 52.1), (0.0, 0.0)][kind]).double()
    return torch.cat([corner * unit + at, (corner + size) * unit + at], 1)


def test_float64_is_torchvisions_at_every_threshold(way) -> None:
    g = torch.Generator().manual_seed(3)
    for number in range(150):
        n = int(torch.randint(1, 150, (1,), generator=g))
        boxes, scores = in_float64(g, n), torch.randperm(n, generator=g).double() / n
        threshold = [0.0, 1e-300, 0.1, 0.3, 0.7, 0.99, 1.0, float(torch.rand(1, generator=g))][number % 8]
        expected = ops.nms(boxes, scores, threshold).tolist()
        assert nms(boxes, scores, threshold).tolist() == expected, (number, threshold)
        assert nms(boxes.numpy(), scores.numpy(), threshold).tolist() == expected
        assert on_the_gpu(boxes, scores, None, threshold).tolist() == expected
        if number % 5 == 0:
            labels = torch.randint(3, (n,), generator=g)
            alone = [labels.eq(k).nonzero()[:, 0] for k in range(3)]
            kept = sorted(torch.cat([i[ops.nms(boxes[i], scores[i], threshold)] for i in alone]).tolist())
            assert sorted(batched_nms(boxes, scores, labels, threshold).tolist()) == kept
            assert sorted(on_the_gpu(boxes, scores, labels, threshold).tolist()) == kept


def test_a_reversed_box_of_float64_is_named_with_its_digits() -> None:
    boxes, scores, _ = in_metres(3, 0)
    boxes[1] = boxes[1].flip(0)
    with pytest.raises(ValueError, match=r"boxes\[1\] = \[5500.*\d\.\d{5,}, .* is reversed"):
        nms(boxes, scores, 0.5)


def test_lists_and_large_integers_keep_their_digits() -> None:
    boxes = [
        [5_500_000.1, 0.0, 5_500_000.9, 1.0],
        [5_500_000.5, 0.0, 5_500_001.3, 1.0],
        [5_500_000.15, 0, 5_500_001, 1],
    ]
    assert nms(boxes, [0.9, 0.8, 0.7], 0.5).tolist() == [0, 1]  # IoU 0.4 / 1.2 and 0.75 / 0.9
    assert batched_nms(boxes, [0.9, 0.8, 0.7], [0, 0, 1], 0.2).tolist() == [0, 2]
    assert nms([], [], 0.5).tolist() == []
    assert nms(np.array(boxes), [1, 2, 3], 0.5).tolist() == [2, 1]
    kept, lowered = soft_nms(boxes[:2], [0.9, 0.8], method="linear")
    assert kept.tolist() == [0, 1]
    assert lowered.tolist() == pytest.approx([0.9, 0.8 * 2 / 3], abs=1e-9)
    assert lowered.dtype == np.float64
    # Of 2 x 2 at 2**24 and 1 beside it, where float32 knows even numbers only.
    whole = torch.tensor([[2**24, 0, 2**24 + 2, 2], [2**24 + 1, 0, 2**24 + 3, 2]])
    for dtype in (torch.int32, torch.int64):
        assert nms(whole.to(dtype), torch.tensor([2, 1]), 0.3).tolist() == [0]
        assert on_the_gpu(whole.to(dtype), torch.tensor([2, 1]), None, 0.34).tolist() == [0, 1]
    assert_named("scores must be rows of the same length", nms, boxes, [[0.9], [0.8, 0.1], [1]], 0.5)
    assert_named(r"scores must have shape \(3,\)", nms, boxes, [0.9], 0.5)


def test_middles_are_not_rounded(way) -> None:
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        corner, size = (torch.randint(5, (700, 2), generator=g).double() for _ in range(2))
        corner += torch.tensor([-27_011_219.0, 11_531_130.0]).double()
        boxes = torch.cat([corner, corner + size], 1).float()  # which knows even numbers there, and the middle is odd
        scores = torch.randperm(700, generator=g).float()
        assert torch.equal(nms(boxes, scores, 0.7), ops.nms(boxes, scores, float(np.float32(0.7))))


def test_tiny_boxes_by_an_outlier(way) -> None:
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(300, 2, generator=g) * 1e-7
    boxes = torch.cat([corner, corner + 1e-8 + torch.rand(300, 2, generator=g) * 1e-8], 1)
    for far in (1.0, 1e6, 1e20):
        boxes[7] = torch.tensor([-far, -far, -far + 1, -far + 1])
        scores = torch.rand(300, generator=g)
        for threshold in (0.0, 0.3, 0.5):
            assert torch.equal(nms(boxes, scores, threshold), ops.nms(boxes, scores, threshold)), (far, threshold)


def test_tiny_and_huge_boxes_at_low_thresholds(monkeypatch) -> None:
    # A huge box would look for tiny ones in all cells: comparing all pairs takes its place, with the same result.
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(1200, 2, generator=g) * 2000
    sides = torch.where(torch.arange(1200)[:, None] % 2 == 0, 1e-3, 60.0) * torch.rand(1200, 2, generator=g)
    boxes, scores = torch.cat([corner, corner + sides], 1), torch.rand(1200, generator=g)
    tried = []
    nearby = on_cpu.suppress_nearby
    monkeypatch.setattr(on_cpu, "suppress_nearby", lambda *a: tried.append(nearby(*a)) or tried[-1])
    for threshold in (0.0, 1e-45, 1e-6, 0.5):
        tried.clear()
        assert torch.equal(nms(boxes, scores, threshold), ops.nms(boxes, scores, threshold)), threshold
        assert [kept is None for kept in tried] == [threshold < 0.5]


def test_large_and_small_groups_go_their_own_ways(monkeypatch) -> None:
    monkeypatch.setattr(on_cpu, "_FEW_BOXES", 20)
    monkeypatch.setattr(on_cpu, "_FEW_BESIDE", -1)
    for seed in range(10):
        boxes, scores, labels = scene(300, seed, labels=3)
        labels = torch.where(torch.arange(300) < 40, torch.arange(300) + 5, labels)  # forty groups of one box
        assert batched_nms(boxes, scores, labels, 0.5).tolist() == reference(boxes, scores, labels, 0.5)
        assert batched_nms(boxes, scores, labels, 0.5, score_threshold=0.35).tolist() == reference(
            boxes, scores, labels, 0.5, 0.35
        )


def test_zero_has_no_sign() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9]])
    assert nms(boxes, torch.tensor([-0.0, 0.0]), 0.5).tolist() == [0]
    assert batched_nms(boxes, torch.tensor([1.0, 1.0]), torch.tensor([-0.0, 0.0]), 0.5).tolist() == [0]


def test_both_devices_paths_give_the_same(way, monkeypatch) -> None:
    for proof in (True, False):
        if not proof:
            monkeypatch.setattr(nms_torch, "_nms_together", lambda *_: None)
        for seed in range(20):
            boxes, scores, labels = scene(150, seed, labels=9)
            expected = batched_nms(boxes, scores, labels, 0.5, score_threshold=0.25)
            assert torch.equal(on_the_gpu(boxes, scores, labels, 0.5, 0.25), expected)
            assert torch.equal(on_the_gpu(boxes, scores, None, 0.5), nms(boxes, scores, 0.5))


def test_labels_together_on_a_gpu_only_with_proof() -> None:
    boxes, scores, labels = scene(300, 6, labels=80)
    order = torch.argsort(scores, descending=True, stable=True)
    assert nms_torch._nms_together(boxes[order], labels[order], 0.5) is not None
    # IoU of exactly 1/2 under a threshold of 1/2, extents that vanish beside the offset, and overflow: no proof.
    on_the_edge = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1], [0, 0, 3, 3]])
    vanishing = torch.tensor([[0.0, 0, 1e-9, 1], [0, 0, 1e-9, 1], [0, 0, 1000, 1000]])
    overflow = torch.tensor([[0.0, 0, 1e30, 1e30], [0, 0, 1e30, 1e30], [0, 0, 1e30, 1e30]])
    for boxes in (on_the_edge, vanishing, overflow):
        labels, scores = torch.tensor([0, 0, 1]), torch.tensor([0.9, 0.8, 0.7])
        assert nms_torch._nms_together(boxes, labels, 0.5) is None
        alone = [*nms(boxes[:2], scores[:2], 0.5).tolist(), 2]
        assert on_the_gpu(boxes, scores, labels, 0.5).tolist() == alone
        assert batched_nms(boxes, scores, labels, 0.5).tolist() == alone


def test_a_device_without_float64(monkeypatch) -> None:
    def no_float64(_):
        raise TypeError("Cannot convert a tensor to float64: the framework doesn't support it")

    monkeypatch.setattr(torch.Tensor, "double", no_float64)
    boxes, scores, labels = scene(150, 8, labels=9)
    assert torch.equal(on_the_gpu(boxes, scores, labels, 0.5), batched_nms(boxes, scores, labels, 0.5))


def test_stops_early(way) -> None:
    boxes, scores, labels = scene(200, 7, labels=4)
    everything = batched_nms(boxes, scores, labels, 0.5)
    alone = nms(boxes, scores, 0.5)
    for most in (0, 1, 5, 1000):
        assert torch.equal(batched_nms(boxes, scores, labels, 0.5, max_detections=most), everything[:most])
        assert torch.equal(nms(boxes, scores, 0.5, max_detections=most), alone[:most])


def test_a_distant_limit_needs_several_tries(way) -> None:
    # 2000 equal boxes are the best, so that 4 * 300 boxes hold only one to keep.
    places = torch.arange(600.0)[:, None] * torch.tensor([100.0, 0, 100, 0])
    boxes = torch.cat([torch.tensor([[0.0, 50, 10, 60]]).expand(2000, 4), places + torch.tensor([0.0, 0, 10, 10])])
    scores = torch.linspace(1, 0.1, len(boxes))
    assert nms(boxes, scores, 0.5, max_detections=300).tolist() == [0, *range(2000, 2299)]


def test_a_long_chain_of_neighbours(way) -> None:
    # Each box drops the next worse one if it is there itself: every second is kept, along 5000 boxes in a row.
    left = torch.arange(5000.0)[:, None] * 3
    boxes = left * torch.tensor([1.0, 0, 1, 0]) + torch.tensor([0.0, 0, 10, 10])
    scores = torch.arange(5000.0)
    assert nms(boxes, -scores, 0.5).tolist() == list(range(0, 5000, 2))
    assert nms(boxes, scores, 0.5).tolist() == list(range(4999, 0, -2))


@pytest.mark.slow
def test_first_call_is_quiet_and_leaves_a_cache(tmp_path) -> None:
    script = (
        "import numpy as np, detseg.detect as d\n"
        "import sys; assert 'numba' not in sys.modules\n"
        "b = np.array([[0, 0, 9, 9.0], [1, 0, 9, 9]]); s = np.array([.5, .6])\n"
        "print(d.nms(b, s, .5).tolist(), d.batched_nms(b, s, np.array([0, 1]), .5).tolist())\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert child.stdout == "[1] [1, 0]\n"
    assert child.stderr == ""
    assert list(tmp_path.rglob("*.nbi"))  # compiled code is kept for the next process


# ------------------------------------------------------------------ laws


@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]))
@settings(max_examples=80, deadline=None)
def test_laws(seed: int, n: int, threshold: float) -> None:
    boxes, scores, labels = scene(n, seed)
    kept = batched_nms(boxes, scores, labels, threshold)
    assert (scores[kept].diff() <= 0).all()
    conflict = (box_iou(boxes, boxes) > np.float32(threshold)) & (labels[:, None] == labels)
    among_kept = conflict[kept][:, kept]
    assert not (among_kept & ~torch.eye(len(kept), dtype=torch.bool)).any()
    index = torch.arange(n)
    better = (scores > scores[:, None]) | ((scores == scores[:, None]) & (index < index[:, None]))
    dropped = torch.ones(n, dtype=torch.bool)
    dropped[kept] = False
    assert (conflict & better)[dropped][:, kept].any(1).all()
    again = batched_nms(boxes[kept], scores[kept], labels[kept], threshold)
    assert again.tolist() == list(range(len(kept)))


@given(st.integers(0, 10_000), st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_permuting_the_input_permutes_the_result(seed: int, n: int) -> None:
    boxes, scores, labels = scene(n, seed, ties=False)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    kept = batched_nms(boxes[order], scores[order], labels[order], 0.5)
    assert torch.equal(order[kept], batched_nms(boxes, scores, labels, 0.5))


# ------------------------------------------------------------------ kinds of input


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_computed_in_float32(dtype: torch.dtype) -> None:
    boxes, scores, labels = scene(100, 7)
    boxes, scores = (boxes * 8).to(dtype), scores.to(dtype)  # areas beyond what float16 holds
    kept = batched_nms(boxes, scores, labels, 0.5)
    assert torch.equal(kept, batched_nms(boxes.float(), scores.float(), labels, 0.5))
    assert len(kept) < 100
    # 0.1 is above its nearest number in bfloat16 and below its nearest in float16, and both are scores here.
    nearest = torch.tensor(0.1, dtype=dtype)
    scores = torch.stack([torch.nextafter(nearest, torch.tensor(1.0, dtype=dtype)), nearest])
    boxes, labels = torch.tensor([[0.0, 0, 9, 9], [20, 20, 29, 29]]), torch.tensor([0, 1])
    for threshold in (0.1, float(nearest), float(nearest) * 0.9999, float(nearest) * 1.0001):
        expected = [i for i, score in enumerate(scores.tolist()) if score > np.float32(threshold)]
        assert batched_nms(boxes, scores, labels, 0.5, score_threshold=threshold).tolist() == expected
        assert on_the_gpu(boxes, scores, labels, 0.5, threshold).tolist() == expected


def test_numpy_in_numpy_out() -> None:
    boxes, scores, labels = scene(100, 8)
    expected = batched_nms(boxes, scores, labels, 0.5).tolist()
    arrays = [boxes.numpy(), scores.numpy(), labels.numpy()]
    kept = batched_nms(*arrays, 0.5)
    assert isinstance(kept, np.ndarray)
    assert kept.dtype == np.int64
    assert kept.tolist() == expected
    assert nms(arrays[0], arrays[1], 0.5).tolist() == nms(boxes, scores, 0.5).tolist()
    frozen = [array.copy() for array in arrays]
    for array in frozen:
        array.flags.writeable = False
    assert batched_nms(*frozen, 0.5).tolist() == expected
    odd = [arrays[0].astype(">f4"), arrays[1].astype(np.float64), arrays[2].astype(np.int16)]
    for array in odd:
        array.flags.writeable = False
    assert batched_nms(*odd, 0.5).tolist() == expected
    backwards = batched_nms(*(array[::-1] for array in arrays), 0.5)
    assert len(backwards) > 0


def test_integers_and_gradients_and_inputs_untouched() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10]], requires_grad=False)
    assert nms(boxes, torch.tensor([1, 2]), 0.5).tolist() == [1]
    floats = boxes.float().requires_grad_()
    scores = torch.tensor([1.0, 2.0], requires_grad=True)
    kept = nms(floats, scores, 0.5)
    assert not kept.requires_grad
    assert floats.tolist() == boxes.tolist()


def test_no_boxes() -> None:
    for make in (torch.zeros, np.zeros):
        boxes, scores = make((0, 4)), make(0)
        for kept in (nms(boxes, scores, 0.5), batched_nms(boxes, scores, make(0), 0.5, max_detections=3)):
            assert type(kept) is type(boxes)
            assert tuple(kept.shape) == (0,)
            assert str(kept.dtype).endswith("int64")
        boxes, scores = make((3, 4)), make(3)
        assert len(batched_nms(boxes, scores, make(3), 0.5, score_threshold=0.5)) == 0


def test_nothing_above_the_score_threshold_elsewhere() -> None:
    boxes, scores = torch.tensor([[0.0, 0, 9, 9], [1, 1, 9, 9]]), torch.tensor([0.2, 0.1])
    for labels, tracing in itertools.product((None, torch.tensor([0, 1])), (False, True)):
        kept = keep_by_torchvision(boxes, scores, labels, threshold=0.5, score_threshold=0.5, tracing=tracing)
        assert (kept.shape, kept.dtype) == ((0,), torch.int64), (labels, tracing)


# ------------------------------------------------------------------ mistakes


INF, NAN = float("inf"), float("nan")
BOXES = [[0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0], [4.0, 4.0, 5.0, 5.0]]


def changed(row: int, box: list[float]) -> torch.Tensor:
    return torch.tensor([*BOXES[:row], box, *BOXES[row + 1 :]])


def test_mistakes_are_named() -> None:
    fine = {
        "boxes": torch.tensor(BOXES),
        "scores": torch.tensor([0.1, 0.2, 0.3]),
        "labels": torch.tensor([0, 1, 2]),
        "iou_threshold": 0.5,
    }
    for change, message in [
        ({"boxes": changed(1, [0.0, NAN, 1.0, 1.0])}, r"boxes\[1\] = \[0.0, nan, 1.0, 1.0\] is not finite"),
        ({"boxes": changed(2, [0.0, 0.0, INF, 1.0])}, r"boxes\[2\] = .* is not finite"),
        ({"boxes": changed(0, [5.0, 0.0, 1.0, 1.0])}, r"boxes\[0\] = \[5.0, 0.0, .* is reversed: x1 <= x2"),
        ({"boxes": changed(0, [-3e38, 0.0, 3e38, 1.0])}, r"boxes\[0\] = .* too large"),
        ({"boxes": -torch.tensor(BOXES)}, r"boxes\[0\] = .* reversed.*3 such boxes"),
        ({"scores": torch.tensor([0.1, INF, 0.2])}, r"scores\[1\] = inf is not finite"),
        ({"scores": torch.tensor([0.1, 0.2, NAN])}, r"scores\[2\] = nan is not finite"),
        ({"labels": torch.tensor([NAN, 0.0, 0.0])}, r"labels\[0\] = nan is not finite"),
        ({"boxes": torch.zeros(3, 5)}, r"boxes must have shape \(N, 4\), got \(3, 5\)"),
        ({"boxes": torch.zeros(0)}, r"boxes must have shape \(N, 4\), got \(0,\)"),
        ({"scores": torch.zeros(2)}, r"scores must have shape \(3,\).*got \(2,\)"),
        ({"scores": torch.zeros(3, 1)}, r"scores must have shape \(3,\).*got \(3, 1\)"),
        ({"labels": torch.zeros(4)}, r"labels must have shape \(3,\).*got \(4,\)"),
        ({"scores": np.zeros(3)}, "all inputs must be torch or all numpy, got .*scores: ndarray"),
        ({"boxes": BOXES}, "all inputs must be torch or all numpy, got boxes: list"),
        ({"scores": torch.zeros(3, device="meta")}, "one device, got boxes: cpu, scores: meta, labels: cpu"),
        ({"iou_threshold": 1.5}, r"iou_threshold must be in \[0, 1\], got 1.5"),
        ({"iou_threshold": NAN}, "iou_threshold must be"),
        ({"score_threshold": NAN}, "score_threshold must be a number"),
        ({"max_detections": -1}, "max_detections must be a whole number, 0 or more, got -1"),
        ({"max_detections": 1.5}, "max_detections must be"),
        ({"max_detections": "5"}, "max_detections must be a whole number, 0 or more, got '5'"),
        ({"iou_threshold": "0.5"}, r"iou_threshold must be in \[0, 1\], got '0.5'"),
        ({"iou_threshold": None}, r"iou_threshold must be in \[0, 1\], got None"),
        ({"iou_threshold": [0.5, 0.6]}, "iou_threshold must be in"),
        ({"score_threshold": "0.5"}, "score_threshold must be a number, got '0.5'"),
        ({"boxes": torch.zeros(3, 4, dtype=torch.complex64)}, "boxes must be numbers, got torch.complex64"),
        ({"metric": "giou"}, "metric must be 'iou' or 'diou', got 'giou'"),
    ]:
        arguments = fine | change
        assert_named(message, batched_nms, **arguments)
        if "labels" not in change:
            del arguments["labels"]
            assert_named(message.replace(", labels: cpu", ""), nms, **arguments)


def test_labels_that_are_words_are_named() -> None:
    boxes, words = np.array(BOXES), np.array(["a", "b", "a"])
    assert_named("labels must be numbers, got <U1", batched_nms, boxes, np.ones(3), words, 0.5)
    assert_named("labels must be numbers, got <U1", batched_nms, BOXES, [1, 1, 1], ["a", "b", "a"], 0.5)
    assert_named("boxes must be numbers, got object", nms, np.array(BOXES, object), np.ones(3), 0.5)


def test_bad_numbers_below_the_score_threshold_count_too() -> None:
    with pytest.raises(ValueError, match=r"boxes\[1\]"):
        nms(changed(1, [0, 0, NAN, 1]), torch.tensor([0.9, 0.1, 0.9]), 0.5, score_threshold=0.5)


# ------------------------------------------------------------------ devices


def test_what_float32_cannot_hold_is_taken_in_float64() -> None:
    boxes = torch.tensor([[0, 0, 1e39, 1], [0, 0, 2e39, 1]], dtype=torch.float64)
    for threshold, expected in ((0.4, [0]), (0.5, [0, 1])):
        assert nms(boxes, torch.tensor([2, 1]), threshold).tolist() == expected
        assert on_the_gpu(boxes, torch.tensor([2, 1]), None, threshold).tolist() == expected


@pytest.mark.filterwarnings("ignore:.*create_unbacked_symint")
def test_results_stay_on_the_gpu() -> None:
    with FakeTensorMode(shape_env=ShapeEnv()):
        boxes, scores = torch.zeros(9, 4, device="cuda"), torch.zeros(9, device="cuda")
        labels = torch.zeros(9, dtype=torch.int64, device="cuda")
        kept = nms(boxes, scores, 0.5, score_threshold=0.1)
        together = batched_nms(boxes, scores, labels, 0.5, score_threshold=0.1, max_detections=5)
    for result in (kept, together):
        assert result.device.type == "cuda"
        assert result.dtype == torch.int64
        assert result.ndim == 1


class Model(torch.nn.Module):
    def forward(self, boxes, scores, labels):
        return batched_nms(boxes, scores, labels, 0.5, score_threshold=0.1, max_detections=10)


@pytest.mark.filterwarnings("ignore:.*create_unbacked_symint")
def test_can_be_exported() -> None:
    exported = torch.export.export(Model(), scene(200, 9, labels=5)).module()
    for seed in range(9, 12):
        arguments = scene(200, seed, labels=5, ties=False)
        kept = exported(*arguments)
        assert torch.equal(kept, Model()(*arguments))
        assert len(kept) == 10
