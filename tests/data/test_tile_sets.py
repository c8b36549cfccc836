"""Images as a set of tiles: what is in each, against a slow reference; pixels and boxes that belong together."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from detseg.data.annotations import Annotations, Category
from detseg.data.sample import clip_and_filter
from detseg.data.tile_sets import ScaledDataset, TileAnnotations, TileDataset, cut_annotations
from detseg.data.tiles import Tiling, lay_tiles

TILING = Tiling(40, 12)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three images with rectangles, each of a grey level of its own; the second has none, one object is a crowd."""
    folder = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    sizes, owners, boxes = [(150, 110), (90, 60), (30, 100)], [], []
    for number, (width, height) in enumerate(sizes):
        image = np.zeros((height, width, 3), np.uint8)
        for k in range(0 if number == 1 else 9):
            side = rng.integers(4, 24, 2)
            x, y = (int(rng.integers(0, room)) for room in np.array([width, height]) - side)
            u, v = x + int(side[0]), y + int(side[1])
            image[y:v, x:u] = 20 + 20 * k
            owners.append(number)
            boxes.append([x, y, u, v])
        cv2.imwrite(str(folder / f"{number}.png"), image)
    count = len(boxes)
    return Annotations(
        categories=(Category(7, "a"), Category(3, "b")),
        image_ids=np.array([5, 9, 2]),
        paths=np.array([str(folder / f"{number}.png") for number in range(3)]),
        sizes=np.array(sizes, np.int32),
        image_index=np.array(owners, np.int32),
        boxes=np.array(boxes, float),
        labels=np.arange(count, dtype=np.int32) % 2,
        iscrowd=np.arange(count) == 3,
        ids=np.arange(count),
        areas=np.ones(count),
        source="set.json",
    )


def slow_tiles(data, tiling):
    """Corner and objects (box, label, ignored) of each tile of each image that shows an object to learn."""
    for image in range(len(data)):
        mine, size = data.objects(image), data.sizes[image].tolist()
        for x, y, u, v in lay_tiles(*size, tiling.tile, tiling.overlap).tolist():
            boxes = data.boxes[mine] - [x, y, x, y]
            kept = clip_and_filter(boxes, data.labels[mine], data.iscrowd[mine], (u - x, v - y))
            objects = list(zip(kept.boxes.tolist(), kept.labels.tolist(), kept.iscrowd.tolist(), strict=True))
            if not kept.iscrowd.all():
                yield image, (x, y), (u - x, v - y), objects


def test_each_tile_has_what_is_visible_in_it(data):
    tiles = cut_annotations(data, TILING)
    learnt = [i for i in range(len(tiles)) if not tiles.iscrowd[tiles.objects(i)].all()]
    found = []
    for i in learnt:
        mine = tiles.objects(i)
        rows = zip(*(getattr(tiles, n)[mine].tolist() for n in ("boxes", "labels", "iscrowd")), strict=True)
        found.append(
            (int(tiles.parents[i]), tuple(tiles.corners[i].tolist()), tuple(tiles.sizes[i].tolist()), list(rows))
        )
    assert found == list(slow_tiles(data, TILING))
    assert tiles.iscrowd.any() and not tiles.iscrowd.all()
    assert tiles.paths.tolist() == data.paths[tiles.parents].tolist()
    assert len(set(tiles.image_ids.tolist())) == len(tiles) and tiles.categories == data.categories


def test_empty_tiles_are_as_many_as_others_at_most_and_drawn_by_the_seed(data):
    def empty(tiles):
        return len(tiles) - len({int(i) for i in tiles.image_index[~tiles.iscrowd]})

    many = cut_annotations(data, Tiling(16, 2), seed=1)
    assert empty(many) == len(many) // 2
    again, other = (cut_annotations(data, Tiling(16, 2), seed=seed) for seed in (1, 2))
    assert np.array_equal(many.corners, again.corners) and not np.array_equal(many.corners, other.corners)
    none = replace(data, iscrowd=np.ones(len(data.ids), bool))
    with pytest.raises(ValueError, match=r"set\.json: there is no object to cut tiles around"):
        cut_annotations(none, TILING)


@pytest.mark.parametrize("long_side", [40, 100, 25, 11])
def test_pixels_and_boxes_belong_together(data, long_side):
    tiles = cut_annotations(data, TILING)
    dataset = TileDataset(tiles, long_side)
    scale = min(1, long_side / 40)
    assert len(dataset) == len(tiles) and dataset.images.long_side == round(40 * scale)
    for i in range(len(dataset)):
        sample, parent = dataset[i], cv2.imread(str(tiles.paths[i]))
        x, y = tiles.corners[i].tolist()
        w, h = tiles.sizes[i].tolist()
        if scale == 1:
            np.testing.assert_array_equal(sample.image, parent[y : y + h, x : x + w])
            assert sample.boxes.tolist() == tiles.boxes[tiles.objects(i)].tolist()
        assert np.abs(np.array(sample.size) - np.array([w, h]) * scale).max() <= 1.01
        expected = tiles.boxes[tiles.objects(i)] * scale
        assert np.abs(sample.boxes - expected).max(initial=0) <= 1.01, "whole pixels of the kept image"
        assert (sample.boxes >= 0).all() and (sample.boxes <= [*sample.size, *sample.size]).all()


def test_a_shrunk_object_lies_where_its_box_is():
    """An object alone in its image: its box is at the pixels that have its grey level, at half the scale exactly."""
    tiles = TileAnnotations(
        **{name: getattr(alone(), name) for name in ("categories", "paths", "labels", "iscrowd", "ids", "areas")},
        whole=alone(),
        parents=np.array([0]),
        corners=np.array([[20, 10]]),
        image_ids=np.array([1]),
        sizes=np.array([[40, 40]], np.int32),
        image_index=np.array([0], np.int32),
        boxes=np.array([[10.0, 6, 30, 26]]),
    )
    dataset = object.__new__(TileDataset)
    image = np.zeros((50, 100, 3), np.uint8)
    image[8:18, 15:25] = 255
    dataset.annotations, dataset.images = tiles, Kept(image)
    sample = dataset[0]
    assert sample.boxes.tolist() == [[5, 3, 15, 13]]
    rows, columns = np.nonzero(sample.image[..., 0])
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [5, 3, 15, 13]


class Kept:
    def __init__(self, image):
        self.image = image

    def __getitem__(self, index):
        return self.image[5:25, 10:30]

    def scale(self, index):
        return np.array([0.5, 0.5])

    def window(self, index):
        return 10, 5, 30, 25


def alone():
    return Annotations(
        categories=(Category(1, "a"),),
        image_ids=np.array([1]),
        paths=np.array(["a.png"]),
        sizes=np.array([[200, 100]], np.int32),
        image_index=np.array([0], np.int32),
        boxes=np.array([[30.0, 16, 50, 36]]),
        labels=np.array([0], np.int32),
        iscrowd=np.array([False]),
        ids=np.array([1]),
        areas=np.array([400.0]),
    )


def test_images_are_read_once_and_only_where_tiles_are_of_them(data):
    tiles = cut_annotations(data, TILING)
    with_objects = tiles.subset(np.flatnonzero(tiles.parents != 1))
    assert isinstance(with_objects, TileAnnotations) and set(with_objects.parents.tolist()) == {0, 2}
    dataset = TileDataset(with_objects, 40)
    assert len(dataset.images.whole) == 2
    assert dataset.images[0].base is not None, "a view"
    np.testing.assert_array_equal(dataset.images[len(dataset) - 1], TileDataset(tiles, 40).images[len(tiles) - 1])


def test_whole_images_are_kept_at_the_scale_of_tiles(data):
    dataset = ScaledDataset(data, 20, tile=40)
    assert [dataset.images[i].shape for i in range(3)] == [(55, 75, 3), (30, 45, 3), (50, 15, 3)]
    assert dataset[0].boxes.tolist() == (data.boxes[data.objects(0)] / 2).tolist()
    assert ScaledDataset(data, 80, tile=40).images[0].shape == (110, 150, 3), "none is enlarged"
