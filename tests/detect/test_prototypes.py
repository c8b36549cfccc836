"""Masks of prototypes and coefficients: against loops over objects and pixels, by hand, edges, any device."""

import pytest
import torch
from torch.nn import functional as F

from detseg.backbones import create_backbone
from detseg.detect import YoloDetector, fit_anchors
from detseg.detect.assign import Assignment
from detseg.detect.masks import paste_masks
from detseg.detect.model import flatten_targets
from detseg.detect.prototypes import (
    FEWEST,
    LEARNERS,
    MASK,
    MOST,
    SURE,
    assemble,
    framed,
    mask_loss,
    masks_at,
    places_in,
    prototype_stride,
)

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
        torch.testing.assert_close(found[i], (total.clamp(-SURE, SURE) / SURE + 1) / 2)
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


def test_a_target_without_its_masks_is_refused():
    given = target([[0, 0, 10, 12], [3, 2, 21, 17]])
    with pytest.raises(ValueError, match="target 0 has 2 objects and no masks"):
        masks_at([{name: value for name, value in given.items() if name != "masks"}], places_in(given["boxes"]))
    with pytest.raises(ValueError, match=r"target 0 has 2 objects and masks of shape \(1, 96, 96\)"):
        masks_at([given | {"masks": given["masks"][:1]}], places_in(given["boxes"]))


def test_places_are_fewer_where_objects_are_many():
    for count, side in ((0, MOST), (1, MOST), (100, 22), (800, FEWEST)):
        boxes = torch.tensor([[2.0, 3, 2 + side, 3 + 2 * side]]).repeat(count, 1)
        places = places_in(boxes)
        assert places.shape == (count, side * side, 2)
        if count:
            assert places[-1, :2].tolist() == [[2.5, 4], [3.5, 4]] and places[0, side].tolist() == [2.5, 6]


def slow_loss(coefficients, maps, assignment, fit, objects, targets, stride):
    losses, masks = [], [mask for one in targets for mask in one["masks"]]
    for m in range(len(objects.boxes)):
        if objects.iscrowd[m]:
            continue
        places = places_in(objects.boxes)[m]
        wanted = torch.stack([masks[m][int(y), int(x)].float() for x, y in places.tolist()])
        if not wanted.any():
            continue
        height, width = maps.shape[2] * stride, maps.shape[3] * stride
        grid = places / torch.tensor([width, height]) * 2 - 1
        values = F.grid_sample(
            maps[objects.image[m]][None], grid[None, None], align_corners=False, padding_mode="border"
        )[0, :, 0]
        order = sorted((c for c in range(fit.shape[1]) if assignment.chosen[m, c]), key=lambda c: -float(fit[m, c]))
        for c in order[:LEARNERS]:
            own = coefficients.flatten(0, 1)[assignment.prediction[m, c]]
            losses.append(F.binary_cross_entropy_with_logits(own @ values, wanted))
    return MASK * torch.stack(losses).mean()


def test_the_loss_of_a_loop_over_objects_and_predictions():
    generator = torch.Generator().manual_seed(1)
    coefficients = torch.randn(2, 30, 5, generator=generator).requires_grad_()
    maps = torch.randn(2, 5, 16, 20, generator=generator).requires_grad_()
    given = [target([[3, 5, 40, 60], [10, 10, 17, 14], [50, 2, 79, 63]], (64, 80), empty=[2])]
    given.append(target([[0, 0, 80, 64], [20, 20, 60, 50]], (64, 80), crowd=[False, True]))
    objects = flatten_targets(given, 2)
    prediction = torch.randint(0, 30, (5, 8), generator=generator) + objects.image[:, None] * 30
    chosen = torch.rand(5, 8, generator=generator) > torch.tensor([0.2, 0.7, 0.5, 0.5, 0.5])[:, None]
    fit = torch.rand(5, 8, generator=generator)
    arguments = coefficients, maps, Assignment(prediction, chosen), fit, objects, given, 4
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
