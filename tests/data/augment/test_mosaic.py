"""Mosaic and mixup: every object's pixels lie under its box, and only there."""

import itertools

import numpy as np
import pytest

from detseg.data.augment.geometry import Geometry
from detseg.data.augment.mosaic import mixup, mosaic
from detseg.data.augment.transforms import TrainTransform
from detseg.data.sample import PADDING, Sample

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])


def tile(index: int, seed: int, crowd: bool = False) -> Sample:
    """A black image with three rectangles of one colour, labels 10 * index + 0, 1, 2."""
    rng = np.random.default_rng([index, seed])
    width, height = (int(v) for v in rng.integers(90, 161, 2))
    image = np.zeros((height, width, 3), np.uint8)
    boxes = np.zeros((3, 4), np.float32)
    for k in range(3):
        x1, y1 = k * width // 3 + int(rng.integers(2, 6)), int(rng.integers(0, height // 2))
        x2, y2 = (k + 1) * width // 3 - int(rng.integers(2, 6)), int(rng.integers(y1 + 20, height + 1))
        image[y1:y2, x1:x2] = COLOURS[index]
        boxes[k] = x1, y1, x2, y2
    return Sample(image, boxes, 10 * index + np.arange(3), np.full(3, crowd))


def no_objects() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)


def colour_mask(image: np.ndarray, index: int) -> np.ndarray:
    return np.abs(image.astype(int) - COLOURS[index]).max(axis=2) <= 127


def test_pixels_of_each_object_lie_under_its_box() -> None:
    for scale, seed in itertools.product([(0.3, 0.4), (0.5, 1.0), (1.0, 2.5)], range(10)):
        check_mosaic(seed, scale)


def check_mosaic(seed: int, scale: tuple[float, float]) -> None:
    samples = [tile(i, seed) for i in range(4)]
    geometry = Geometry(scale=scale, rotate=0.0, aspect=0.2, min_side=0.0)
    out = mosaic(samples, 160, np.random.default_rng(seed), geometry)
    assert out.image.shape == (160, 160, 3) and out.image.dtype == np.uint8
    assert (out.boxes >= 0).all() and (out.boxes <= 160).all()
    for index in range(4):
        mask = colour_mask(out.image, index)
        covered = np.zeros_like(mask)
        for x1, y1, x2, y2 in out.boxes[out.labels // 10 == index]:
            inner = mask[int(np.ceil(y1 + 0.5)) : int(y2 - 0.5), int(np.ceil(x1 + 0.5)) : int(x2 - 0.5)]
            assert inner.all()
            covered[max(0, int(y1 - 1)) : int(np.ceil(y2 + 1)), max(0, int(x1 - 1)) : int(np.ceil(x2 + 1))] = True
        assert mask.any() and not (mask & ~covered).any()


def test_order_labels_and_crowd_travel() -> None:
    for seed in range(20):
        samples = [tile(i, seed, crowd=i == 2) for i in range(4)]
        out = mosaic(samples, 160, np.random.default_rng(seed), Geometry(scale=(0.2, 0.25), rotate=0.0))
        assert out.labels.tolist() == [10 * i + k for i in range(4) for k in range(3)]
        assert out.iscrowd.tolist() == [i == 2 for i in range(4) for _ in range(3)]
        assert out.labels.dtype == np.int64 and out.boxes.dtype == np.float32


def test_zoom_is_relative_to_the_whole_mosaic() -> None:
    samples = [tile(i, 0) for i in range(4)]
    out = mosaic(samples, 160, np.random.default_rng(0), Geometry(scale=(0.25, 0.25), rotate=0, aspect=0))
    source = np.concatenate([(s.boxes[:, 2:] - s.boxes[:, :2]) * 160 / max(s.size) for s in samples])
    np.testing.assert_allclose(out.boxes[:, 2:] - out.boxes[:, :2], source / 4, rtol=0.02)


def test_each_image_keeps_one_object_and_the_scraps_are_ignored() -> None:
    scraps = 0
    for seed in range(20):
        out = mosaic([tile(i, seed) for i in range(4)], 160, np.random.default_rng(seed))
        # A large object may exceed its quadrant; then it is ignored, never dropped.
        assert set(out.labels // 10) == {0, 1, 2, 3}
        scraps += out.iscrowd.sum()
    assert 0 < scraps < 60


def test_the_centre_moves_between_the_quarters() -> None:
    samples = [Sample(np.full((80, 80, 3), c, np.uint8), *no_objects()) for c in COLOURS]
    geometry = Geometry(scale=(1.5, 2.0), rotate=0.0)
    shares = []
    for seed in range(60):
        image = mosaic(samples, 80, np.random.default_rng(seed), geometry).image
        shares.append(colour_mask(image, 0).mean())
    assert 1 / 17 < min(shares) < 0.12 and 0.4 < max(shares) < 9 / 15


def test_the_generator_decides() -> None:
    samples = [tile(i, 0) for i in range(4)]
    transform = TrainTransform(160, noise=0.5)
    images = set()
    for seed in range(10):
        a, b = (transform.mosaic(samples, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.boxes, b.boxes)
        images.add(a.image.tobytes())
    assert len(images) == 10


def test_mosaic_of_images_without_objects_and_of_tiny_size() -> None:
    nothing = Sample(np.zeros((1, 50, 3), np.uint8), *no_objects())
    for size in (1, 2, 3, 64):
        out = mosaic([nothing] * 4, size, np.random.default_rng(size))
        assert out.image.shape == (size, size, 3)
        assert out.boxes.shape == (0, 4) and out.iscrowd.dtype == bool
    assert (out.image == PADDING).all(axis=2).mean() > 0.8


def test_mosaic_wants_four() -> None:
    with pytest.raises(ValueError, match="4 samples, got 3"):
        mosaic([tile(0, 0)] * 3, 160, np.random.default_rng(0))


def flat(value: int, label: int, side: int = 40) -> Sample:
    image = np.full((side, side, 3), value, np.uint8)
    return Sample(image, np.array([[1, 2, 30, 20]], np.float32), np.array([label]), np.array([label == 7]))


def test_mixup_weighs_images_and_keeps_all_objects() -> None:
    weights = []
    for seed in range(50):
        out = mixup(flat(200, 7), flat(100, 3), np.random.default_rng(seed))
        assert out.image.min() == out.image.max()
        weights.append((float(out.image[0, 0, 0]) - 100) / 100)
        assert out.labels.tolist() == [7, 3] and out.iscrowd.tolist() == [True, False]
        assert out.boxes.tolist() == [[1, 2, 30, 20]] * 2
    assert 0.4 < np.mean(weights) < 0.6 and 0.05 < np.std(weights) < 0.2


def test_mixup_with_itself_changes_nothing() -> None:
    sample = tile(1, 0)
    out = mixup(sample, sample, np.random.default_rng(0))
    np.testing.assert_array_equal(out.image, sample.image)


def test_mixup_of_two_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        mixup(flat(1, 1), flat(1, 1, side=41), np.random.default_rng(0))
