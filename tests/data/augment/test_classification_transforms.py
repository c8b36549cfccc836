"""Crops and augmentations of classifiers, against torchvision, OpenCV and cases that are exact."""

import itertools
import math

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as oracle

from detseg.data.augment.classification_transforms import (
    ClassificationEval,
    ClassificationTransform,
    TenCrop,
    centre_crop,
    resize_short_side,
    ten_crop,
    warp_corners,
)
from detseg.data.augment.strengths import OF_CLASSES


def make_image(height, width, seed=0, smooth=8):
    small = np.random.default_rng(seed).integers(0, 256, (height // smooth + 2, width // smooth + 2, 3), np.uint8)
    return np.ascontiguousarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def alone(size=32, **options):
    off = {entry.option: entry.off for entry in OF_CLASSES.values()}
    return ClassificationTransform(size, **({"flip": "none"} | off | options))


def rng(seed=0):
    return np.random.default_rng(seed)


# ------------------------------------------------------------------ crops


def test_ten_crop_is_that_of_torchvision():
    for (height, width), size in itertools.product([(7, 7), (7, 8), (9, 8), (13, 20), (40, 7)], [1, 4, 7]):
        image = make_image(height, width)
        wanted = oracle.ten_crop(torch.from_numpy(image).permute(2, 0, 1), [size, size])
        found = ten_crop(image, size)
        assert found.dtype == np.uint8 and found.shape == (10, size, size, 3)
        np.testing.assert_array_equal(found, torch.stack(list(wanted)).permute(0, 2, 3, 1).numpy())
        np.testing.assert_array_equal(centre_crop(image, size), found[4])


def test_ten_crop_is_symmetric():
    image = make_image(20, 30)
    a, b = ten_crop(image, 12), ten_crop(np.ascontiguousarray(image[:, ::-1]), 12)
    np.testing.assert_array_equal(a[:5], b[5:])


def test_a_crop_larger_than_the_image():
    with pytest.raises(ValueError, match="a crop of 8 x 8 does not fit an image of 20 x 7; enlarge it first"):
        ten_crop(make_image(7, 20), 8)
    with pytest.raises(ValueError, match="does not fit"):
        centre_crop(make_image(20, 7), 8)


def test_images_of_all_shapes_come_out_square():
    transform = ClassificationTransform(48)
    for height, width in [(300, 400), (500, 256), (256, 256), (31, 17), (1, 1), (3, 200)]:
        image = make_image(height, width)
        assert ClassificationEval(224)(image).shape == (224, 224, 3)
        assert TenCrop(56)(image).shape == (10, 56, 56, 3)
        for seed in range(4):
            found = transform(image, rng(seed))
            assert found.shape == (48, 48, 3) and found.dtype == np.uint8 and found.flags.c_contiguous


def test_the_short_side_is_resized():
    assert resize_short_side(make_image(60, 90), 30).shape == (30, 45, 3)
    assert resize_short_side(make_image(90, 60), 120).shape == (180, 120, 3)
    image = make_image(30, 50)
    assert resize_short_side(image, 30) is image
    np.testing.assert_array_equal(
        resize_short_side(image, 15), cv2.resize(image, (25, 15), interpolation=cv2.INTER_AREA)
    )
    assert ClassificationEval(224)(make_image(256, 300)).tobytes() == make_image(256, 300)[16:240, 38:262].tobytes()


# ------------------------------------------------------------------ the warp


def test_whole_pixels_are_copied():
    image = make_image(40, 50, smooth=1)
    x, y, side = 7, 5, 24
    corners = np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], np.float64)
    np.testing.assert_array_equal(warp_corners(image, corners, side), image[y : y + side, x : x + side])
    np.testing.assert_array_equal(
        warp_corners(image, corners[[1, 0, 3, 2]], side), image[y : y + side, x : x + side][:, ::-1]
    )
    quarter = corners[[3, 0, 1, 2]]  # the square's top left comes from the bottom left: turned by 90 degrees
    np.testing.assert_array_equal(warp_corners(image, quarter, side), np.rot90(image[y : y + side, x : x + side], -1))


def test_what_lies_outside_is_the_mirror_image():
    image = make_image(16, 16, smooth=1)
    corners = np.array([[-4, 0], [12, 0], [12, 16], [-4, 16]], np.float64)
    wanted = np.pad(image, ((0, 0), (4, 0), (0, 0)), mode="reflect")[:, :16]
    np.testing.assert_array_equal(warp_corners(image, corners, 16), wanted)


def test_shrinking_averages():
    for side in (48, 72, 120):
        image = make_image(side, side, smooth=1)
        corners = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float64)
        wanted = cv2.resize(image, (24, 24), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(warp_corners(image, corners, 24).astype(int), wanted, atol=1)


def test_perspective_maps_the_corners_where_they_belong():
    """A plane of gradients: each pixel of the result tells the place it comes from."""
    y, x = np.mgrid[0:200, 0:200]
    image = np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)
    corners = np.array([[20, 10], [180, 40], [150, 190], [30, 160]], np.float64)
    found = warp_corners(image, corners, 150).astype(float)
    homography = cv2.getPerspectiveTransform(
        np.array([[0, 0], [150, 0], [150, 150], [0, 150]], np.float32), corners.astype(np.float32)
    )
    for i, j in ((0, 0), (0, 149), (149, 149), (149, 0), (75, 75), (20, 130)):
        u, v, w = homography @ (j + 0.5, i + 0.5, 1)
        np.testing.assert_allclose(found[i, j, :2], [u / w - 0.5, v / w - 0.5], atol=1.0)


# ------------------------------------------------------------------ what is drawn


def test_with_all_off_it_is_the_centre_crop():
    image = make_image(128, 160)
    found, wanted = alone(112)(image, rng()), ClassificationEval(112)(image)
    np.testing.assert_array_equal(found, wanted)
    large = make_image(300, 376, smooth=20)
    difference = alone(112)(large, rng()).astype(int) - ClassificationEval(112)(large)
    assert np.abs(difference).mean() < 1, "the same up to how pixels are averaged"


def test_a_patch_is_a_window_without_scaling():
    image = make_image(128, 160, smooth=1)
    transform = alone(112, patch=True)
    lefts, tops = [], []
    for seed in range(200):
        x, y = transform.corners(160, 128, rng(seed))[0]
        lefts.append(x)
        tops.append(y)
    assert 0 <= min(lefts) < 3 and 45 < max(lefts) <= 48 and 0 <= min(tops) < 1 and 15 < max(tops) <= 16
    corners = transform.corners(160, 128, rng(1))
    assert (corners[2] - corners[0]).tolist() == pytest.approx([112, 112])
    window = cv2.getRectSubPix(image, (112, 112), (corners.mean(0) - 0.5).tolist())
    assert np.abs(window.astype(int) - transform(image, rng(1))).max() <= 6


def test_windows_of_random_area():
    transform = alone(32, area=(0.2, 0.5))
    for seed in range(300):
        corners = transform.corners(300, 280, rng(seed))
        (left, top), (right, bottom) = corners[0], corners[2]
        assert -1e-9 <= left < right <= 300 + 1e-9 and -1e-9 <= top < bottom <= 280 + 1e-9
        width, height = right - left, bottom - top
        assert 0.2 - 1e-9 <= width * height / (300 * 280) <= 0.5 + 1e-9
        assert 3 / 4 - 1e-9 <= width / height <= 4 / 3 + 1e-9


def test_windows_of_thin_images_are_cut_to_them():
    transform = alone(32, area=(0.9, 1.0))
    for seed in range(50):
        corners = transform.corners(500, 20, rng(seed))
        assert corners.min() >= -1e-9 and corners[:, 1].max() <= 20 + 1e-9 and corners[:, 0].max() <= 500


def test_flips():
    image = make_image(128, 128)
    plain = alone(112)(image, rng())
    for flip, ways in {
        "none": {(1, 1)},
        "horizontal": {(1, 1), (1, -1)},
        "vertical": {(1, 1), (-1, 1)},
        "both": {(1, 1), (1, -1), (-1, 1), (-1, -1)},
    }.items():
        transform, counts = alone(112, flip=flip), dict.fromkeys(ways, 0)
        for seed in range(200):
            found = transform(image, rng(seed))
            (way,) = (way for way in ways if np.array_equal(found, plain[:: way[0], :: way[1]]))
            counts[way] += 1
        assert all(abs(count - 200 / len(ways)) < 35 for count in counts.values()), (flip, counts)
    still = alone(112)
    assert all(np.array_equal(still(image, rng(seed)), plain) for seed in range(20))


def test_rotation_keeps_the_shape_of_the_window():
    transform = alone(112, rotate=30)
    angles = []
    for seed in range(300):
        corners = transform.corners(128, 128, rng(seed))
        edge = corners[1] - corners[0]
        assert np.hypot(*edge) == pytest.approx(112)
        assert edge @ (corners[3] - corners[0]) == pytest.approx(0, abs=1e-9)
        np.testing.assert_allclose(corners.mean(0), [64, 64])
        angles.append(math.degrees(math.atan2(edge[1], edge[0])))
    assert -30 <= min(angles) < -27 and 27 < max(angles) <= 30


def test_zoom_looks_at_a_part_of_the_window():
    transform = alone(112, zoom=2)
    sides = []
    for seed in range(300):
        corners = transform.corners(128, 128, rng(seed))
        assert corners.min() >= 8 - 1e-9 and corners.max() <= 120 + 1e-9
        sides.append(corners[1, 0] - corners[0, 0])
    assert 56 <= min(sides) < 58 and 110 < max(sides) <= 112


def test_warp_moves_each_corner_by_itself():
    transform = alone(112, warp=0.2)
    plain = alone(112).corners(128, 128, rng())
    shifts = np.array([transform.corners(128, 128, rng(seed)) - plain for seed in range(300)]) / 112
    assert (np.abs(shifts) <= 0.2 + 1e-9).all()
    assert (shifts.min(0) < -0.18).all() and (shifts.max(0) > 0.18).all()
    correlations = np.corrcoef(shifts.reshape(300, 8).T) - np.eye(8)
    assert np.abs(correlations).max() < 0.2


def test_light_and_the_like_leave_the_place_alone():
    image = make_image(128, 128)
    plain = alone(112)(image, rng())
    for options in ({"light": 0.3}, {"colour": 0.5}, {"blur": 1.0}, {"noise": 1.0}):
        found = alone(112, **options)(image, rng(3))
        assert not np.array_equal(found, plain)
        assert np.corrcoef(found.ravel(), plain.ravel())[0, 1] > 0.5


def test_the_same_state_gives_the_same_image():
    transform, image = ClassificationTransform(64), make_image(90, 120)
    before = image.copy()
    images = [transform(image, rng(seed)) for seed in range(20)]
    for seed in (3, 0, 19):
        np.testing.assert_array_equal(transform(image, rng(seed)), images[seed])
    assert len({p.tobytes() for p in images}) == 20
    np.testing.assert_array_equal(image, before)


def test_options_out_of_range():
    for options, message in (
        ({"patch": True}, "not both"),
        ({"size": 0}, "size must be at least 1"),
        ({"area": (0, 1)}, "area must be"),
        ({"area": (0.5, 1.1)}, "area must be"),
        ({"flip": "left"}, "flip must be one of none, horizontal, vertical, both"),
        ({"noise": -0.1}, r"noise must lie in 0\.\.1"),
        ({"zoom": 0.9}, "zoom=0.9"),
        ({"warp": 0.5}, "warp=0.5"),
        ({"rotate": -1}, "rotate=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            ClassificationTransform(**({"size": 32} | options))
    with pytest.raises(ValueError, match="size must be at least 1"):
        ClassificationEval(0)
