"""detseg.boxes: hand-computed cases, laws, torchvision as oracle, degenerate boxes."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision import ops

from detseg.boxes import box_iou, clip_boxes, convert_boxes, crowd_iou, paired_iou
from tests.mistakes import assert_named

KINDS = ("iou", "giou", "diou", "ciou")
ORACLES = {
    "iou": ops.box_iou,
    "giou": ops.generalized_box_iou,
    "diou": ops.distance_box_iou,
    "ciou": ops.complete_box_iou,
}
FORMATS = ("xyxy", "xywh", "cxcywh")


def random_boxes(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 100 + shift
    return torch.cat([corner, corner + torch.rand(n, 2, generator=generator) * 60 + 0.1], dim=1)


def boxes_strategy(n: int) -> st.SearchStrategy[torch.Tensor]:
    """(n, 4) boxes on a grid of quarter pixels: touching, nested, equal and degenerate ones are common."""
    quarter = st.integers(0, 40).map(lambda v: v / 4)
    box = st.tuples(quarter, quarter, quarter, quarter).map(
        lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
    )
    return st.lists(box, min_size=n, max_size=n).map(lambda rows: torch.tensor(rows).reshape(n, 4))


# ------------------------------------------------------------------ the matrix


def has_area(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2:] > boxes[:, :2]).all(1)


def test_iou_by_hand() -> None:
    for a, b, expected in [
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7),
        ([0, 0, 4, 4], [1, 1, 3, 3], 1 / 4),  # nested
        ([0, 0, 2, 2], [2, 0, 4, 2], 0.0),  # touching: half-open boxes share nothing
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
        ([1, 1, 1, 1], [1, 1, 1, 1], 0.0),  # two points: 0 / 0
        ([0, 0, 0, 5], [0, 0, 0, 5], 0.0),  # two lines
        ([1, 1, 1, 1], [0, 0, 2, 2], 0.0),
        ([1e6, 1e6, 1e6 + 2, 1e6 + 2], [1e6 + 1, 1e6 + 1, 1e6 + 3, 1e6 + 3], 1 / 7),
    ]:
        first, second = torch.tensor([a]).float(), torch.tensor([b]).float()
        assert box_iou(first, second).item() == pytest.approx(expected, abs=1e-7), (a, b)
        assert paired_iou(first, second).item() == pytest.approx(expected, abs=1e-7), (a, b)


def test_box_iou_equals_torchvision() -> None:
    for n, m in ((0, 0), (0, 3), (3, 0), (1, 1), (37, 53)):
        a, b = random_boxes(n, 1), random_boxes(m, 2)
        torch.testing.assert_close(box_iou(a, b), ops.box_iou(a, b), rtol=1e-6, atol=0)


@given(boxes_strategy(5), boxes_strategy(4))
@settings(max_examples=60, deadline=None)
def test_box_iou_laws(a: torch.Tensor, b: torch.Tensor) -> None:
    iou = box_iou(a, b)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert torch.equal(iou, box_iou(b, a).t())
    assert torch.equal(iou, paired_iou(a[:, None].expand(5, 4, 4), b[None].expand(5, 4, 4)))
    assert torch.equal(box_iou(a, a).diagonal(), has_area(a).float())


@pytest.mark.parametrize("kind", KINDS)
def test_matrix_of_each_kind_equals_torchvision(kind: str) -> None:
    for n, m in ((0, 3), (3, 0), (37, 53)):
        a, b = random_boxes(n, 1).double(), random_boxes(m, 2).double()
        torch.testing.assert_close(box_iou(a, b, kind), ORACLES[kind](a, b), rtol=1e-6, atol=1e-6)


@given(boxes_strategy(5), boxes_strategy(4), st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None)
def test_matrix_of_each_kind_is_that_of_the_pairs(a: torch.Tensor, b: torch.Tensor, kind: str) -> None:
    # Many boxes without area among them: torchvision has NaN there.
    pairs = paired_iou(a[:, None].expand(5, 4, 4), b[None].expand(5, 4, 4), kind)
    assert torch.equal(box_iou(a, b, kind), pairs) and torch.isfinite(pairs).all()


@given(boxes_strategy(5), boxes_strategy(4))
@settings(max_examples=60, deadline=None)
def test_iou_and_crowd_iou_equal_pycocotools(a: torch.Tensor, b: torch.Tensor) -> None:
    boxes, objects = (convert_boxes(side.double().numpy(), "xyxy", "xywh") for side in (a, b))
    for crowd, ours in ((1, crowd_iou(a.double(), b.double())), (0, box_iou(a.double(), b.double()))):
        np.testing.assert_allclose(ours.numpy(), coco_mask.iou(boxes, objects, [crowd] * 4), rtol=1e-12)


def test_crowd_iou_by_hand() -> None:
    boxes = torch.tensor([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6], [1, 1, 1, 1]])
    assert crowd_iou(boxes, torch.tensor([[0, 0, 2, 4]])).tolist() == [[1.0], [0.5], [0.0], [0.0]]
    assert crowd_iou(boxes[:0], boxes).shape == (0, 4) and crowd_iou(boxes, boxes[:0]).shape == (4, 0)


def test_numpy_in_numpy_out() -> None:
    a, b = random_boxes(4, 1), random_boxes(3, 2)
    for measure, kind in itertools.product((box_iou, crowd_iou), (np.float32, np.float64, np.float16)):
        result = measure(a.numpy().astype(kind), b.numpy().astype(kind))
        assert isinstance(result, np.ndarray) and result.dtype == (np.float64 if kind is np.float64 else np.float32)
        expected = measure(torch.from_numpy(a.numpy().astype(kind)), torch.from_numpy(b.numpy().astype(kind)))
        np.testing.assert_array_equal(result, expected.numpy())


@pytest.mark.filterwarnings("error")
def test_any_numpy_array() -> None:
    boxes = random_boxes(4, 1).numpy()
    read_only = boxes.copy()
    read_only.flags.writeable = False
    for given_boxes in (boxes[::-1].copy()[::-1], boxes.astype(">f4"), np.asfortranarray(boxes), read_only):
        for measure in (box_iou, crowd_iou):
            np.testing.assert_array_equal(measure(given_boxes, given_boxes), measure(boxes, boxes))


# ------------------------------------------------------------------ pairs


def test_pairs_by_hand() -> None:
    # Two unit squares with a gap of 1: hull 3 x 1, union 2, centres 2 apart, hull diagonal squared 10.
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    assert paired_iou(a, b, "giou").item() == pytest.approx(-1 / 3)
    assert paired_iou(a, b, "diou").item() == pytest.approx(-4 / 10)
    assert paired_iou(a, b, "ciou").item() == pytest.approx(-4 / 10)  # same aspect ratio
    # 2 x 1 inside 2 x 2 with a common corner: IoU 1/2, centres 1/2 apart, diagonal squared 8.
    a, b = torch.tensor([[0.0, 0, 2, 1]]), torch.tensor([[0.0, 0, 2, 2]])
    aspect = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    expected = 0.5 - 0.25 / 8 - aspect**2 / (0.5 + aspect)
    assert paired_iou(a, b, "ciou").item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_equal_torchvision(kind: str) -> None:
    for shift in (0.0, 1e4):
        a, b = random_boxes(80, 3, shift), random_boxes(80, 4, shift)
        exact = ORACLES[kind](a.double(), b.double()).diagonal()
        torch.testing.assert_close(paired_iou(a, b, kind), exact.float(), rtol=1e-5, atol=2e-6)


@given(boxes_strategy(8), boxes_strategy(8))
@settings(max_examples=60, deadline=None)
def test_pair_laws(a: torch.Tensor, b: torch.Tensor) -> None:
    values = {kind: paired_iou(a, b, kind) for kind in KINDS}
    tolerance = 1e-6
    for kind, value in values.items():
        assert (value <= 1 + tolerance).all()
        assert (value >= (-1.5 if kind == "ciou" else -1) - tolerance).all()
        torch.testing.assert_close(value, paired_iou(b, a, kind))  # symmetric
        torch.testing.assert_close(value, paired_iou(a + 64, b + 64, kind))  # shifted by a power of two
        torch.testing.assert_close(paired_iou(a, a, kind), has_area(a).float())
    assert (values["giou"] <= values["iou"] + tolerance).all()
    assert (values["diou"] <= values["iou"] + tolerance).all()
    assert (values["ciou"] <= values["diou"] + tolerance).all()


@given(boxes_strategy(8), boxes_strategy(8), st.sampled_from([1.0, 1e-9, 1e5]))
@settings(max_examples=60, deadline=None)
def test_gradients_are_finite(a: torch.Tensor, b: torch.Tensor, scale: float) -> None:
    a, b = a * scale, b * scale
    for kind in KINDS:
        first, second = a.clone().requires_grad_(), b.clone().requires_grad_()
        value = paired_iou(first, second, kind)
        value.sum().backward()
        assert value.isfinite().all()
        assert first.grad.isfinite().all()
        assert second.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS[:3])  # CIoU's alpha carries no gradient, so numbers would differ
def test_gradients_are_right(kind: str) -> None:
    a = random_boxes(6, 5).double().requires_grad_()
    b = random_boxes(6, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: paired_iou(x, y, kind), (a, b))


def test_gradient_of_ciou_equals_torchvision() -> None:
    b = random_boxes(40, 6)
    ours, theirs = (random_boxes(40, 5).requires_grad_() for _ in range(2))
    (1 - paired_iou(ours, b, "ciou")).sum().backward()
    ops.complete_box_iou_loss(theirs, b, reduction="sum").backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_boxes_without_area_pull_at_nothing() -> None:
    for box in ([5.0, 5, 5, 5], [0.0, 5, 9, 5], [0, 0, 9, 1e-18]):
        a = torch.tensor([box], requires_grad=True)
        paired_iou(a, torch.tensor([box])).sum().backward()
        assert a.grad.tolist() == [[0, 0, 0, 0]], box


def test_gradient_of_giou_pulls_distant_boxes_together() -> None:
    a = torch.tensor([[0.0, 0, 1, 1]], requires_grad=True)
    paired_iou(a, torch.tensor([[5.0, 0, 6, 1]]), "giou").sum().backward()
    assert a.grad[0, 2] > 0  # moving the right edge towards the other box helps


def test_narrow_types_are_computed_in_float32() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        a = torch.tensor([[0, 0, 1000, 1000]], dtype=dtype)  # its area does not fit into float16
        b = torch.tensor([[0, 0, 1000, 500]], dtype=dtype)
        expected = b.float()[0, 3] / a.float()[0, 3]
        for value in (box_iou(a, b)[0], paired_iou(a, b)):
            assert value.dtype == torch.float32, dtype
            torch.testing.assert_close(value, expected.reshape(1))
        assert paired_iou(a.double(), b.double()).dtype == torch.float64, dtype


def test_autocast_changes_nothing() -> None:
    a, b = random_boxes(50, 7), random_boxes(50, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = [paired_iou(a, b, kind) for kind in KINDS] + [box_iou(a, b), clip_boxes(a, (50, 50))]
    outside = [paired_iou(a, b, kind) for kind in KINDS] + [box_iou(a, b), clip_boxes(a, (50, 50))]
    for x, y in zip(inside, outside, strict=True):
        assert x.dtype == torch.float32
        assert torch.equal(x, y)


def test_any_leading_shape_and_none() -> None:
    a, b = random_boxes(24, 9), random_boxes(24, 10)
    whole = paired_iou(a, b, "ciou")
    assert torch.equal(paired_iou(a.view(2, 3, 4, 4), b.view(2, 3, 4, 4), "ciou"), whole.view(2, 3, 4))
    assert paired_iou(a[:0], b[:0], "ciou").shape == (0,)


# ------------------------------------------------------------------ clip and convert


def test_clip_by_hand_and_oracle() -> None:
    boxes = torch.tensor([[-5.0, -5, 5, 5], [90, 40, 120, 60], [200, 200, 300, 300]])
    expected = [[0, 0, 5, 5], [90, 40, 100, 50], [100, 50, 100, 50]]
    assert clip_boxes(boxes, (50, 100)).tolist() == expected
    assert torch.equal(clip_boxes(boxes, (50, 100)), ops.clip_boxes_to_image(boxes, (50, 100)))
    assert clip_boxes(boxes.half(), (50, 100)).dtype == torch.float16
    assert clip_boxes(boxes[:0], (50, 100)).shape == (0, 4)


@pytest.mark.parametrize("source", FORMATS)
def test_convert_by_hand_round_trip_and_oracle(source: str) -> None:
    for target in FORMATS:
        check_conversion(source, target)


def check_conversion(source: str, target: str) -> None:
    same_box = {"xyxy": [2.0, 4.0, 8.0, 5.0], "xywh": [2.0, 4.0, 6.0, 1.0], "cxcywh": [5.0, 4.5, 6.0, 1.0]}
    given_box = torch.tensor([same_box[source]])
    assert convert_boxes(given_box, source, target).tolist() == [same_box[target]]
    boxes = random_boxes(40, 11)
    there = convert_boxes(boxes, source, target)
    torch.testing.assert_close(there, ops.box_convert(boxes, source, target))
    torch.testing.assert_close(convert_boxes(there, target, source), boxes, rtol=1e-5, atol=1e-4)
    as_numpy = convert_boxes(boxes.numpy(), source, target)
    assert isinstance(as_numpy, np.ndarray)
    assert as_numpy.dtype == np.float32
    np.testing.assert_array_equal(as_numpy, there.numpy())
    assert convert_boxes(boxes[:0], source, target).shape == (0, 4)


def test_convert_returns_new_memory() -> None:
    boxes = torch.ones(1, 4)
    convert_boxes(boxes, "xyxy", "xyxy").zero_()
    assert boxes.sum() == 4


def test_small_integers_do_not_wrap_around() -> None:
    arrays = [np.array([[100, 4, 120, 1]], dtype) for dtype in (np.uint8, np.int8, np.int64)]
    for given_boxes in (*arrays, *map(torch.from_numpy, arrays)):
        assert convert_boxes(given_boxes, "xywh", "xyxy").tolist() == [[100, 4, 220, 5]]
        assert convert_boxes(given_boxes, "xyxy", "xywh").tolist() == [[100, 4, 20, -3]]
        assert convert_boxes(given_boxes, "xywh", "cxcywh").tolist() == [[160, 4.5, 120, 1]]
        assert convert_boxes(given_boxes, "xywh", "xywh").dtype in (np.int64, torch.int64)


# ------------------------------------------------------------------ mistakes, devices


def test_mistakes_are_named() -> None:
    for call, message in [
        (lambda: clip_boxes(torch.zeros(3), (5, 5)), r"boxes must have shape \(\.\.\., 4\), got \(3,\)"),
        (lambda: box_iou(torch.zeros(4), torch.zeros(1, 4)), r"a must have shape \(N, 4\), got \(4,\)"),
        (lambda: box_iou(np.zeros((1, 4)), torch.zeros(1, 4)), "torch or all numpy, got a: numpy, b: torch"),
        (lambda: crowd_iou(torch.zeros(1, 4), np.zeros((1, 4))), "got boxes: torch, regions: numpy"),
        (lambda: paired_iou(torch.zeros(2, 4), torch.zeros(3, 4)), r"\(2, 4\) and b \(3, 4\)"),
        (
            lambda: paired_iou(torch.zeros(2, 4), torch.zeros(2, 4), "gious"),
            "unknown kind 'gious': use one of iou",
        ),
        (
            lambda: convert_boxes(torch.zeros(2, 4), "xyxy", "cxywh"),
            "unknown target 'cxywh': use one of xyxy",
        ),
        (lambda: convert_boxes(np.zeros((2, 5)), "xyxy", "xywh"), r"got \(2, 5\)"),
    ]:
        assert_named(message, call)


def test_results_stay_on_the_gpu() -> None:
    with FakeTensorMode():
        a, b = torch.zeros(3, 4, device="cuda"), torch.ones(3, 4, device="cuda")
        results = [box_iou(a, b), clip_boxes(a, (5, 5)), convert_boxes(a, "xyxy", "cxcywh")]
        results += [paired_iou(a, b, kind) for kind in KINDS]
        assert {r.device.type for r in results} == {"cuda"}
