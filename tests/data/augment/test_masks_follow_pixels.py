"""Masks against the image itself: objects are painted in pure colours, and after any augmentation each mask must lie on
its colour, each box on its mask, and what is hardly visible must be ignored."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data.augment.copy_paste import copy_paste
from detseg.data.augment.geometry import Geometry
from detseg.data.augment.mosaic import mixup, mosaic
from detseg.data.augment.transforms import TrainTransform
from detseg.data.letterbox import EvalTransform
from detseg.data.sample import Sample
from tests.cases import case

PLAIN = {"flip": "none", "scale": (1.0, 1.0), "aspect": 0, "rotate": 0, "light": 0, "colour": 0, "blur": 0, "noise": 0}
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]])
OPTIONS = {
    "as it is": {},
    "mirrored": {"flip": "horizontal"},
    "upside down": {"flip": "vertical"},
    "both": {"flip": "both"},
    "smaller": {"scale": (0.5, 0.8)},
    "cut": {"scale": (1.5, 3.0)},
    "stretched": {"aspect": 0.5},
    "turned": {"rotate": 30.0},
    "all": {"flip": "both", "scale": (0.4, 2.5), "aspect": 0.3, "rotate": 180.0},
}


def painted(seed, count=6, first=0, size=(160, 120)):
    """Objects of several forms in cells of a black image: object k has colour `first` + k, and that label."""
    rng = np.random.default_rng(seed)
    image = np.zeros((size[1], size[0], 3), np.uint8)
    boxes, masks = np.zeros((count, 4), np.float32), np.zeros((count, size[1], size[0]), np.uint8)
    for k in range(count):
        x, y = k % 3 * size[0] // 3 + 2, k // 3 * size[1] // 2 + 2
        centre, radius = (x + 24, y + 26), rng.integers(12, 24, 2)
        if k % 3 == 0:
            cv2.ellipse(masks[k], centre, radius.tolist(), 0, 0, 360, 1, -1)
        elif k % 3 == 1:  # a ring
            cv2.circle(masks[k], centre, int(radius[0]), 1, 7)
        else:  # an L
            masks[k, y + 5 : y + 45, x + 5 : x + 16] = masks[k, y + 34 : y + 45, x + 5 : x + 40] = 1
        image[masks[k] > 0] = COLOURS[first + k]
        left, top, width, height = cv2.boundingRect(masks[k])
        boxes[k] = left, top, left + width, top + height
    return Sample(image, boxes, first + np.arange(count), np.zeros(count, bool), masks=masks)


def check(out):
    """Masks lie on their colours but for a border of one pixel, boxes on masks."""
    near = np.ones((3, 3), np.uint8)
    for k, (label, mask) in enumerate(zip(out.labels, out.masks, strict=True)):
        distance = np.abs(out.image.astype(int) - COLOURS[label]).max(2)
        assert not (cv2.erode(mask, near, borderValue=0) > 0)[distance > 100].any(), "only its colour is inside"
        alike = out.masks[out.labels == label].any(0).astype(np.uint8)  # a mosaic has several of a colour
        assert (cv2.dilate(alike, near) > 0)[distance < 100].all(), "all of its colour is inside"
        check_box(out.boxes[k], mask, out.iscrowd[k])


def check_box(box, mask, crowd, tight=1.6):
    """A box holds its mask and, of an object that is asked for, is tight."""
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return
    hull = np.array([left, top, left + width, top + height])
    assert (hull[:2] >= box[:2] - 1.01).all() and (hull[2:] <= box[2:] + 1.01).all(), (box, hull)
    assert crowd or np.abs(hull - box).max() <= tight, (box, hull)


@pytest.mark.parametrize("name", OPTIONS)
def test_geometry(name):
    transform = TrainTransform(160, **PLAIN | OPTIONS[name])
    for seed in range(12):
        with case(seed):
            check(transform(painted(seed), np.random.default_rng(seed)))


def test_mosaic():
    geometry = Geometry(scale=(0.5, 1.2), rotate=10.0)
    for seed in range(12):
        with case(seed):
            check(mosaic([painted(10 * seed + k) for k in range(4)], 160, np.random.default_rng(seed), geometry))


def test_mixup():
    transform = TrainTransform(160, **PLAIN | OPTIONS["all"])
    for seed in range(4):
        a, b = (transform(painted(seed, 3, first), np.random.default_rng(first)) for first in (0, 3))
        out = mixup(a, b, np.random.default_rng(seed))
        count = len(a.labels)
        np.testing.assert_array_equal(out.masks[:count], a.masks)
        np.testing.assert_array_equal(out.masks[count:], b.masks)


@pytest.mark.parametrize("size", [48, 100, 160, 300])
def test_letterbox(size):
    check(EvalTransform(size)(painted(size))[0])


def test_copy_paste():
    seen, kept = 0, 0
    for seed in range(20):
        with case(seed):
            rng = np.random.default_rng(seed)
            transform = TrainTransform(160, **PLAIN | {"scale": (0.5, 2.0), "rotate": 20.0})
            onto, other = transform(painted(seed, 3), rng), transform(painted(seed + 1, 3, 3), rng)
            before = [array.copy() for array in (onto.image, onto.masks, onto.boxes, other.masks)]
            out = transform.copy_paste(onto, other, rng)
            check(out)
            pasted = out.labels >= 3
            assert 1 <= pasted.sum() <= (~other.iscrowd).sum() and not out.iscrowd[pasted].any()
            assert (out.masks.sum(0) <= 1).all(), "what is covered is cut"
            rows = [other.labels.tolist().index(label) for label in out.labels[pasted]]
            np.testing.assert_array_equal(out.masks[pasted], other.masks[rows])
            np.testing.assert_array_equal(out.boxes[pasted], other.boxes[rows])
            covered = other.masks[rows].any(0)
            np.testing.assert_array_equal(out.image, np.where(covered[..., None], other.image, onto.image))
            for row, label in enumerate(onto.labels):
                share = (onto.masks[row] > covered).sum() / onto.masks[row].sum()
                found = np.flatnonzero(out.labels == label)
                assert len(found) == (share > 0 or onto.iscrowd[row])
                for k in found:
                    np.testing.assert_array_equal(out.masks[k], onto.masks[row] > covered)
                    small = (out.boxes[k, 2:] - out.boxes[k, :2]).min() < 2
                    assert out.iscrowd[k] == (onto.iscrowd[row] or share < 0.3 or (small and share < 1))
                    seen, kept = seen + (share < 1), kept + (share == 1)
            for array, was in zip((onto.image, onto.masks, onto.boxes, other.masks), before, strict=True):
                np.testing.assert_array_equal(array, was)
    assert seen > 10 and kept > 10


def test_pasting_over_objects_without_masks_and_crowds_by_hand():
    """One object covers the left half of the image."""
    image, box = np.zeros((20, 40, 3), np.uint8), np.array([[0, 0, 20, 20]], np.float32)
    half = np.zeros((1, 20, 40), np.uint8)
    half[:, :, :20] = 1
    other = Sample(np.full_like(image, 255), box, np.array([9]), np.array([False]), masks=half)
    boxes = np.array([[2, 2, 12, 12], [10, 2, 22, 12], [15, 2, 35, 12], [2, 2, 12, 12], [14, 2, 30, 12]], np.float32)
    masks = np.zeros((5, 20, 40), np.uint8)
    masks[4, 2:12, 14:30] = 1  # only this one has a mask; the fourth is a crowd
    onto = Sample(image, boxes, np.arange(5), np.array([0, 0, 0, 1, 0], bool), masks=masks)
    out = copy_paste(onto, other, np.random.default_rng(0))
    assert out.labels.tolist() == [1, 2, 3, 4, 9], "of the first nothing is left to be seen"
    assert out.iscrowd.tolist() == [True, False, True, False, False]
    assert out.boxes.tolist() == [*boxes[1:4].tolist(), [20, 2, 30, 12], [0, 0, 20, 20]]
    assert out.masks[3].sum() == 100
    for nothing in (np.array([True]), np.array([False])):  # a crowd is not pasted, nor what has no mask
        empty = Sample(other.image, box, np.array([9]), nothing, masks=half if nothing[0] else np.zeros_like(half))
        assert copy_paste(onto, empty, np.random.default_rng(0)) is onto
    bare = Sample(image, boxes, np.arange(5), onto.iscrowd)
    for pair, message in (
        ((bare, other), "copy-paste needs the instance masks of both images"),
        ((onto, EvalTransform(10)(other)[0]), r"needs two images of one size, got \(40, 20\) and \(10, 10\)"),
        ((Sample(image, boxes, np.arange(5), onto.iscrowd, image[..., 0], masks), other), "semantic masks"),
    ):
        with pytest.raises(ValueError, match=message):
            copy_paste(*pair, np.random.default_rng(0))


def test_the_share_of_the_mask_decides_in_a_crop():
    """Geometry at its own scale only cuts, so shares are counts of pixels."""
    geometry, ignored, left_out = Geometry(flip="none", scale=(1, 1), aspect=0, rotate=0), 0, 0
    for seed in range(40):
        sample = painted(seed)
        out = geometry(sample, (70, 60), np.random.default_rng(seed), unit=160)
        for label in range(6):
            found = np.flatnonzero(out.labels == label)
            share = out.masks[found].sum() / sample.masks[label].sum()
            for k in found:
                check_box(out.boxes[k], out.masks[k], False, tight=1)
                assert out.iscrowd[k] == (share < 0.3 or (out.boxes[k, 2:] - out.boxes[k, :2]).min() < 2)
                ignored += out.iscrowd[k]
            left_out += not len(found)
        assert all(mask.any() for mask in out.masks), "of what is kept something is visible"
    assert ignored > 5 and left_out > 50


@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.6, 3),
    rotate=st.floats(0, 180),
    aspect=st.floats(0, 1),
    size=st.sampled_from([64, 100, 160]),
    kind=st.sampled_from(["one", "mosaic", "pasted"]),
)
@settings(max_examples=60, deadline=None)
def test_boxes_are_those_of_their_masks_after_anything(seed, scale, rotate, aspect, size, kind):
    rng = np.random.default_rng(seed)
    transform = TrainTransform(
        size, **PLAIN | {"flip": "both", "scale": (scale, 3), "rotate": rotate, "aspect": aspect}
    )
    samples = [painted((seed, k)) for k in range(4)]
    out = transform.mosaic(samples, rng) if kind == "mosaic" else transform(samples[0], rng)
    if kind == "pasted":
        out = transform.copy_paste(out, transform(samples[1], rng), rng)
    assert out.masks.shape == (len(out.boxes), size, size)
    for box, mask, crowd in zip(out.boxes, out.masks, out.iscrowd, strict=True):
        check_box(box, mask, crowd)
