"""Heat over images and the sheets of an explanation: which pixels change, and to what."""

import numpy as np
import pytest

from detseg.data.colours import luminance
from detseg.visualize.heat import (
    HEAT,
    UNSEEN,
    VALUES,
    WIDTH,
    class_bars,
    draw_heat,
    filter_sheet,
    heat_picture,
    heat_sheet,
    map_sheet,
    percent,
    stack,
    title_strip,
    value_colors,
)


def grey(height=60, width=80, value=100):
    return np.full((height, width, 3), value, np.uint8)


def spot(y, x, shape=(8, 8)):
    heat = np.zeros(shape, np.float32)
    heat[y, x] = 3
    return heat


def test_colours_rise_evenly_from_dark_to_bright():
    for scale in (HEAT, VALUES):
        colours = value_colors(np.linspace(0, 1, 11), scale)
        light = [116 * np.cbrt(luminance(tuple(c))) - 16 for c in colours[1:].tolist()]  # CIE L*
        steps = np.diff(light)
        assert (steps > 0).all() and steps.max() < 2.5 * steps.min(), scale
        assert (value_colors(np.array([-1.0, np.nan, 0]), scale) == colours[0]).all(), scale
    assert value_colors(np.array([[-1.0, np.nan], [0, 2]])).shape == (2, 2, 3)


def test_heat_lies_where_it_is():
    image = grey(80, 80)
    before = image.copy()
    drawn = draw_heat(image, spot(2, 6))
    assert np.array_equal(image, before), "a copy"
    changed = (drawn != image).any(2)
    rows, columns = np.nonzero(changed)
    assert abs(rows.mean() - 24.5) < 0.6 and abs(columns.mean() - 64.5) < 0.6
    assert rows.min() >= 15 and columns.min() >= 55
    np.testing.assert_allclose(draw_heat(image, np.ones((4, 4))), 28 + 0.72 * hottest(), atol=1)


def hottest():
    """The colour of the highest heat, for every pixel of an image of 80 x 80."""
    return value_colors(np.ones((80, 80)), HEAT).astype(float)


def test_large_images_are_drawn_part_by_part():
    heat = np.random.default_rng(0).random((9, 9))
    large = draw_heat(grey(600, 40), heat)
    for top in (0, 200, 500):
        part = draw_heat(grey(100, 40), heat, (0, -top, 40, 600 - top))
        np.testing.assert_allclose(large[top : top + 100].astype(int), part.astype(int), atol=1)


def test_heat_of_a_part_of_the_image():
    image = grey(60, 100)
    drawn = draw_heat(image, spot(4, 4), (20, 0, 80, 60))
    outside = np.ones((60, 100), bool)
    outside[:, 20:80] = False
    assert (drawn[outside] == 100 * UNSEEN).all()
    assert (drawn[5, 25] == 100).all()
    assert (drawn[33, 53] != 100).any()
    sticking_out = draw_heat(image, spot(4, 4), (-20, -40, 120, 100))
    assert (sticking_out[0, 0] == 100).all(), "seen, and cold"
    y, x = np.nonzero((sticking_out != 100).any(2))
    assert abs(x.mean() - (-20 + 4.5 * 140 / 8 - 0.5)) < 1 and abs(y.mean() - (-40 + 4.5 * 140 / 8 - 0.5)) < 1


def test_only_shares_of_the_highest_heat_count():
    image, heat = grey(), np.random.default_rng(0).random((7, 7)).astype(np.float32)
    drawn = draw_heat(image, heat)
    np.testing.assert_allclose(draw_heat(image, 1000 * heat).astype(int), drawn.astype(int), atol=1)
    assert (draw_heat(image, np.zeros((7, 7))) == 100).all(), "no heat"
    assert draw_heat(grey(1, 1), np.ones((7, 7))).shape == (1, 1, 3)


def test_colours_of_the_image_fade():
    image = np.zeros((10, 10, 3), np.uint8)
    image[...] = (255, 128, 0)
    drawn = draw_heat(image, np.zeros((4, 4)))
    assert np.ptp(drawn[5, 5].astype(int)) < 60


def test_percent():
    for share, text in [(1, "100.0 %"), (0.0531, "5.3 %"), (0.0005, "0.1 %"), (0.0004, "< 0.1 %"), (0, "< 0.1 %")]:
        assert percent(share) == text


def test_an_image_keeps_its_size_over_the_caption():
    image = grey(300, 500)
    drawn = heat_picture(image, spot(1, 1), "53.1 % daisy")
    assert drawn.shape[1] == 500 and 300 < drawn.shape[0] < 340
    assert np.array_equal(drawn[:300], draw_heat(image, spot(1, 1)))
    assert heat_picture(grey(3, 2), spot(1, 1), "a long caption")[:3].shape == (3, 2, 3)


def test_sheets_fit_on_one_page():
    rng = np.random.default_rng(0)
    maps = [("fine", rng.random((8, 40, 40))), ("coarse", rng.random((3, 7, 5))), ("flat", np.ones((1, 2, 2)))]
    sheets = [
        title_strip("an image", "a network"),
        class_bars(["rose", "tulip"], [0.9, 0.1]),
        heat_sheet(grey(300, 200), [spot(0, 0)] * 5, list("abcde"), (0, 50, 200, 250), note="of the last maps"),
        heat_sheet(grey(3, 200), [], []),
        map_sheet(maps),
        filter_sheet(rng.normal(size=(33, 3, 3, 3))),
    ]
    page = stack(sheets)
    assert page.shape == (sum(sheet.shape[0] for sheet in sheets), WIDTH, 3)
    for sheet in sheets:
        assert sheet.dtype == np.uint8 and sheet.shape[1] <= WIDTH


def test_bars_are_as_long_as_the_probabilities():
    long, short = (class_bars(["rose"], [share]) for share in (0.8, 0.2))
    blue = [int((sheet == (0, 114, 178)).all(2).sum(1).max()) for sheet in (long, short)]
    assert blue[0] == pytest.approx(4 * blue[1], abs=4)


def test_filters_show_their_colours():
    filters = np.zeros((3, 3, 2, 2), np.float32)
    filters[1, 0] = 0.2  # wants red
    filters[2, 2] = -5  # shuns blue
    colours = {tuple(c) for c in filter_sheet(filters).reshape(-1, 3).tolist()}
    assert {(128, 128, 128), (255, 128, 128), (128, 128, 0)} <= colours


def test_mistakes():
    with pytest.raises(ValueError, match="there are 1 classes but 2 captions"):
        heat_sheet(grey(), [spot(0, 0)], ["a", "b"])
    with pytest.raises(ValueError, match="there are 1 names but 2 scores"):
        class_bars(["a"], [0.5, 0.5])
    with pytest.raises(ValueError, match="uint8 array"):
        draw_heat(np.zeros((4, 4)), spot(0, 0))
