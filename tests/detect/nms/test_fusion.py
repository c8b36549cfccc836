"""weighted_boxes_fusion: by hand, ensemble-boxes, the definition written plainly, edges."""

import itertools

import numpy as np
import pytest
import torch

from detseg.boxes import box_iou
from detseg.detect import weighted_boxes_fusion
from detseg.detect.nms.fusion import fuse
from tests.mistakes import assert_named


def models_of(seed, models=3, n=25, labels=2):
    """The same objects seen by several models, each with its own errors."""
    g = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(n, 2, generator=g) * 100, torch.rand(n, 2, generator=g) * 30 + 10
    truth = torch.cat([corner, corner + size], 1)
    kinds = torch.randint(labels, (n,), generator=g)
    boxes, scores, labels_ = [], [], []
    for _ in range(models):
        seen = torch.rand(n, generator=g) > 0.3
        boxes.append(truth[seen] + torch.randn(int(seen.sum()), 4, generator=g))
        scores.append(torch.rand(int(seen.sum()), generator=g) * 0.9 + 0.05)
        labels_.append(kinds[seen])
    return boxes, scores, labels_


def reference(boxes, scores, labels, weights, iou_threshold, score_threshold, score):
    """Section 3 of the paper with plain lists."""
    entries = [
        (float(s) * w, b.double(), int(k), w)
        for bs, ss, ks, w in zip(boxes, scores, labels, weights, strict=True)
        for b, s, k in zip(bs, ss, ks, strict=True)
        if s >= score_threshold
    ]
    clusters = []
    for weight, box, label, share in sorted(entries, key=lambda e: -e[0]):
        best, highest = None, iou_threshold
        for cluster in clusters:
            if cluster["label"] == label:
                iou = float(box_iou(cluster["mean"][None].float(), box[None].float()))
                if iou > highest:
                    best, highest = cluster, iou
        if best is None:
            best = {"label": label, "members": []}
            clusters.append(best)
        best["members"].append((weight, box, share))
        total = sum(w for w, *_ in best["members"])
        best["mean"] = sum(w * b for w, b, _ in best["members"]) / total
    found = []
    for cluster in clusters:
        given, shares = [w for w, *_ in cluster["members"]], [share for *_, share in cluster["members"]]
        value = max(given) / max(weights)
        if score == "mean":
            value = sum(given) / sum(shares) * min(sum(shares), sum(weights)) / sum(weights)
        found.append((value, cluster["mean"].tolist(), cluster["label"]))
    return sorted(found, key=lambda f: -f[0])


def test_by_hand():
    boxes = [torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[2.0, 0, 12, 10], [50, 50, 60, 60]])]
    scores = [torch.tensor([0.75]), torch.tensor([0.25, 0.8])]
    labels = [torch.tensor([3]), torch.tensor([3, 3])]
    fused, new, kinds = weighted_boxes_fusion(boxes, scores, labels)
    # The pair: mean corner (0.75 * 0 + 0.25 * 2), mean score 0.5, found by both. The single one: half of 0.8.
    assert fused.tolist() == [[0.5, 0, 10.5, 10], [50, 50, 60, 60]]
    assert new.tolist() == pytest.approx([0.5, 0.4])
    assert kinds.tolist() == [3, 3]
    fused, new, _ = weighted_boxes_fusion(boxes, scores, labels, score="max")
    assert new.tolist() == pytest.approx([0.8, 0.75])
    # Another label is another object.
    fused, new, _ = weighted_boxes_fusion(boxes, scores, [torch.tensor([3]), torch.tensor([4, 3])])
    assert len(fused) == 3


def test_equals_the_definition():
    for seed, score, weights in itertools.product(range(5), ("mean", "max"), (None, [2.0, 1.0, 0.5])):
        given = models_of(seed)
        fused, new, kinds = weighted_boxes_fusion(
            *given, weights=weights, score_threshold=0.1, score=score, iou_threshold=0.5
        )
        expected = reference(*given, weights or [1.0] * 3, 0.5, 0.1, score)
        assert new.tolist() == pytest.approx([e[0] for e in expected], rel=1e-5)
        np.testing.assert_allclose(fused.numpy(), [e[1] for e in expected], rtol=1e-4, atol=1e-4)
        assert kinds.tolist() == [e[2] for e in expected]


def test_labels_do_not_meet():
    boxes, scores, labels = models_of(3, n=400, labels=40)
    fused, new, kinds = weighted_boxes_fusion(boxes, scores, labels)
    assert len(kinds.unique()) == 40
    assert (new.diff() <= 0).all()
    for label in range(40):
        chosen = [given == label for given in labels]
        alone = ([part[rows] for part, rows in zip(given, chosen, strict=True)] for given in (boxes, scores, labels))
        for part, own in zip((fused, new, kinds), weighted_boxes_fusion(*alone), strict=True):
            torch.testing.assert_close(part[kinds == label], own, rtol=0, atol=0)


def test_equals_ensemble_boxes():
    ensemble_boxes = pytest.importorskip("ensemble_boxes")
    for seed, (score, theirs) in itertools.product(range(6), (("mean", "avg"), ("max", "max"))):
        boxes, scores, labels = models_of(seed)
        boxes = [b.clamp(0, 160) / 160 for b in boxes]
        weights = [1.0, 2.0, 1.5]
        expected, expected_scores, expected_labels = ensemble_boxes.weighted_boxes_fusion(
            [b.numpy() for b in boxes], [s.numpy() for s in scores], [k.numpy() for k in labels],
            weights=weights, iou_thr=0.55, skip_box_thr=0.05, conf_type=theirs,
        )  # fmt: skip
        fused, new, kinds = weighted_boxes_fusion(
            boxes, scores, labels, weights=weights, score_threshold=0.05, score=score
        )
        np.testing.assert_allclose(new.numpy(), expected_scores, rtol=1e-4)
        np.testing.assert_allclose(fused.numpy(), expected, atol=1e-5)
        assert kinds.tolist() == expected_labels.tolist()


def test_a_model_that_finds_an_object_twice_gives_no_score_above_one():
    # Two boxes of weight 2 beside models of 2 + 1: the mean of the boxes times (2 + 2) / 3, at most 1.
    boxes = [np.array([[10.0, 10, 20, 20]] * 2), np.array([[30.0, 30, 40, 40]])]
    labels = [np.array([0, 0]), np.array([0])]
    for first, second in ((1.0, 1.0), (0.9, 0.6)):
        scores = [np.array([first, second]), np.array([0.6])]
        _, new, _ = weighted_boxes_fusion(boxes, scores, labels, weights=[2, 1])
        assert new.tolist() == pytest.approx([(first + second) / 2, 0.6 / 3], abs=1e-12)
    g = np.random.default_rng(0)
    for _ in range(200):
        sizes = g.integers(0, 5, g.integers(1, 4))
        boxes = [g.random((n, 1)) * 3 + np.array([[0.0, 0, 10, 10]]) for n in sizes]
        scores = [1 - g.random(n) * g.integers(0, 2) * 1e-7 for n in sizes]
        given = (boxes, scores, [np.zeros(n, int) for n in sizes])
        for score in ("mean", "max"):
            _, new, _ = weighted_boxes_fusion(*given, weights=g.random(len(sizes)) * 3 + 0.1, score=score)
            assert (new <= 1).all()


def test_float64_keeps_its_digits():
    box, beside = [500_000.1, 5_500_000.1, 500_000.9, 5_500_000.9], [500_000.2, 5_500_000.1, 500_001.0, 5_500_000.9]
    apart = [500_003.1, 5_500_000.1, 500_003.9, 5_500_000.9]
    given = ([[box, apart], [beside]], [[0.9, 0.3], [0.3]], [[0, 0], [0]])
    for kind in (list, np.array, torch.tensor):
        options = {} if kind is list else {"dtype": {np.array: np.float64, torch.tensor: torch.float64}[kind]}
        boxes, scores = ([kind(part, **options) for part in column] for column in given[:2])
        fused, new, kinds = weighted_boxes_fusion(boxes, scores, [kind(part) for part in given[2]])
        assert str(fused.dtype).endswith("float64"), kind
        assert str(new.dtype).endswith("float64"), kind
        assert fused[1].tolist() == apart
        assert fused[0].tolist() == pytest.approx(np.average([box, beside], 0, [0.9, 0.3]).tolist(), abs=1e-9, rel=0)
        assert new.tolist() == pytest.approx([0.6, 0.15], abs=1e-12)
        assert kinds.tolist() == [0, 0]
    with_nothing = weighted_boxes_fusion([np.float32([box]), np.zeros((0, 4))], [np.ones(1, np.float32), []], [[0], []])
    assert with_nothing[0].dtype == with_nothing[1].dtype == np.float32


def test_one_model_of_distant_boxes_stays():
    boxes = torch.arange(5.0)[:, None] * 20 + torch.tensor([[0.0, 0, 10, 10]])
    scores = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1])
    fused, new, kinds = weighted_boxes_fusion([boxes], [scores], [torch.arange(5)])
    torch.testing.assert_close(fused, boxes)
    torch.testing.assert_close(new, scores)
    assert kinds.tolist() == [0, 1, 2, 3, 4]


def test_nothing_found():
    empty = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    fused, new, kinds = weighted_boxes_fusion(*([part, part] for part in empty))
    assert (tuple(fused.shape), tuple(new.shape), tuple(kinds.shape)) == ((0, 4), (0,), (0,))
    arrays = weighted_boxes_fusion([np.zeros((0, 4))], [np.zeros(0)], [np.zeros(0)])
    assert all(isinstance(part, np.ndarray) for part in arrays)


def test_scores_of_zero_have_a_box():
    box = torch.tensor([[0.0, 0, 10, 10]])
    fused, new, _ = weighted_boxes_fusion([box, box], [torch.zeros(1)] * 2, [torch.zeros(1, dtype=torch.int64)] * 2)
    assert fused.tolist() == box.tolist()
    assert new.tolist() == [0.0]


def test_mistakes_are_named():
    fine = {
        "boxes": [torch.tensor([[0.0, 0, 1, 1]])] * 2,
        "scores": [torch.tensor([0.5])] * 2,
        "labels": [torch.tensor([1])] * 2,
    }
    for change, message in [
        ({"scores": [torch.tensor([0.1])]}, "of the same models, at least of one; got 2, 1 and 2"),
        ({"boxes": [], "scores": [], "labels": []}, "at least of one; got 0, 0 and 0"),
        ({"weights": [1.0]}, r"weights must be 2 positive numbers, one for each model, got \[1.0\]"),
        ({"weights": [1.0, -1.0]}, "weights must be 2 positive numbers"),
        ({"score": "median"}, "score must be 'mean' or 'max', got 'median'"),
        ({"iou_threshold": 2}, "iou_threshold must be in"),
        ({"scores": [torch.tensor([0.1]), torch.tensor([float("nan")])]}, r"model 1: scores\[0\] = nan is not finite"),
        ({"scores": [torch.tensor([0.1]), torch.tensor([-0.2])]}, r"model 1: scores\[0\] = -0.2.* is negative"),
        ({"labels": [torch.tensor([0.5]), torch.tensor([1])]}, "model 0: labels must be whole numbers"),
        (
            {
                "boxes": [torch.zeros(1, 4), np.zeros((1, 4))],
                "scores": [torch.zeros(1), np.zeros(1)],
                "labels": [torch.zeros(1, dtype=torch.int64), np.zeros(1, np.int64)],
            },
            "numpy arrays, or tensors on one device, got torch on cpu, numpy",
        ),
        ({"boxes": [torch.zeros(1, 4), torch.zeros(1, 5)]}, r"model 1: boxes must have shape \(N, 4\)"),
    ]:
        assert_named(message, weighted_boxes_fusion, **(fine | change))


def test_the_best_box_of_each_cluster_is_known():
    for seed in range(5):
        boxes, scores, labels = models_of(seed)
        fused = fuse(boxes, scores, labels, None, 0.55)
        plain = weighted_boxes_fusion(boxes, scores, labels)
        assert all((a == b).all() for a, b in zip(fused[:3], plain, strict=True))
        top = weighted_boxes_fusion(boxes, scores, labels, score="max")
        all_scores, all_labels = torch.cat(scores), torch.cat(labels)
        assert len(set(fused.best.tolist())) == len(fused.best)
        assert (all_labels[fused.best] == fused.labels).all()
        assert torch.equal(all_scores[fused.best].sort().values, top[1].sort().values)
        assert (box_iou(torch.cat(boxes)[fused.best], fused.boxes).diagonal() > 0.3).all()
