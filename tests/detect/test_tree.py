"""Classes in a tree: softmaxes against slow loops, the flat case against one softmax, the detector as a whole."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn import functional as F

from detseg.backbones import create_backbone
from detseg.data.class_tree import SURE
from detseg.detect import YoloDetector
from detseg.detect.losses import CLASS, image_label_loss
from detseg.detect.model import ImageLabels
from detseg.detect.tree import ByLevel, SoftmaxTree

# Two trees: 5 > (3 > (0, 1), 2) and 6 > 4; node 7 is a root without children.
PARENTS = [3, 3, 5, 5, 6, -1, -1, -1]
TREES = {"two trees": PARENTS, "flat": [-1] * 4, "one node": [-1], "chain": [-1, 0, 1, 2]}


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def slow_log_probability(z: Tensor, parents: list[int]) -> Tensor:
    """Of one prediction's logits (V,), by the definition."""
    result = []
    for node in range(len(parents)):
        total, at = torch.tensor(0.0), node
        while at >= 0:
            siblings = [i for i, parent in enumerate(parents) if parent == parents[at]]
            total = total + z[at] - torch.logsumexp(z[siblings], 0)
            at = parents[at]
        result.append(total)
    return torch.stack(result)


def slow_surest(p: Tensor, parents: list[int], threshold: float) -> Tensor:
    result = torch.zeros_like(p)
    for node in [i for i, parent in enumerate(parents) if parent < 0]:
        while True:
            children = [i for i, parent in enumerate(parents) if parent == node]
            best = max(children, key=lambda i: float(p[i]), default=-1)
            if best < 0 or p[best] < threshold:
                break
            node = best
        result[node] = p[node]
    return result


@pytest.mark.parametrize("name", TREES)
def test_probabilities_and_losses_equal_a_slow_loop(name):
    parents = TREES[name]
    tree, z = SoftmaxTree(parents), logits(2, 5, len(parents))
    wanted = torch.stack([slow_log_probability(row, parents) for row in z.flatten(0, 1)]).view_as(z)
    torch.testing.assert_close(tree.log_probability(z), wanted)
    labels = torch.arange(10) % len(parents)
    loss = tree.cross_entropy(z.flatten(0, 1), labels)
    torch.testing.assert_close(loss, -wanted.flatten(0, 1)[torch.arange(10), labels])
    assert tree.cross_entropy(z[0, :0], labels[:0]).shape == (0,)


def test_the_flat_tree_is_one_softmax_to_the_last_bit():
    tree, z, labels = SoftmaxTree([-1] * 6), logits(20, 6).requires_grad_(), torch.arange(20) % 6
    loss, plain = tree.cross_entropy(z, labels), F.cross_entropy(z, labels, reduction="none")
    assert torch.equal(loss, plain)
    gradients = [torch.autograd.grad(value.sum(), z)[0] for value in (loss, plain)]
    torch.testing.assert_close(*gradients)
    assert torch.equal(tree.surest(z.softmax(-1), 0.9), z.softmax(-1))


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("name", TREES)
def test_the_descent_equals_a_slow_loop(name, threshold):
    parents = TREES[name]
    tree = SoftmaxTree(parents)
    p = tree.log_probability(logits(30, len(parents), seed=1)).exp()
    wanted = torch.stack([slow_surest(row, parents, threshold) for row in p])
    assert torch.equal(tree.surest(p, threshold), wanted)


def test_the_first_of_equal_children_is_gone_to():
    tree = SoftmaxTree([2, 2, -1])
    assert tree.surest(torch.tensor([0.5, 0.5, 1.0]), 0.5).tolist() == [0.5, 0, 0]


def test_children_of_a_node_sum_to_it():
    p = SoftmaxTree(PARENTS).log_probability(logits(7, 8)).exp()
    torch.testing.assert_close(p[:, [0, 1]].sum(1), p[:, 3])
    torch.testing.assert_close(p[:, 4], p[:, 6])
    torch.testing.assert_close(p[:, [5, 6, 7]].sum(1), torch.ones(7))


def test_an_inner_node_teaches_the_path_above_it_and_nothing_below():
    z = logits(1, 8).requires_grad_()
    SoftmaxTree(PARENTS).cross_entropy(z, torch.tensor([3])).sum().backward()
    assert (z.grad[0, [2, 3, 5, 6, 7]] != 0).all() and (z.grad[0, [0, 1, 4]] == 0).all()


def test_a_tree_is_not_among_the_weights():
    assert not SoftmaxTree(PARENTS).state_dict()


# ------------------------------------------------------------------ images with a class and no boxes


def test_the_likeliest_prediction_of_an_image_learns_its_class():
    objectness, z = logits(3, 5, seed=2).requires_grad_(), logits(3, 5, 8, seed=3).requires_grad_()
    tree = SoftmaxTree(PARENTS)
    given = ImageLabels(torch.tensor([0, 3, 7]), torch.tensor([0, 2, 2]))
    loss = image_label_loss(objectness, z, given, tree.cross_entropy)
    scores = objectness.sigmoid()[..., None] * tree.log_probability(z).exp()
    best = [(i, int(scores[i, :, k].argmax()), k) for k, i in zip((0, 3, 7), (0, 2, 2), strict=True)]
    wanted = sum(-tree.log_probability(z)[i, p, k] for i, p, k in best)
    torch.testing.assert_close(loss, CLASS * wanted / 3)
    loss.backward()
    touched = {(int(i), int(p)) for i, p, _ in z.grad.nonzero()}
    assert touched == {(i, p) for i, p, _ in best} and objectness.grad is None


def detector(tree=None, classes=8, **options) -> YoloDetector:
    torch.manual_seed(0)
    backbone = create_backbone("test_efficientnet", pretrained=False, strides=(8, 16))
    anchors = torch.tensor([[[12.0, 12]], [[30, 30]]])
    return YoloDetector(backbone, classes, anchors, width=16, tree=tree, **options)


def images(count=2) -> Tensor:
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def target(boxes=(), labels=(), **more) -> dict[str, Tensor]:
    kind = torch.tensor(labels, dtype=torch.int64)
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": kind, **more}


def test_one_level_is_the_detector_without_a_tree():
    plain, flat = detector().train(), detector([-1] * 8).train()
    assert plain.state_dict().keys() == flat.state_dict().keys()
    targets = [target([[4, 4, 30, 30]], [2]), target()]
    losses = [model(images(), targets) for model in (plain, flat)]
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    with torch.no_grad():
        for a, b, levels in zip(plain.eval()(images()), flat.eval()(images()), flat.by_level(images()), strict=True):
            for name in a:
                torch.testing.assert_close(a[name], b[name])
                torch.testing.assert_close(a[name], levels[name][levels["level"] == 1])


def test_an_image_with_a_class_teaches_neither_boxes_nor_objectness():
    model = detector(PARENTS).train()
    boxed = target([[4, 4, 30, 30]], [2])
    labelled = target(image_labels=torch.tensor([1]))
    alone, both = model(images(), [boxed, target()]), model(images(), [boxed, labelled])
    assert torch.equal(alone["loss_box"], both["loss_box"])
    assert both["loss_objectness"] < alone["loss_objectness"] and both["loss_class"] > alone["loss_class"]
    only = model(images(), [labelled, labelled])
    assert only["loss_box"] == only["loss_objectness"] == 0 and only["loss_class"] > 0
    sum(only.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert (model.head.box.weight.grad == 0).all() and (model.head.classes.weight.grad != 0).any()


def test_detections_are_sure_nodes_and_relatives_suppress_each_other():
    model = detector(PARENTS, score_threshold=0.0, iou_threshold=0.0).eval()
    with torch.no_grad():
        model.head.classes.weight.mul_(100)
        (found, _), (levels, _) = model(images()), ByLevel(model)(images())
    sure = {name: levels[name][levels["level"] == SURE] for name in found}
    assert all(torch.equal(found[name], sure[name]) for name in found)
    assert set(levels["level"].tolist()) <= {SURE, 1, 2, 3}
    for level, nodes in ((1, {5, 6, 7}), (2, {2, 3, 4, 7}), (3, {0, 1, 2, 4, 7})):
        assert set(levels["labels"][levels["level"] == level].tolist()) <= nodes
    roots = model.tree.roots[found["labels"]]
    for root in roots.unique():
        mine = found["boxes"][roots == root]
        left = torch.maximum(mine[:, None, :2], mine[None, :, :2])
        right = torch.minimum(mine[:, None, 2:], mine[None, :, 2:])
        overlap = (right - left).clamp(min=0).prod(-1).fill_diagonal_(0)
        assert (overlap == 0).all()


def test_a_threshold_of_one_gives_roots_and_of_zero_leaves():
    model = detector(PARENTS).eval()
    with torch.no_grad():
        for threshold, allowed in ((1.1, {5, 6, 7}), (0.0, {0, 1, 2, 4, 7})):
            model.tree_threshold = threshold
            assert {int(k) for found in model(images()) for k in found["labels"]} <= allowed


def test_wrong_trees_are_refused():
    with pytest.raises(ValueError, match="the tree has 2 nodes; it must have one for each of the 8 classes"):
        detector([-1, 0])
    with pytest.raises(ValueError, match="no tree"):
        detector().by_level(images())


def test_everything_stays_on_the_device_of_its_inputs():
    model = detector(PARENTS).train()
    with FakeTensorMode():
        state = {
            name: torch.empty(t.shape, dtype=t.dtype, device="cuda", requires_grad=t.requires_grad)
            for name, t in (*model.named_parameters(), *model.named_buffers())
        }
        batch = torch.zeros(2, 3, 64, 64, dtype=torch.uint8, device="cuda")
        given = [target(image_labels=torch.zeros(1, dtype=torch.int64)), target([[4, 4, 30, 30]], [2])]
        moved = [{name: value.to("cuda") for name, value in t.items()} for t in given]
        losses = functional_call(model, state, (batch, moved))
        assert all(value.device.type == "cuda" for value in losses.values())
