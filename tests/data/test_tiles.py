"""Where tiles lie, what they cut, and how large they are: laws, tables, and the sizes of objects."""

import numpy as np
import pytest

from detseg.data.annotations import Annotations, Category
from detseg.data.tiles import ENOUGH, MARGIN, Tiling, cut_by, lay_tiles, object_sizes, tiling_for
from tests.cases import case


def test_tiles_cover_the_image_and_overlap_and_are_no_more_than_needed():
    rng = np.random.default_rng(0)
    for width, height, tile in rng.integers(1, 60, (300, 3)).tolist():
        overlap = int(rng.integers(0, tile))
        with case(width, height, tile, overlap):
            tiles = lay_tiles(width, height, tile, overlap)
            assert tiles.dtype == np.int64
            assert (tiles[:, :2] >= 0).all() and (tiles[:, 2:] <= [width, height]).all()
            assert (tiles[:, 2:] - tiles[:, :2] == np.minimum(tile, [width, height])).all()
            seen = np.zeros((height, width), int)
            for x, y, u, v in tiles.tolist():
                seen[y:v, x:u] += 1
            assert seen.min() >= 1
            for side, length in ((0, width), (1, height)):
                starts = np.unique(tiles[:, side])
                assert (np.diff(starts) <= tile - overlap).all()
                fewer = len(starts) - 1
                assert fewer == 0 or fewer * tile - (fewer - 1) * overlap < length


def test_what_is_as_small_as_the_overlap_lies_wholly_in_a_tile():
    tiles = lay_tiles(97, 64, 30, 11)
    for x in range(97 - 11 + 1):
        for y in range(64 - 11 + 1):
            inside = (tiles[:, :2] <= [x, y]).all(1) & (tiles[:, 2:] >= [x + 11, y + 11]).all(1)
            assert inside.any(), (x, y)


@pytest.mark.parametrize(("tile", "overlap"), [(10, 10), (10, -1), (0, 0)])
def test_overlaps_that_are_none(tile, overlap):
    with pytest.raises(ValueError, match=f"tiles of {tile} px must overlap by 0 to {tile - 1} px, not {overlap}"):
        lay_tiles(100, 100, tile, overlap)


def test_what_a_tile_cuts():
    tiles = lay_tiles(100, 60, 60, 20)  # two, side by side
    assert tiles.tolist() == [[0, 0, 60, 60], [40, 0, 100, 60]]
    boxes = [[0, 0, 30, 60], [0, 0, 58, 60], [0, 0, 59, 60], [43, 10, 56, 20], [41, 0, 100, 60], [43, 0, 100, 60]]
    expected = [[False, True], [False, True], [True, True], [False, False], [True, True], [True, False]]
    assert cut_by(np.array(boxes, np.float32), tiles, (100, 60), 2).tolist() == expected
    assert cut_by(np.zeros((0, 4)), tiles, (100, 60), 2).shape == (0, 2)


def annotations(boxes, crowds, sizes):
    boxes, count = np.array(boxes, float).reshape(-1, 4), len(boxes)
    return Annotations(
        categories=(Category(1, "a"),),
        image_ids=np.arange(len(sizes)),
        paths=np.array(["a.jpg"] * len(sizes)),
        sizes=np.array(sizes, np.int32),
        image_index=np.zeros(count, np.int32),
        boxes=boxes,
        labels=np.zeros(count, np.int32),
        iscrowd=np.array(crowds, bool),
        ids=np.arange(count),
        areas=np.ones(count),
    )


def test_the_sizes_of_objects():
    boxes = [[0, 0, side, side / 2] for side in range(1, 102)]
    data = annotations([*boxes, [0, 0, 9999, 9999]], [False] * 101 + [True], [(640, 480), (480, 800), (3000, 10)])
    assert object_sizes(data) == {"sides": [6.0, 51.0, 96.0], "long_side": 800}
    assert object_sizes(annotations([], [], [(640, 480)])) == {}


def sizes(*sides, long_side):
    return {"sides": list(sides), "long_side": long_side}


def test_tiles_are_as_large_as_the_images_of_training_where_objects_are_large_enough():
    tiling = tiling_for(sizes(20, 80, 200, long_side=800), 320)
    assert tiling[:2] == (800, 200 + 2 * MARGIN * 800) and tiling.reason == "as large as the images of training"
    assert tiling.margin == MARGIN * 800


def test_tiles_are_smaller_where_objects_are_small():
    objects = sizes(10, 20, 120, long_side=3200)  # 2 px before a network of 320 px
    tiling = tiling_for(objects, 320)
    assert tiling.tile == round(3200 / (120 / 20)), "the median as large as the largest that is known"
    assert "half of the objects of training are less than 2 px large" in tiling.reason
    tiling = tiling_for(sizes(50, 150, 1500, long_side=3200), 320)
    assert 150 * 320 / tiling.tile == pytest.approx(ENOUGH, rel=0.01)
    assert tiling.overlap == tiling.tile // 2, "at most half"
    assert tiling_for(sizes(2, 4, 200, long_side=400), 320).tile == 320, "pixels are not enlarged"
    assert tiling_for(sizes(2, 4, 200, long_side=200), 320).tile == 200, "not more than in training"


def test_tiles_as_asked_for_and_of_models_that_do_not_tell():
    assert tiling_for(None, 320)[:2] == tiling_for({}, 320)[:2] == (320, 64)
    assert "does not tell how large the objects" in tiling_for(None, 320).reason
    assert tiling_for(None, 320, 500)[:2] == (500, 100)
    assert tiling_for(None, 320, 500, 7) == Tiling(500, 7, "as asked for")
    assert tiling_for(sizes(2, 10, 50, long_side=400), 320, 200)[:2] == (200, 58)
    trained = sizes(2, 10, 50, long_side=400) | {"tile": 300, "overlap": 40}
    assert tiling_for(trained, 320) == Tiling(300, 40, "as in training")
    assert tiling_for(trained, 320, 200)[:2] == (200, 58)
    with pytest.raises(ValueError, match="tiles must be at least 1 px wide, not 0"):
        tiling_for(None, 320, 0)
    with pytest.raises(ValueError, match="must overlap by 0 to 99 px, not 100"):
        tiling_for(None, 320, 100, 100)
