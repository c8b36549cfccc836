"""Regions over the maps of a pyramid, against torchvision's."""

import torch
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from detseg.detect.roi import _by_torchvision, align, level_of


def boxes_of(count, size, generator):
    low = torch.rand(count, 2, generator=generator) * size * 0.9
    sides = torch.rand(count, 2, generator=generator).square() * size
    return torch.cat([low, (low + sides).clamp(max=size)], 1)


def test_levels_are_torchvisions():
    generator = torch.Generator().manual_seed(0)
    boxes = boxes_of(2000, 1000, generator)
    edges = torch.tensor([[0.0, 0.0, side, side] for side in (0, 1, 111.9, 112, 223.9, 224, 448, 896, 2000)])
    boxes = torch.cat([boxes, edges])
    for strides in ((4, 8, 16, 32), (8, 16, 32), (32, 32), (16,)):
        first, last = (torch.tensor(strides).float().log2().int().tolist()[i] for i in (0, -1))
        assert torch.equal(level_of(boxes, strides), LevelMapper(first, last)([boxes]))


def test_features_and_gradients_are_torchvisions():
    generator = torch.Generator().manual_seed(1)
    size, strides = 160, (4, 8, 16)
    maps = [torch.randn(2, 3, size // s, size // s, generator=generator, requires_grad=True) for s in strides]
    boxes = [boxes_of(40, size, generator), boxes_of(1, size, generator)]
    boxes[0][:3] = torch.tensor([[0, 0, 0, 0], [0, 0, size, size], [size - 1, size - 1, size, size]])
    image = torch.tensor([0] * 40 + [1])
    theirs = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)({str(i): x for i, x in enumerate(maps)}, boxes, [(size, size)])
    ours = align(maps, strides, torch.cat(boxes), image, 7)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(ours.shape, generator=generator)
    expected = torch.autograd.grad((theirs * weights).sum(), maps)
    for a, b in zip(torch.autograd.grad((ours * weights).sum(), maps), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_both_ways_are_the_same():
    generator = torch.Generator().manual_seed(2)
    strides, boxes = (8, 16), boxes_of(30, 96, generator)
    maps = [torch.randn(2, 5, 96 // s, 96 // s, generator=generator) for s in strides]
    image = torch.randint(0, 2, (30,), generator=generator)
    for size, sampling in ((7, 2), (14, 1)):
        ours = align(maps, strides, boxes, image, size, sampling=sampling)
        level = level_of(boxes, strides)
        torch.testing.assert_close(ours, _by_torchvision(maps, strides, boxes, image, level, size, sampling))


def test_no_regions_still_have_a_gradient():
    maps = [torch.randn(1, 3, 8, 8, requires_grad=True)]
    found = align(maps, [8], torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 7)
    assert found.shape == (0, 3, 7, 7)
    found.sum().backward()
    assert not maps[0].grad.any()
