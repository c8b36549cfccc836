"""Cached images and the samples made of them."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from detseg.data import cache as module
from detseg.data.cache import ImageCache, fitted_shapes
from detseg.data.dataset import DetectionDataset, collate, scaled_sizes
from detseg.data.letterbox import resize_long_side
from detseg.data.sample import Sample
from tests.data.annotation_samples import make, write_picture

SIZES = ((64, 48), (30, 60), (128, 128))


@pytest.fixture
def paths(tmp_path):
    return [str(write_picture(tmp_path / f"{i}.png", *size, seed=i)) for i, size in enumerate(SIZES)]


def annotations(paths, **changes):
    boxes = [[0, 0, 64, 48], [8, 8, 16, 24], [3, 6, 30, 60], [5, 5, 10, 10]]
    fields = {"labels": [2, 0, 1, 1], "image_index": [0, 0, 1, 1], "iscrowd": np.array([False, False, False, True])}
    return make(boxes, **({"sizes": SIZES, "paths": paths} | fields | changes))


def test_long_images_keep_a_short_side_within_bounds():
    sizes = np.array([[100, 100], [100, 140], [200, 100], [1000, 100], [3, 1]], np.int32)
    shapes = fitted_shapes(sizes, 96, 73)
    assert shapes.tolist() == [[96, 96], [102, 73], [73, 146], [19, 192], [64, 192]]  # heights and widths
    assert fitted_shapes(sizes[2:4], 96).tolist() == [[48, 96], [10, 96]]
    assert fitted_shapes(sizes[:0], 96, 73).shape == (0, 2)


def no_memory(monkeypatch):
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=100))


@pytest.mark.parametrize("place", ["memory", "file"])
@pytest.mark.parametrize("long_side", [32, 100])
def test_images_are_kept_resized(paths, monkeypatch, tmp_path, place, long_side):
    if place == "file":
        no_memory(monkeypatch)
        monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    data = annotations(paths)
    cache = ImageCache(paths, data.sizes, long_side)
    assert cache.place == ("memory" if place == "memory" else str(tmp_path))
    assert len(cache) == 3
    total = 0
    for index, path in enumerate(paths):
        image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(cache[index], resize_long_side(image, long_side))
        assert max(cache[index].shape) == long_side
        total += cache[index].size
    assert cache.megabytes == pytest.approx(total / 1e6)
    assert set(tmp_path.iterdir()) == before, "the file has no name that would outlive the process"


def test_several_processes_share_what_memory_there_is(paths, monkeypatch):
    sizes = annotations(paths).sizes
    needed = ImageCache(paths, sizes, 64).megabytes * 1e6
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=int(needed * 3)))
    assert ImageCache(paths, sizes, 64).place == "memory"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert ImageCache(paths, sizes, 64).place != "memory"


def test_neither_memory_nor_disk(paths, monkeypatch):
    no_memory(monkeypatch)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(ValueError, match=r"too much for the memory, and .* has only 0.0 GB left; set TMPDIR"):
        ImageCache(paths, annotations(paths).sizes, 64)


def test_boxes_follow_the_image(paths):
    data = DetectionDataset(annotations(paths), 32)
    first, second = data[0], data[1]
    assert first.image.shape == (24, 32, 3)
    assert first.boxes.tolist() == [[0, 0, 32, 24], [4, 4, 8, 12]]
    assert (first.boxes.dtype, first.labels.dtype, first.iscrowd.dtype) == (np.float32, np.int64, np.bool_)
    assert first.labels.tolist() == [2, 0]
    assert second.image.shape == (32, 16, 3)
    # 30 pixels become 16 (15 and a remainder rounded): the two sides scale by different factors.
    np.testing.assert_allclose(second.boxes[0], [3 * 16 / 30, 6 * 32 / 60, 16, 32], rtol=1e-6)
    assert second.iscrowd.tolist() == [False, True]


def test_an_image_without_objects(paths):
    sample = DetectionDataset(annotations(paths), 32)[2]
    assert sample.boxes.shape == (0, 4)
    assert sample.labels.shape == sample.iscrowd.shape == (0,)


def test_sizes_are_scaled_and_crowds_left_out(paths):
    np.testing.assert_allclose(scaled_sizes(annotations(paths), 32), [[32, 24], [4, 8], [14.4, 28.8]])


def test_an_image_of_another_size_is_named(paths):
    data = annotations(paths, sizes=np.array([(64, 48), (60, 30), (128, 128)], np.int32))
    with pytest.raises(ValueError, match=r"1\.png: the image is 30x60 pixels but its annotations say 60x30"):
        DetectionDataset(data, 32)


def test_an_image_that_cannot_be_read_is_named(paths):
    with pytest.raises(ValueError, match=r"none\.png"):
        DetectionDataset(annotations([*paths[:2], "none.png"]), 32)


def test_progress_sees_every_image(paths):
    seen = []

    def track(items, total):
        for item in items:
            seen.append((item, total))
            yield item

    DetectionDataset(annotations(paths), 32, track)
    assert seen == [(0, 3), (1, 3), (2, 3)]


def test_a_batch_shares_the_pixels_of_its_samples():
    def sample(value, objects):
        boxes = np.full((objects, 4), value, np.float32)
        return Sample(np.full((4, 6, 3), value, np.uint8), boxes, np.arange(objects), np.ones(objects, bool))

    images, targets = collate([sample(1, 2), sample(9, 0)])
    assert images.shape == (2, 3, 4, 6)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images[:, 0, 0, 0].tolist() == [1, 9]
    assert [tuple(t["boxes"].shape) for t in targets] == [(2, 4), (0, 4)]
    assert targets[0]["labels"].tolist() == [0, 1]
    assert targets[0]["iscrowd"].tolist() == [True, True]
    assert targets[0]["boxes"].dtype == torch.float32
