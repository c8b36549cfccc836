"""Heat of detections with their boxes: what is drawn, where, at which size."""

import numpy as np
import pytest

from detseg.visualize.detection_heat import (
    BOX,
    detection_heat_picture,
    detection_heat_sheet,
    draw_detection_heat,
    small_detection_heat,
)
from detseg.visualize.heat import WIDTH, draw_heat, spread


def grey(height=60, width=80, value=100):
    return np.full((height, width, 3), value, np.uint8)


def spot(y, x, shape=(8, 8)):
    heat = np.zeros(shape, np.float32)
    heat[y, x] = 3
    return heat


def test_the_box_is_drawn_over_the_heat():
    image, before = grey(), draw_heat(grey(), spot(3, 3))
    drawn = draw_detection_heat(image, spot(3, 3), [20, 10, 50, 40])
    assert (image == 100).all(), "a copy"
    rows, columns = np.nonzero((drawn == BOX).all(2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 39, 20, 49)
    same = (drawn != BOX).any(2)
    assert np.array_equal(drawn[same], before[same]) and (~same).sum() < 200


def test_a_small_one_shows_the_same_places():
    heat, box, area = spot(2, 5), np.array([80.0, 20, 160, 100]), (0.0, -20.0, 160.0, 140.0)
    small = small_detection_heat(grey(120, 160), heat, box, area, 80)
    assert small.shape == (60, 80, 3)
    assert np.array_equal(small, draw_detection_heat(grey(60, 80), heat, [40, 10, 80, 50], (0, -10, 80, 70)))


def test_the_picture_has_the_images_size_over_its_caption():
    drawn = detection_heat_picture(grey(300, 500), spot(1, 1), [10, 10, 90, 90], "rose 0.83")
    assert drawn.shape[1] == 500 and 300 < drawn.shape[0] < 340
    assert np.array_equal(drawn[:300], draw_detection_heat(grey(300, 500), spot(1, 1), [10, 10, 90, 90]))


def test_the_sheet_has_a_tile_for_each_detection():
    heights = []
    for count in (0, 1, 2, 3, 5, 9):
        boxes = np.tile([5.0, 5, 40, 40], (count, 1)).reshape(-1, 4)
        captions = ["rose"] * count
        sheet = detection_heat_sheet(
            grey(), [spot(1, 1)] * count, boxes, captions, (0.0, 0.0, 80.0, 80.0), first=grey(30, 40), note="of maps"
        )
        assert sheet.shape[1] == WIDTH and sheet.dtype == np.uint8
        heights.append(sheet.shape[0])
        assert (sheet == BOX).all(2).any() == (count > 0)
    assert heights[0] == heights[1] == heights[2] < heights[3] == heights[4] < heights[5], "three in a row"
    with pytest.raises(ValueError, match="there are 1 heats but 2 captions"):
        detection_heat_sheet(grey(), [spot(1, 1)], np.zeros((1, 4)), ["a", "b"], (0, 0, 80, 80), first=grey())


def test_heat_is_spread_by_the_centres_of_pixels():
    heat = np.arange(8, dtype=np.float32)[None].repeat(4, 0)
    laid, inside = spread(heat, (0, 0, 16, 8), (8, 16))
    np.testing.assert_allclose(laid[3], ((np.arange(16) + 0.5) / 2 - 0.5).clip(0, 7), atol=0.02)
    assert inside.all()
    laid, inside = spread(heat, (-4, -4, 12, 4), (8, 16))
    np.testing.assert_allclose(laid[1, :8], (np.arange(8) + 4.5) / 2 - 0.5, atol=0.02)
    assert inside[:4, :12].all() and not inside[4:].any() and not inside[:, 12:].any()
    same, _ = spread(heat, (0, 0, 8, 4), (4, 8))
    np.testing.assert_array_equal(same, heat)
