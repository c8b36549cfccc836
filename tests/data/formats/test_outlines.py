"""Shapes of annotation tools as polygons and masks."""

import math

import numpy as np
import pytest
from pycocotools import mask as coco

from detseg.data.formats.json_files import class_name, given_size
from detseg.data.formats.outlines import (
    cropped,
    decoded,
    drawn,
    ellipse,
    is_mask,
    mask_png,
    pasted,
    png_mask,
    rotated_box,
)
from detseg.data.polygons import FAR


def area(polygon):
    x, y = np.reshape(polygon, (-1, 2)).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def test_an_ellipse_has_its_area_and_turns_clockwise():
    polygon = ellipse(50, 40, 30, 10)
    assert area(polygon) == pytest.approx(math.pi * 300, rel=0.002)
    assert np.allclose(polygon[:2], [80, 40])
    assert np.allclose(ellipse(50, 40, 30, 10, 90)[:2], [50, 70])  # down, as y points down
    with pytest.raises(ValueError, match="radii"):
        ellipse(50, 40, 0, 10)


def test_a_rectangle_turns_around_its_first_corner():
    assert np.allclose(rotated_box(5, 6, 4, 2, 0), [5, 6, 9, 6, 9, 8, 5, 8])
    assert np.allclose(rotated_box(5, 6, 4, 2, 90), [5, 6, 5, 10, 3, 10, 3, 6])


@pytest.mark.parametrize("place", [(0, 0), (-1, -2), (3, 4), (5, -1), (-2, 5)])
def test_masks_are_cut_off_at_the_border(place):
    x, y = place
    expected = np.pad(np.ones((3, 4), bool), ((y + 9, 9 + 7 - 3 - y), (x + 9, 9 + 6 - 4 - x)))[9:16, 9:15]
    assert (decoded(pasted(np.ones((3, 4), bool), x, y, (6, 7))) == expected).all()


@pytest.mark.parametrize(
    ("place", "size"), [((6, 0), (6, 7)), ((0, -3), (6, 7)), ((0, 0), (0, 0)), ((0, 0), (10**6, 10**6))]
)
def test_masks_outside_and_of_no_size_are_refused(place, size):
    with pytest.raises(ValueError, match="its mask"):
        pasted(np.ones((3, 4), bool), *place, size)


def test_masks_come_back_from_png():
    mask = np.random.default_rng(0).random((5, 7)) > 0.5
    assert (png_mask(mask_png(mask)) == mask).all()
    part, x, y = cropped(np.pad(np.ones((2, 3), bool), ((4, 0), (5, 1))))
    assert part.shape == (2, 3) and (x, y) == (5, 4)
    assert cropped(np.zeros((4, 4), bool))[0].tolist() == [[False]]


def runs_of(text):
    """COCO's compressed run lengths, a character after the other; None where they break off."""
    runs, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        value, shift = value | (bits & 31) << shift, shift + 5
        if bits & 32:
            continue
        value -= (bits & 16 > 0) << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return None if shift else runs


def test_run_lengths_are_a_mask_if_they_fill_it():
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = rng.integers(1, 60, 2).tolist()
        mask = np.asfortranarray(rng.random((height, width)) < rng.random(), np.uint8)
        text = coco.encode(mask)["counts"].decode()
        assert is_mask(height, width, text) and is_mask(height, width, runs_of(text))
        assert not is_mask(height + 1, width, text) and not is_mask(height, width + 1, text)
        place = rng.integers(len(text))
        damaged = text[:place] + chr(48 + rng.integers(64)) + text[place + 1 :]
        runs = runs_of(damaged)
        right = runs is not None and min(runs) >= 0 and sum(runs) == height * width
        assert is_mask(height, width, damaged) == right, damaged
    for text in ("", "é", "o" * 40 + "0", "~"):
        assert not is_mask(4, 4, text)


@pytest.mark.parametrize("polygon", [[0, 0, 1, 1], [0, 0, FAR * 2, 1, 1, 1], [0, 0, math.nan, 1, 1, 1]])
def test_polygons_that_cannot_be_drawn_are_refused(polygon):
    with pytest.raises(ValueError, match="polygons"):
        drawn([polygon], (6, 7))


@pytest.mark.parametrize("value", [None, "", "  ", True, {}, [], ["rose"]])
def test_what_is_no_name_of_a_class(value):
    with pytest.raises(ValueError, match="no name"):
        class_name(value)


def test_names_and_sizes_as_files_give_them():
    assert [class_name(value) for value in (" rose ", 7, 1.5)] == ["rose", "7", "1.5"]
    sizes = [("64", 48.0), (0, 48), (-1, 48), (None, 48), (math.inf, 48), (math.nan, 48), (10**12, 48)]
    assert [given_size(*size) for size in sizes] == [(64, 48)] + [(0, 0)] * 6
