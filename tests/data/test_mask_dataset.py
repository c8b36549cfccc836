"""Cached images with masks, and batches of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from detseg.data import read_masks
from detseg.data.augment.transforms import TrainTransform
from detseg.data.dataset import SegmentationDataset, collate_masks
from detseg.data.images import read_image
from detseg.data.letterbox import fitted_size, resize_long_side, resize_mask
from detseg.data.sample import Sample
from tests.cases import case
from tests.data.mask_samples import save_mask, write_mask_set, write_turned_image


@pytest.fixture
def masks(tmp_path):
    return read_masks(write_mask_set(tmp_path), "train")


def test_images_and_masks_are_kept_resized(masks):
    for long_side in [20, 56, 100]:
        with case(long_side):
            data = SegmentationDataset(masks, long_side)
            assert len(data) == 3 and data.annotations is masks
            for i in range(3):
                sample = data[i]
                size = fitted_size(*masks.sizes[i].tolist(), long_side)
                assert sample.size == size and max(size) == long_side
                np.testing.assert_array_equal(sample.image, resize_long_side(read_image(masks.paths[i]), long_side))
                np.testing.assert_array_equal(sample.mask, resize_mask(masks.mask(i), size))
                assert sample.boxes.shape == (0, 4) and len(sample.labels) == len(sample.iscrowd) == 0
            pixels = sum(data[i].mask.size for i in range(3))
            assert data.masks.megabytes == pytest.approx(pixels / 1e6)
            assert data.images.megabytes == pytest.approx(3 * pixels / 1e6)
            assert data.masks.place == data.images.place == "memory"


def test_turned_images_keep_their_masks(tmp_path):
    write_turned_image(tmp_path / "images/a.jpg", (40, 24), 6)
    mask = np.zeros((40, 24), np.uint8)
    mask[:10] = 1
    save_mask(tmp_path / "masks/a.png", mask)
    sample = SegmentationDataset(read_masks(tmp_path), 80)[0]
    assert sample.image.shape[:2] == sample.mask.shape == (80, 48)
    np.testing.assert_array_equal(sample.mask, np.kron(mask, np.ones((2, 2))))


def test_masks_drawn_from_outlines(tmp_path):
    from detseg.flowers.dataset import write_flowers

    masks = read_masks(write_flowers(tmp_path / "flowers", train=2, val=1, size=(96, 64)), "train")
    data = SegmentationDataset(masks, 96)
    np.testing.assert_array_equal(data[1].mask, masks.mask(1))


def test_a_mask_that_cannot_be_used_is_named(masks):
    save_mask(Path(masks.mask_paths[1]), np.zeros((5, 5), np.uint8))
    with pytest.raises(ValueError, match=r"train1\.png: the mask is 5 x 5 pixels, its image 48 x 32"):
        SegmentationDataset(masks, 20)


def test_progress_sees_images_and_masks(masks):
    seen = []

    def track(items, total):
        for item in items:
            seen.append((item, total))
            yield item

    SegmentationDataset(masks, 20, track)
    assert seen == [(i, 3) for i in range(3)] * 2


def test_no_images(masks):
    assert len(SegmentationDataset(masks.subset([]), 20)) == 0


def test_batches(masks):
    data, transform = SegmentationDataset(masks, 40), TrainTransform(32)
    samples = [transform(data[i], np.random.default_rng(i)) for i in range(3)]
    images, labels = collate_masks(samples)
    assert images.shape == (3, 3, 32, 32) and labels.shape == (3, 32, 32)
    assert images.dtype == labels.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last) and labels.is_contiguous()
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(images[i].permute(1, 2, 0), sample.image)
        np.testing.assert_array_equal(labels[i], sample.mask)


def test_batches_of_samples_without_masks_are_refused():
    sample = Sample(np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool))
    with pytest.raises(ValueError, match="2 of 2 samples have no mask"):
        collate_masks([sample, sample])
