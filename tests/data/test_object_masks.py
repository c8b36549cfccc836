"""Object masks in one map, and their outlines, against pycocotools and SciPy."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco
from scipy import ndimage

from detseg.data.object_masks import number_map, outlines, placed, window


def coded(masks):
    return list(coco.encode(np.asfortranarray(np.transpose(masks, (1, 2, 0)).astype(np.uint8))))


def drawn(polygons, shape):
    return coco.decode(coco.merge(coco.frPyObjects(polygons, *map(int, shape)))).astype(bool)


def blobs(rng, height, width):
    return cv2.GaussianBlur(rng.random((height, width)).astype(np.float32), (0, 0), 4) > 0.5


def test_exact_outlines_are_the_mask_with_its_holes_filled():
    rng = np.random.default_rng(0)
    for turn in range(120):
        height, width = rng.integers(1, 50, 2)
        mask = blobs(rng, height, width) if turn % 2 else rng.random((height, width)) > rng.choice([0.2, 0.5, 0.8])
        found = outlines(mask, 0)
        if not mask.any():
            assert found == []
            continue
        assert (drawn(found, mask.shape) == ndimage.binary_fill_holes(mask)).all()
        assert len(found) <= ndimage.label(mask, np.ones((3, 3)))[1], "one for each part that is in no hole"
        assert outlines(coded(mask[None])[0], 0) == found


def test_outlines_have_few_points_and_stay_near_the_border():
    rows, columns = np.mgrid[:200, :300]
    disc = (rows - 90) ** 2 + (columns - 140) ** 2 < 70**2
    (polygon,) = outlines(disc)
    assert len(polygon) < len(outlines(disc, 0)[0]) / 2
    shown = drawn([polygon], disc.shape)
    assert (shown & disc).sum() / (shown | disc).sum() > 0.99
    border = cv2.dilate(disc.astype(np.uint8), np.ones((3, 3))) != cv2.erode(disc.astype(np.uint8), np.ones((3, 3)))
    assert not ((shown != disc) & ~border).any()


def test_parts_by_size_and_the_smallest():
    mask = np.zeros((40, 60), bool)
    mask[3, 7] = True
    mask[10:30, 20:50] = True
    mask[15:20, 30:35] = False  # a hole, with an island
    mask[17, 32] = True
    assert outlines(mask) == [[20, 10, 20, 30, 50, 30, 50, 10], [7, 3, 7, 4, 8, 4, 8, 3]]
    assert outlines(np.zeros((5, 5), bool)) == []
    assert outlines(np.ones((5, 5), bool)) == [[0, 0, 0, 5, 5, 5, 5, 0]]


def test_the_first_of_several_objects_has_the_pixel():
    masks = np.zeros((3, 6, 8), bool)
    masks[0, 1:3, 1:4] = masks[1, 2:5, 2:7] = True
    expected = np.zeros((6, 8), int)
    expected[masks[1]] = 2
    expected[masks[0]] = 1
    for given in (masks, masks.astype(np.uint8) * 255, coded(masks)):
        numbers = number_map(given, (6, 8, 3))
        assert numbers.dtype == np.uint16 and numbers.flags.c_contiguous
        assert (numbers == expected).all()
    for nothing in ([], np.zeros((0, 6, 8), bool)):
        assert not number_map(nothing, (6, 8)).any()
    many = np.zeros((300, 1, 300), bool)
    many[np.arange(300), 0, np.arange(300)] = True
    assert number_map(many, (1, 300)).tolist() == [list(range(1, 301))]
    for given in (masks, coded(masks)):
        assert [window(mask)[:2] for mask in given] == [(1, 1), (2, 2), (0, 0)]
        assert [window(mask)[2].shape for mask in given] == [(2, 3), (3, 5), (0, 0)]
        assert window(given[1])[2].all()


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"masks must have shape \(1, 6, 8\), got \(1, 6, 9\)"):
        number_map(np.zeros((1, 6, 9)), (6, 8, 3))
    with pytest.raises(ValueError, match=r"masks must have shape \(2, 8, 6\), got \(2, 6, 8\)"):
        number_map(coded(np.zeros((2, 6, 8))), (8, 6))


def test_parts_of_a_mask_are_placed_as_if_the_whole_were_coded():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 12, (200, 2)).tolist():
        top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
        below, right = int(rng.integers(top, height + 1)), int(rng.integers(left, width + 1))
        part = rng.random((below - top, right - left)) < rng.choice([0, 0.5, 0.9, 1])
        whole = np.zeros((height, width), np.uint8, order="F")
        whole[top:below, left:right] = part
        assert placed(left, top, part, (height, width, 3)) == coco.encode(whole)
