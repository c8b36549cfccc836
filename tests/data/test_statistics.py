"""Counts of what a set holds."""

import numpy as np

from detseg.data.base import Category
from detseg.data.formats import read_label_splits, read_masks
from detseg.data.statistics import box_sides, count, learnt_boxes
from tests.data.annotation_samples import make, write_picture
from tests.small_masks import write_small_masks


def test_objects_are_counted_by_class_and_image():
    boxes = [[0, 0, 4, 9], [0, 0, 9, 9], [0, 0, 5, 5], [0, 0, 5, 5], [1, 1, 2, 2]]
    data = make(
        boxes,
        [0, 0, 1, 1, -1],
        [0, 0, 0, 1, 2],
        [(64, 48)] * 4,
        iscrowd=np.array([False, False, False, True, False]),
    )
    found = count(data)
    assert (found.images, found.without, found.ignored, found.total) == (4, 3, 2, 3)
    assert found.per_class.tolist() == [2, 1, 0] and found.images_with.tolist() == [1, 1, 0]
    assert found.per_image.tolist() == [3, 0, 0, 0]


def test_a_set_without_images():
    found = count(make(sizes=np.zeros((0, 2))))
    assert (found.images, found.without, found.total) == (0, 0, 0) and found.per_class.tolist() == [0, 0, 0]


def test_pixels_are_counted_and_bad_masks_left_out(tmp_path):
    data = read_masks(write_small_masks(tmp_path / "masked") / "train.txt")
    masks = [data.mask(row) for row in range(len(data))]
    seen = []
    found = count(data, track=lambda items, total: seen.append(total) or items)
    for k in range(len(data.categories)):
        assert found.per_class[k] == sum((mask == k).sum() for mask in masks)
        assert found.images_with[k] == sum((mask == k).any() for mask in masks)
    assert found.ignored == sum((mask == 255).sum() for mask in masks) and seen == [1]
    (tmp_path / data.mask_paths[0]).write_bytes(b"none")
    fewer = count(data)
    assert fewer.unreadable == 1 and fewer.images == len(data)
    assert fewer.per_class.tolist() == [found.per_class[k] - (masks[0] == k).sum() for k in range(len(found.per_class))]


def test_labels_are_counted(tmp_path):
    for seed, name in enumerate(("a/1", "b/2", "b/3")):
        write_picture(tmp_path / f"{name}.png", seed=seed)
    found = count(read_label_splits(tmp_path)[""])
    assert found.per_class.tolist() == found.images_with.tolist() == [1, 2] and found.without == 0


def test_boxes_that_teach_nothing_are_left_out():
    boxes = [[0, 0, 4, 9], [0, 0, np.nan, 9], [5, 5, 5, 9], [0, 0, 2, 2], [0, 0, 2, 8]]
    crowd = np.array([False, False, False, True, False])
    data = make(boxes, [2, 0, 0, 0, 1], [0, 0, 0, 0, 1], [(64, 48), (10, 20)], iscrowd=crowd)
    kept, labels, sizes = learnt_boxes(data)
    assert kept.tolist() == [[0, 0, 4, 9], [0, 0, 2, 8]] and labels.tolist() == [2, 1]
    assert sizes.tolist() == [[64, 48], [10, 20]]
    assert box_sides(kept).tolist() == [6, 4]


def test_more_classes_than_objects():
    data = make([[0, 0, 1, 1]], categories=tuple(Category(k, str(k)) for k in range(1000)))
    assert count(data).per_class.sum() == 1 and len(count(data).per_class) == 1000
