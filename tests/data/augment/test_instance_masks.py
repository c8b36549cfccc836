"""Instance masks travel with their boxes through every stage: dataset, geometry, mosaic, mixup, letterbox, batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from detseg.data.annotations import AnnotationError
from detseg.data.augment.geometry import Geometry
from detseg.data.augment.mosaic import mixup, mosaic
from detseg.data.augment.transforms import TrainTransform
from detseg.data.dataset import DetectionDataset, collate
from detseg.data.index_png import MaskError
from detseg.data.letterbox import EvalTransform
from detseg.data.polygons import SegmentsBuilder
from detseg.data.sample import Sample
from tests.cases import case
from tests.data.annotation_samples import make, write_picture

PLAIN = {"flip": "none", "scale": (1.0, 1.0), "aspect": 0, "rotate": 0, "light": 0, "colour": 0, "blur": 0, "noise": 0}


def scene(count=5, size=(160, 120), seed=0):
    """Triangles and ellipses with tight boxes; every fifth is a crowd."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    boxes, masks = np.zeros((count, 4), np.float32), np.zeros((count, size[1], size[0]), np.uint8)
    for k in range(count):
        low = rng.integers(0, np.array(size) - 12)
        x1, y1, x2, y2 = boxes[k] = [*low, *np.minimum(low + rng.integers(6, 50, 2), size)]
        u, v = (x - x1) / (x2 - x1), (y - y1) / (y2 - y1)
        inside = (u - 0.5) ** 2 + (v - 0.5) ** 2 <= 0.25 if k % 2 else (u >= 0) & (v <= 1) & (u <= v)
        masks[k] = inside & (x > x1) & (x < x2) & (y > y1) & (y < y2)
    image = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Sample(image, boxes, np.arange(count), np.arange(count) % 5 == 4, masks=masks)


def hull(mask):
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def check(out):
    """The law: every object has a mask of the image's size, which stays inside its box (±1 px)."""
    assert out.masks.shape == (len(out.boxes), *out.image.shape[:2]) and out.masks.dtype == np.uint8
    assert out.masks.flags.c_contiguous and set(np.unique(out.masks)) <= {0, 1}
    for box, mask in zip(out.boxes, out.masks, strict=True):
        if mask.any():
            found = hull(mask)
            assert (found[:2] >= box[:2] - 1).all() and (found[2:] <= box[2:] + 1).all(), (box, found)


def test_masks_stay_in_their_boxes_through_geometry():
    for options in (
        {},
        {"flip": "both"},
        {"scale": (0.2, 0.5)},
        {"scale": (1.5, 3.0)},
        {"aspect": 0.5},
        {"rotate": 20.0},
        {"rotate": 180.0, "flip": "both", "scale": (0.4, 2.0), "aspect": 0.3},
    ):
        for seed in range(8):
            with case(options, seed):
                sample = scene(12, seed=seed)
                before = sample.masks.copy()
                out = TrainTransform(128, **PLAIN | options)(sample, np.random.default_rng(seed))
                check(out)
                assert sum(mask.any() for mask in out.masks) > 0.6 * len(out.masks)
                np.testing.assert_array_equal(sample.masks, before)


def test_a_mask_changes_nothing_but_objects_that_are_cut():
    for seed in range(20):
        sample = scene(9, seed=seed)
        transform = TrainTransform(64, scale=(0.5, 4.0), rotate=0.0)
        out, alone = (transform(s, np.random.default_rng(seed)) for s in (sample, replace(sample, masks=None)))
        np.testing.assert_array_equal(out.image, alone.image)
        assert alone.masks is None and len(out.masks) == len(out.labels)
        assert set(out.labels) <= set(alone.labels)
        for box, label, crowd in zip(alone.boxes, alone.labels, alone.iscrowd, strict=True):
            if ((box > 0).all() and (box < 64).all()) or label % 5 == 4:
                (row,) = np.flatnonzero(out.labels == label)
                np.testing.assert_array_equal(out.boxes[row], box)
                assert out.iscrowd[row] == crowd


def test_masks_of_the_kept_objects_by_hand():
    """Of three objects the window shows the third and a part of the second: their masks, in that order."""
    boxes = np.array([[0, 0, 5, 10], [8, 0, 18, 10], [20, 2, 24, 6]], np.float32)
    image, masks = np.zeros((10, 30, 3), np.uint8), np.zeros((3, 10, 30), np.uint8)
    sample = Sample(image, boxes, np.arange(3), np.array([True, True, False]), masks=masks)
    for mask, (x1, y1, x2, y2) in zip(sample.masks, sample.boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    geometry = Geometry(flip="none", scale=(1, 1), aspect=0, rotate=0)
    seen = set()
    for seed in range(30):
        out = geometry(sample, (10, 10), np.random.default_rng(seed), unit=30)
        check(out)
        seen.add(tuple(out.labels.tolist()))
        assert out.masks[-1].sum() == 16, "the third is always whole"
    assert {(2,), (1, 2)} <= seen and all(0 not in labels for labels in seen)


def test_a_rotated_box_is_that_of_the_rotated_mask():
    """Half of a square along its diagonal, turned by some angle: the box of the mask, not that of an ellipse."""
    sample = scene(1)
    for seed in range(10):
        out = TrainTransform(160, **PLAIN | {"rotate": 45.0, "scale": (0.5, 0.5)})(sample, np.random.default_rng(seed))
        np.testing.assert_allclose(out.boxes[0], hull(out.masks[0]), atol=2)  # its tips are thin
    empty = replace(sample, masks=np.zeros_like(sample.masks))
    transform = TrainTransform(160, **PLAIN | {"rotate": 45.0})
    alone = transform(replace(sample, masks=None), np.random.default_rng(0))
    np.testing.assert_array_equal(transform(empty, np.random.default_rng(0)).boxes, alone.boxes)


def test_mosaic_and_mixup_join_masks():
    for seed in range(10):
        with case(seed):
            samples = [replace(scene(4, seed=4 * seed + k), labels=10 * k + np.arange(4)) for k in range(4)]
            out = mosaic(samples, 160, np.random.default_rng(seed), Geometry(scale=(0.3, 1.2), rotate=10.0))
            check(out)
            again = TrainTransform(160).mosaic(samples, np.random.default_rng(seed))
            check(again)
            both = mixup(out, again, np.random.default_rng(seed))
            check(both)
            np.testing.assert_array_equal(both.masks, np.concatenate([out.masks, again.masks]))
    assert mosaic(samples, 2, np.random.default_rng(0)).masks.shape[1:] == (2, 2)
    for few in ([samples[0], *(replace(s, masks=None) for s in samples[1:])], [replace(samples[0], masks=None)] * 4):
        if few[0].masks is None:
            assert mosaic(few, 64, np.random.default_rng(0)).masks is None
        else:
            with pytest.raises(ValueError, match="3 of 4 samples have no instance masks"):
                mosaic(few, 64, np.random.default_rng(0))


def test_letterbox_and_batch():
    samples = [EvalTransform(80)(scene(k, (160, 40 + 30 * k), seed=k))[0] for k in (3, 0, 6)]
    for sample in samples:
        check(sample)
    assert samples[0].masks[:, :5].sum() == 0, "nothing in the padding"
    images, targets = collate(samples)
    assert images.shape == (3, 3, 80, 80)
    for sample, target in zip(samples, targets, strict=True):
        assert target["masks"].dtype == torch.uint8
        np.testing.assert_array_equal(target["masks"], sample.masks)
    assert "masks" not in collate([replace(s, masks=None) for s in samples])[1][0]


def test_three_hundred_objects_in_one_image(tmp_path):
    """More than 8 bits count, and than OpenCV has channels."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, 220, (300, 2))
    boxes = np.concatenate([low, low + rng.integers(5, 30, (300, 2))], 1)
    builder = SegmentsBuilder()
    for x1, y1, x2, y2 in boxes.tolist():
        builder.add_polygons([[x1, y1, x2, y1, x2, y2]])
    path = write_picture(tmp_path / "many.png", 256, 256)
    annotations = make(boxes, sizes=[(256, 256)], paths=[str(path)], segments=builder.build())
    sample = DetectionDataset(annotations, 200, masks=True)[0]
    assert len(sample.masks) == 300 and all(mask.any() for mask in sample.masks)
    check(sample)
    transform = TrainTransform(160, rotate=15.0)
    out, tiles = transform(sample, rng), transform.mosaic([sample] * 4, rng)
    for found in (out, tiles, mixup(out, tiles, rng), EvalTransform(160)(sample)[0]):
        check(found)
    assert len(tiles.masks) > 300


def test_the_dataset_draws_polygons_and_run_lengths_at_the_size_of_the_kept_image(tmp_path):
    paths = [str(write_picture(tmp_path / f"{k}.png", 64, 48, k)) for k in range(2)]
    bitmap = np.zeros((48, 64), np.uint8)
    bitmap[10:30, 20:44] = 1
    bitmap[15:20, 25:30] = 0
    builder = SegmentsBuilder()
    builder.add_polygons([[8, 8, 24, 8, 24, 40, 8, 40], [40, 8, 48, 8, 48, 16, 40, 16]])
    builder.add_rle(48, 64, coco.encode(np.asfortranarray(bitmap))["counts"])
    builder.add_nothing()
    boxes = [[8, 8, 48, 40], [20, 10, 44, 30], [4, 6, 20.9, 30]]
    annotations = make(boxes, None, [1, 1, 1], [(64, 48)] * 2, paths, segments=builder.build())
    for long_side in (32, 64, 128):
        factor = long_side / 64
        data = DetectionDataset(annotations, long_side, masks=True)
        assert data[0].masks.shape == (0, 48 * long_side // 64, long_side)
        sample = data[1]
        check(sample)
        polygons, run_lengths, unknown = (m.astype(int) for m in sample.masks)
        assert not unknown.any(), "of an object without a mask it is not known"
        assert abs(polygons.sum() / factor**2 - (16 * 32 + 64)) <= 40 / factor, "both polygons of the object"
        assert polygons[int(20 * factor), int(16 * factor)] == 1 and polygons[int(20 * factor), int(44 * factor)] == 0
        assert abs(run_lengths.sum() / factor**2 - bitmap.sum()) <= 100 / factor
        if factor == 1:
            np.testing.assert_array_equal(run_lengths, bitmap)
    assert DetectionDataset(annotations, 32)[1].masks is None
    with pytest.raises(AnnotationError, match=r"sample\.json: has boxes but no masks, none of its 3 objects"):
        DetectionDataset(replace(annotations, segments=None), 32, masks=True)
    builder.add_rle(9, 9, [81])
    wrong = make([*boxes, boxes[0]], None, [1] * 4, [(64, 48)] * 2, paths, segments=builder.build())
    with pytest.raises(MaskError, match=r"1\.png: the mask of object 4 is 9 x 9 pixels \(the image is 64 x 48"):
        DetectionDataset(wrong, 32, masks=True)[1]
