"""Masks laid into images, against a loop over pixels."""

import math

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from detseg.detect.masks import paste_masks, paste_run_lengths


def at(mask, x, y):
    """Bilinear between the centres of cells, 0 beyond."""
    height, width = mask.shape
    total = 0.0
    for row in (math.floor(y - 0.5), math.floor(y - 0.5) + 1):
        for column in (math.floor(x - 0.5), math.floor(x - 0.5) + 1):
            weight = (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
            if 0 <= row < height and 0 <= column < width:
                total += weight * float(mask[row, column])
    return total


def slow(mask, region, box, size):
    x1, y1, x2, y2 = region
    result = torch.zeros(size, dtype=torch.bool)
    for row in range(size[0]):
        for column in range(size[1]):
            x, y = column + 0.5, row + 0.5
            if box[0] <= x < box[2] and box[1] <= y < box[3]:
                value = at(mask, (x - x1) / (x2 - x1) * mask.shape[1], (y - y1) / (y2 - y1) * mask.shape[0])
                result[row, column] = value > 0.5
    return result


@pytest.mark.parametrize("whole", [True, False])
def test_a_loop_over_pixels_says_the_same(whole):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 5, 7, generator=generator)
    boxes = torch.tensor([[2.2, 3.6, 20.1, 18.9], [-4, -3, 9, 11], [20, 10, 40, 40], [5.5, 5.5, 6.5, 6.5],
                          [8, 8, 8, 12], [0, 0, 30, 24]])  # fmt: skip
    regions = torch.tensor([[-2.0, 0, 31, 24]]).expand(6, 4) if whole else boxes
    found = paste_masks(masks, regions, boxes, (24, 30))
    for i in range(6):
        if (boxes[i, 2:] > boxes[i, :2]).all():
            assert torch.equal(found[i], slow(masks[i], regions[i].tolist(), boxes[i].tolist(), (24, 30))), i
        else:
            assert not found[i].any()


def test_none_many_and_no_size():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), torch.zeros(0, 4), (9, 5)).shape == (0, 9, 5)
    many = torch.tensor([[1.0, 1, 4, 4]]).expand(300, 4)
    assert paste_masks(torch.ones(300, 28, 28), many, many, (9, 5)).sum() == 300 * 9


def test_run_lengths_are_those_of_the_pasted_masks():
    g = torch.Generator().manual_seed(3)
    height, width = 23, 31
    corner = torch.rand(60, 2, generator=g) * 30 - 5
    boxes = torch.cat([corner, corner + torch.rand(60, 2, generator=g) * 30], 1)
    boxes[0] = torch.tensor([0.0, 0, width, height])  # columns that join
    boxes[1] = torch.tensor([50.0, 0, 60, 9])  # outside
    boxes[2] = torch.tensor([4.0, 4, 4, 9])  # without an area
    masks = [torch.rand(*torch.randint(1, 9, (2,), generator=g).tolist(), generator=g) for _ in boxes]
    masks[0] = torch.ones(3, 3)
    regions = boxes.clone()
    regions[0] += torch.tensor([-20.0, -20, 20, 20])
    regions[3:20] = torch.tensor([0.0, 0, width, height])
    pasted = paste_masks(masks, regions, boxes, (height, width))
    found = paste_run_lengths(masks, regions, boxes, (height, width))
    expected = coco.encode(np.asfortranarray(pasted.permute(1, 2, 0).numpy().astype(np.uint8)))
    assert found == [{**code, "size": list(code["size"])} for code in expected]
    assert pasted[0].all() and not pasted[1:3].any() and pasted[3:].flatten(1).any(1).sum() > 40
    assert paste_run_lengths(torch.zeros(0, 4, 4), torch.zeros(0, 4), torch.zeros(0, 4), (9, 9)) == []


@pytest.mark.parametrize("size", [(24, 30), (1, 1), (61, 40)])
def test_run_lengths_are_those_of_pycocotools(size):
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(40, 9, 7, generator=generator) > 0.4
    masks[0], masks[1] = False, True
    corners = torch.rand(40, 2, generator=generator) * torch.tensor(size[::-1]) - 4
    boxes = torch.cat([corners, corners + torch.rand(40, 2, generator=generator) * 30], 1)
    boxes[:8] = torch.tensor([0.0, 0, size[1], size[0]])  # runs that go on from column to column
    boxes[8:12] = torch.tensor([3.0, 0, 9, size[0]])
    regions = boxes.clone()
    regions[4:8] += torch.tensor([-9.0, -9, 9, 9])
    drawn = paste_masks(masks, regions, boxes, size)
    coded = coco.encode(np.asfortranarray(drawn.numpy().view(np.uint8).transpose(1, 2, 0)))
    assert paste_run_lengths(masks, regions, boxes, size) == [{**code, "size": list(code["size"])} for code in coded]


def test_run_lengths_of_an_image_of_many_megapixels():
    masks, boxes = torch.ones(2, 3, 3), torch.tensor([[10.0, 2000, 3990, 2500], [7000, 11000, 7900, 11990]])
    coded = paste_run_lengths(masks, boxes + torch.tensor([-1e4, -1e4, 1e4, 1e4]), boxes, (12000, 8000))
    assert coco.area(coded).tolist() == [3980 * 500, 900 * 990]
    assert coco.toBbox(coded).tolist() == [[10, 2000, 3980, 500], [7000, 11000, 900, 990]]
