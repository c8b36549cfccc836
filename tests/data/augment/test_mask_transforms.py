"""Masks move with their images: each is compared with the image of the same shapes after every transform."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data.augment.geometry import Geometry, warp_mask
from detseg.data.augment.mosaic import mixup, mosaic
from detseg.data.augment.transforms import TrainTransform
from detseg.data.letterbox import EvalTransform, fitted_size, letterbox_mask, resize_mask
from detseg.data.sample import IGNORE, Sample

OFF = {
    "flip": "none",
    "scale": (1.0, 1.0),
    "aspect": 0.0,
    "rotate": 0.0,
    "light": 0,
    "colour": 0,
    "blur": 0,
    "noise": 0,
}
GEOMETRY = {
    "none": {},
    "flip": {"flip": "horizontal"},
    "flip both": {"flip": "both"},
    "zoom in": {"scale": (1.2, 2.5)},
    "zoom out": {"scale": (0.55, 0.9)},
    "far out": {"scale": (0.15, 0.3)},
    "aspect": {"aspect": 0.6},
    "rotation": {"rotate": 180.0},
    "together": {"flip": "horizontal", "scale": (0.3, 1.5), "aspect": 0.2, "rotate": 30.0},
}
SHAPES = [(160, 160), (160, 97), (75, 160), (90, 61), (400, 310), (1, 1), (3, 200)]


def draw(width: int, height: int, seed: int = 0) -> Sample:
    """Red ellipse (class 1) and green rectangle (class 2) on black (class 0)."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    cx, cy = width * rng.uniform(0.3, 0.6), height * rng.uniform(0.3, 0.6)
    mask = np.zeros((height, width), np.uint8)
    mask[((x - cx) / (0.3 * width)) ** 2 + ((y - cy) / (0.25 * height)) ** 2 <= 1] = 1
    mask[int(0.7 * height) : int(0.95 * height), int(0.1 * width) : int(0.8 * width)] = 2
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
    return Sample(colours[mask], np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), mask)


def check(out: Sample, size: int) -> None:
    """Where the image shows one class unmixed, the mask says that class; grey padding is ignored."""
    assert out.mask is not None
    assert out.mask.shape == (size, size) and out.mask.dtype == np.uint8 and out.mask.flags.c_contiguous
    for label, colour in enumerate([(0, 0, 0), (255, 0, 0), (0, 255, 0)]):
        assert (out.mask[(out.image == colour).all(axis=2)] == label).all()
    assert (out.mask[(out.image == 114).all(axis=2)] == IGNORE).all()
    assert set(np.unique(out.mask)) <= {0, 1, 2, IGNORE}


@pytest.mark.parametrize("options", GEOMETRY.values(), ids=GEOMETRY)
def test_the_mask_moves_with_the_image(options):
    transform = TrainTransform(160, **{**OFF, **options})
    for (width, height), seed in itertools.product(SHAPES, range(6)):
        sample = draw(width, height, seed)
        before = sample.mask.copy()
        check(transform(sample, np.random.default_rng(seed)), 160)
        np.testing.assert_array_equal(sample.mask, before)


def test_the_mask_is_not_shifted_against_the_image():
    """The centre of gravity of the shape, in the mask and in the image as grey levels, to a tenth of a pixel."""
    for name, options in GEOMETRY.items():
        shift = mean_shift(options)
        assert np.abs(shift).max() < 0.15, name


def mean_shift(options):
    transform = TrainTransform(200, **{**OFF, **options})
    shifts = []
    for seed in range(30):
        out = transform(draw(173, 140, seed), np.random.default_rng(seed))
        red = np.where(out.mask == IGNORE, 0, out.image[..., 0].astype(float) - 114 * (out.image.min(axis=2) > 100))
        weights = (red / 255, (out.mask == 1).astype(float))
        if out.mask[[0, -1]].tolist().count(1) or weights[1].sum() < 30:
            continue
        rows, columns = np.mgrid[:200, :200]
        shifts.append([[(w * axis).sum() / w.sum() for axis in (rows, columns)] for w in weights])
    assert len(shifts) > 5
    return np.diff(np.array(shifts), axis=1).mean(axis=0)


def test_photometric_changes_leave_the_mask_alone():
    sample = draw(160, 160)
    options = {**OFF, "light": 0.5, "colour": 0.5, "blur": 1.0, "noise": 1.0}
    out = TrainTransform(160, **options)(sample, np.random.default_rng(0))
    assert not np.array_equal(out.image, sample.image)
    np.testing.assert_array_equal(out.mask, sample.mask)


def test_off_is_the_identity_and_flip_the_mirror():
    sample = draw(160, 160)
    out = TrainTransform(160, **OFF)(sample, np.random.default_rng(0))
    np.testing.assert_array_equal(out.mask, sample.mask)
    for flip, wanted in {"horizontal": {(1, 1), (1, -1)}, "both": {(1, 1), (1, -1), (-1, 1), (-1, -1)}}.items():
        transform, seen = TrainTransform(160, **{**OFF, "flip": flip}), set()
        for seed in range(30):
            out = transform(sample, np.random.default_rng(seed))
            seen |= {(y, x) for y, x in wanted if np.array_equal(out.mask, sample.mask[::y, ::x])}
        assert seen == wanted, flip


def test_half_a_turn_there_and_back():
    mask = np.random.default_rng(0).integers(0, 9, (31, 50), dtype=np.uint8)
    turn = np.array([[-1.0, 0, 50], [0, -1, 31]])
    turned = warp_mask(mask, turn, (50, 31))
    np.testing.assert_array_equal(turned, mask[::-1, ::-1])
    np.testing.assert_array_equal(warp_mask(turned, turn, (50, 31)), mask)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_warping_looks_up_the_pixel_under_each_centre(seed):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 200, (int(rng.integers(1, 40)), int(rng.integers(1, 40))), dtype=np.uint8)
    matrix = np.concatenate([rng.uniform(-1.5, 1.5, (2, 2)) + np.eye(2) * 0.3, rng.uniform(0, 20, (2, 1))], axis=1)
    if abs(np.linalg.det(matrix[:, :2])) < 0.05:
        return
    out = warp_mask(mask, matrix, (24, 17))
    inverse = np.linalg.inv(matrix[:, :2])
    for y in range(17):
        for x in range(24):
            u, v = inverse @ (np.array([x + 0.5, y + 0.5]) - matrix[:, 2])
            if min(abs(u - round(u)), abs(v - round(v))) < 0.02:
                continue  # on the border of two pixels, where rounding decides
            inside = 0 <= u < mask.shape[1] and 0 <= v < mask.shape[0]
            assert out[y, x] == (mask[int(v), int(u)] if inside else IGNORE)


def test_resizing_equals_torch():
    mask = np.random.default_rng(0).integers(0, 256, (13, 20), dtype=np.uint8)
    for target in [(1, 1), (7, 5), (20, 13), (40, 26), (33, 60), (200, 3)]:
        wanted = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None], target[::-1], mode="nearest-exact")
        np.testing.assert_array_equal(resize_mask(mask, target), wanted[0, 0], err_msg=str(target))
    assert resize_mask(mask, (20, 13)) is mask


def test_letterbox():
    for width, height in SHAPES:
        sample = draw(width, height)
        out, box = EvalTransform(120)(sample)
        check(out, 120)
        np.testing.assert_array_equal(letterbox_mask(sample.mask, 120), out.mask)
        new_width, new_height = fitted_size(width, height, 120)
        inside = np.zeros((120, 120), bool)
        inside[box.pad_y : box.pad_y + new_height, box.pad_x : box.pad_x + new_width] = True
        np.testing.assert_array_equal(out.mask == IGNORE, ~inside, err_msg=f"{width} x {height}")


def test_samples_without_masks_stay_so():
    sample = replace(draw(50, 40), mask=None)
    assert TrainTransform(32)(sample, np.random.default_rng(0)).mask is None
    assert TrainTransform(32).mosaic([sample] * 4, np.random.default_rng(0)).mask is None
    assert EvalTransform(32)(sample)[0].mask is None


def test_a_mask_does_not_change_what_happens_to_the_image():
    sample = draw(120, 90)
    for seed in range(5):
        alone = TrainTransform(96)(replace(sample, mask=None), np.random.default_rng(seed))
        out = TrainTransform(96)(sample, np.random.default_rng(seed))
        np.testing.assert_array_equal(out.image, alone.image)


def test_the_generator_decides():
    sample, transform = draw(120, 90), TrainTransform(96, rotate=45.0)
    masks = [transform(sample, np.random.default_rng(seed)).mask for seed in range(10)]
    again = [TrainTransform(96, rotate=45.0)(sample, np.random.default_rng(seed)).mask for seed in range(10)]
    np.testing.assert_array_equal(masks, again)
    assert len({mask.tobytes() for mask in masks}) == 10


def test_mosaic():
    for scale, seed in itertools.product([(0.3, 0.4), (0.5, 1.0), (1.0, 2.5)], range(5)):
        samples = [draw(90 + 20 * k, 100, 4 * seed + k) for k in range(4)]
        out = mosaic(samples, 160, np.random.default_rng(seed), Geometry(scale=scale, rotate=20.0, aspect=0.2))
        check(out, 160)
        assert {0, 1} <= set(np.unique(out.mask))
    tiny = mosaic([draw(5, 5)] * 4, 1, np.random.default_rng(0))
    assert tiny.mask.shape == (1, 1)


def test_mosaic_of_some_masks_is_refused():
    samples = [draw(50, 40), *[replace(draw(50, 40), mask=None)] * 3]
    with pytest.raises(ValueError, match="1 of these 4"):
        mosaic(samples, 64, np.random.default_rng(0))


def test_mixup_is_refused():
    sample = draw(50, 40)
    for pair in ((sample, sample), (sample, replace(sample, mask=None)), (replace(sample, mask=None), sample)):
        with pytest.raises(ValueError, match="mixup is for boxes"):
            mixup(*pair, np.random.default_rng(0))
