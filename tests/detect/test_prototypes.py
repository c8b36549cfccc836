"""Masks of prototypes and coefficients: against loops over objects and pixels, by hand, edges, any device."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from detseg.backbones import create_backbone
from detseg.detect import YoloDetector, fit_anchors, prototypes
from detseg.detect.assign import Assignment
from detseg.detect.masks import paste_masks
from detseg.detect.model import flatten_targets
from detseg.detect.prototypes import LEARNERS, MASK, WINDOW, assemble, framed, mask_loss, prototype_stride, shrunk_masks

SIZES = [[12, 10], [20, 25], [30, 28], [40, 60], [60, 40], [64, 66], [80, 90], [100, 90], [120, 125]]


def detector(strides=(8, 16, 32), **options):
    torch.manual_seed(0)
    backbone = create_backbone("test_efficientnet", pretrained=False, strides=strides)
    anchors = torch.tensor(fit_anchors(SIZES, len(strides), 3))
    return YoloDetector(backbone, 3, anchors, width=16, masks=True, **options)


def images(count=2, height=96, width=96):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def target(boxes, size=(96, 96), crowd=None, empty=()):
    """Objects whose masks are the lower half of their boxes, but for those that are `empty`."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        if i not in empty:
            masks[i, (y1 + y2) // 2 : y2, x1:x2] = 1
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
        "iscrowd": torch.tensor(crowd or [False] * len(boxes), dtype=torch.bool),
        "masks": masks,
    }


def test_a_mask_is_the_weighted_sum_of_the_prototypes():
    coefficients, maps = torch.randn(5, 7), torch.randn(7, 4, 6)
    found = assemble(coefficients, maps)
    for i, row in enumerate(coefficients):
        total = sum(float(weight) * one for weight, one in zip(row, maps, strict=True))
        torch.testing.assert_close(found[i], 1 / (1 + (-total).exp()))
    assert assemble(torch.zeros(0, 7), maps).shape == (0, 4, 6)


def test_masks_of_prototypes_made_by_hand():
    """A left and a lower half: an object is their sum or difference, in the pixels of the image."""
    maps = torch.zeros(2, 8, 8)
    maps[0], maps[1] = -10, -10
    maps[0, :, :4], maps[1, 4:] = 10, 10
    maps, region = framed(maps, 4)
    masks = assemble(torch.tensor([[1.0, 0], [0, 1], [1, 1.5], [-1, 0]]), maps)
    boxes = torch.tensor([[0.0, 0, 32, 32], [0, 0, 32, 32], [0, 0, 32, 32], [8, 3, 30, 32]])
    pasted = paste_masks(masks, region.expand(4, 4), boxes, (32, 32))
    left = torch.arange(32).expand(32, 32) < 16
    assert torch.equal(pasted[0], left) and torch.equal(pasted[1], ~left.T)
    assert torch.equal(pasted[2][:14], torch.zeros(14, 32) > 0) and pasted[2][18:].all()
    assert int(pasted[3].sum()) == (30 - 16) * (32 - 3) and pasted[3, 3:, 16:30].all()


@pytest.mark.parametrize(("stride", "expected"), [(8, 4), (16, 4), (32, 4), (4, 4), (2, 2), (1, 1), (14, 7), (6, 6)])
def test_prototypes_are_as_fine_as_the_stride_allows(stride, expected):
    assert prototype_stride(stride) == expected


def test_masks_shrink_to_the_covered_share_of_each_cell():
    given = [target([[0, 0, 10, 12], [3, 2, 21, 17]], (18, 22)), target([], (18, 22)), target([[1, 1, 9, 9]], (18, 22))]
    found = shrunk_masks(given, (5, 6), 4)
    masks = torch.cat([one["masks"] for one in given])
    assert found.shape == (3, 5, 6)
    for i, row, column in torch.cartesian_prod(*(torch.arange(n) for n in found.shape)).tolist():
        cell = masks[i, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
        assert float(found[i, row, column]) == pytest.approx(float(cell.sum()) / 16)
    with pytest.raises(ValueError, match="target 0 has 2 objects and no masks"):
        shrunk_masks([{name: value for name, value in given[0].items() if name != "masks"}], (5, 6), 4)
    with pytest.raises(ValueError, match=r"target 0 has 2 objects and masks of shape \(1, 18, 22\)"):
        shrunk_masks([given[0] | {"masks": given[0]["masks"][:1]}], (5, 6), 4)


def slow_loss(coefficients, maps, assignment, fit, objects, masks, stride):
    losses = []
    for m, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
        if objects.iscrowd[m]:
            continue
        places = []
        for i in range(WINDOW):
            for j in range(WINDOW):
                y, x = y1 + (y2 - y1) * (i + 0.5) / WINDOW, x1 + (x2 - x1) * (j + 0.5) / WINDOW
                places.append((min(int(y / stride), maps.shape[2] - 1), min(int(x / stride), maps.shape[3] - 1)))
        wanted = torch.stack([masks[m][place] for place in places])
        if not wanted.any():
            continue
        order = sorted((c for c in range(fit.shape[1]) if assignment.chosen[m, c]), key=lambda c: -float(fit[m, c]))
        for c in order[:LEARNERS]:
            own = coefficients.flatten(0, 1)[assignment.prediction[m, c]]
            logits = torch.stack([own @ maps[objects.image[m]][:, row, column] for row, column in places])
            losses.append(F.binary_cross_entropy_with_logits(logits, wanted))
    return MASK * torch.stack(losses).mean()


def test_the_loss_of_a_loop_over_objects_predictions_and_places():
    generator = torch.Generator().manual_seed(1)
    coefficients = torch.randn(2, 30, 5, generator=generator).requires_grad_()
    maps = torch.randn(2, 5, 16, 20, generator=generator).requires_grad_()
    given = [target([[3, 5, 40, 60], [10, 10, 17, 14], [50, 2, 79, 63]], (64, 80), empty=[2])]
    given.append(target([[0, 0, 80, 64], [20, 20, 60, 50]], (64, 80), crowd=[False, True]))
    objects = flatten_targets(given, 2)
    prediction = torch.randint(0, 30, (5, 8), generator=generator) + objects.image[:, None] * 30
    chosen = torch.rand(5, 8, generator=generator) > torch.tensor([0.2, 0.7, 0.5, 0.5, 0.5])[:, None]
    fit = torch.rand(5, 8, generator=generator)
    masks = shrunk_masks(given, (16, 20), 4)
    arguments = coefficients, maps, Assignment(prediction, chosen), fit, objects, masks, 4
    fast, slow = mask_loss(*arguments), slow_loss(*arguments)
    torch.testing.assert_close(fast, slow)
    for a, b in zip(*(torch.autograd.grad(loss, (coefficients, maps)) for loss in (fast, slow)), strict=True):
        torch.testing.assert_close(a, b)


def test_what_has_no_mask_teaches_none():
    model = detector().train()
    for given in (
        [target([]), target([])],
        [target([[5, 5, 40, 40]], crowd=[True]), target([[5, 5, 90, 50]], empty=[0])],
    ):
        losses = model(images(), given)
        assert float(losses["loss_mask"].detach()) == 0
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert float(model(images(), [target([[5, 5, 40, 40]]), target([])])["loss_mask"].detach()) > 0


@pytest.mark.parametrize("strides", [(8, 16, 32), (32,)])
def test_masks_lie_over_the_input_whatever_its_size(strides):
    model = detector(strides).eval()
    with torch.no_grad():
        for height, width in ((96, 128), (90, 130)):
            for found in model(images(2, height, width)):
                count, rows, columns = found["masks"].shape
                assert count == len(found["boxes"]) == len(found["regions"])
                assert (rows - 2) * 4 == -(-height // strides[0]) * strides[0]
                assert (columns - 2) * 4 == -(-width // strides[0]) * strides[0]
                assert (found["regions"] == torch.tensor([-4.0, -4, columns * 4 - 4, rows * 4 - 4])).all()
                assert found["masks"].dtype == torch.float32 and ((0 <= found["masks"]) & (found["masks"] <= 1)).all()
            given = [target([[5, 5, 80, 89]], (height, width)), target([], (height, width))]
            assert all(value.isfinite() for value in model(images(2, height, width), given).values())
    assert model(images(0)) == []


def test_detections_have_the_masks_of_their_own_coefficients():
    model = detector().eval()
    with torch.no_grad():
        boxes, scores, coefficients, maps = model.exportable()(images())
        for i, found in enumerate(model(images())):
            for box, score, label, mask in zip(
                *(found[n][:5] for n in ("boxes", "scores", "labels", "masks")), strict=True
            ):
                clipped = boxes[i].clamp(torch.zeros(4), torch.full((4,), 96.0))
                row = ((clipped - box).abs().amax(1) + (scores[i, :, label] - score).abs()).argmin()
                torch.testing.assert_close(mask, assemble(coefficients[i, row][None], framed(maps[i], 4)[0])[0])


def test_bfloat16_is_finite_and_near_float32():
    model = detector().train()
    given = [target([[5, 5, 40, 40], [30, 30, 90, 90]]), target([[0, 0, 96, 96]])]
    exact = model(images(), given)["loss_mask"].detach()
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(images(), given)["loss_mask"]
    assert rough.dtype == torch.float32
    rough.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(rough.detach(), exact, rtol=0.05, atol=0.02)


def test_a_hundred_objects_an_image_need_little_memory(monkeypatch):
    with FakeTensorMode():
        device = torch.device("cuda")
        boxes = torch.rand(800, 4, device=device)
        given = [{"boxes": boxes[:100], "labels": torch.zeros(100, dtype=torch.int64, device=device)}] * 8
        made = []
        monkeypatch.setattr(prototypes.F, "embedding", lambda *a, f=F.embedding: made.append(f(*a)) or made[-1])
        coefficients, maps = torch.rand(8, 6300, 32, device=device), torch.rand(8, 32, 80, 80, device=device)
        pairs = Assignment(
            torch.zeros(800, 81, dtype=torch.int64, device=device), torch.ones(800, 81, device=device) > 0
        )
        loss = mask_loss(coefficients, maps, pairs, torch.rand(800, 81, device=device), flatten_targets(given, 8),
                         torch.rand(800, 80, 80, device=device), 4)  # fmt: skip
        assert loss.device.type == "cuda" and loss.ndim == 0
        assert sum(part.numel() * 4 for part in made) < 64e6


def test_without_masks_the_detector_is_what_it_was():
    plain, backbone = {}, create_backbone("test_efficientnet", pretrained=False, strides=(8, 16, 32))
    for masks in (False, True):
        torch.manual_seed(0)
        plain[masks] = YoloDetector(backbone, 3, torch.tensor(fit_anchors(SIZES, 3, 3)), width=16, masks=masks)
    names = set(plain[False].state_dict())
    assert names == {n for n in plain[True].state_dict() if "prototypes" not in n and "coefficients" not in n}
    assert not plain[False].finds_masks and plain[True].finds_masks
    assert set(plain[False].eval()(images())[0]) == {"boxes", "scores", "labels"}
    assert len(plain[False].exportable()(images())) == 2
