"""Masks laid over images: which pixels change, and to what."""

import numpy as np
import pytest

from detseg.data import mask_palette
from detseg.visualize import class_color, draw_mask, mask_sheet

NAMES = ["background", "rose", "牡丹"]


def grey(height=60, width=80, value=100):
    return np.full((height, width, 3), value, np.uint8)


def scene():
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 5:30] = 1
    mask[20:50, 40:70] = 2
    mask[55:] = 255
    return mask


def test_each_class_has_its_colour_and_border_and_the_background_none():
    image, mask = grey(), scene()
    before = image.copy()
    drawn = draw_mask(image, mask, NAMES, legend=False)
    assert np.array_equal(image, before), "a copy"
    assert (drawn[mask == 0] == 100).all()
    for label in (1, 2):
        inside = drawn[30, 17 if label == 1 else 55]
        np.testing.assert_allclose(inside, (100 + np.array(class_color(label - 1))) / 2, atol=1)
    assert drawn[10, 17].tolist() == list(class_color(0)), "the border in full colour"
    assert drawn[20, 55].tolist() == list(class_color(1))


def test_ignored_pixels_are_hatched():
    mask = np.full((60, 80), 255, np.uint8)
    drawn = draw_mask(grey(), mask, NAMES, legend=False)
    colours = {tuple(c) for c in drawn.reshape(-1, 3).tolist()}
    assert colours == {(50, 50, 50), tuple(np.rint((100 + mask_palette(NAMES)[255].astype(float)) / 2).astype(int))}


def test_without_a_background_every_class_is_coloured():
    drawn = draw_mask(grey(), np.zeros((60, 80), np.uint8), ["sky", "ground"], legend=False)
    np.testing.assert_allclose(drawn[30, 40], (100 + np.array(class_color(0))) / 2, atol=1)


def test_the_legend_names_the_classes_and_keeps_out_of_their_way():
    image, mask = grey(300, 400), np.zeros((300, 400), np.uint8)
    mask[150:, :] = 1
    plain, drawn = draw_mask(image, mask, NAMES, legend=False), draw_mask(image, mask, NAMES)
    rows, _ = np.nonzero((plain != drawn).any(2))
    assert len(rows) > 100
    assert rows.max() < 150, "on the free half"
    mask[:100, :200] = 2
    changed = (draw_mask(image, mask, NAMES) != draw_mask(image, mask, NAMES, legend=False)).any(2)
    assert np.nonzero(changed)[1].min() >= 200, "in the free corner"


def test_an_image_of_background_alone_and_tiny_ones_have_no_legend():
    assert np.array_equal(draw_mask(grey(), np.zeros((60, 80), np.uint8), NAMES), grey())
    for shape in ((1, 1), (3, 200), (9, 9)):
        mask = np.ones(shape, np.uint8)
        assert draw_mask(grey(*shape), mask, NAMES).shape == (*shape, 3)


def test_many_classes_are_not_all_in_the_legend():
    names = ["background", *(f"class number {k}" for k in range(254))]
    mask = np.arange(255, dtype=np.uint8).repeat(4).reshape(30, 34)
    drawn = draw_mask(grey(30, 34), mask, names)
    assert drawn.shape == (30, 34, 3)
    large = np.kron(mask, np.ones((8, 8), np.uint8))
    changed = draw_mask(grey(*large.shape), large, names) != draw_mask(grey(*large.shape), large, names, legend=False)
    assert changed.any(2).mean() < 0.3, "at most half of the height and width"


def test_masks_that_do_not_fit():
    for mask, message in (
        (np.zeros((60, 81), np.uint8), r"as large as its image \(60, 80\), got uint8 \(60, 81\)"),
        (np.zeros((60, 80)), "whole numbers .* got float64"),
        (np.full((60, 80), 3), "the label 3, but there are 3 names"),
        (np.full((60, 80), -1), "the label -1"),
        (np.full((60, 80), 300), "the label 300"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_mask(grey(), mask, NAMES)


def test_a_sheet_takes_images_one_by_one():
    held = []

    def images(count):
        for index in range(count):
            held.append(index)
            yield grey(), scene(), scene() * (scene() != 255)

    sheet = mask_sheet(images(3), NAMES, captions=["a", "b", "c"], remark="image, truth, prediction", bare=True)
    assert held == [0, 1, 2]
    assert sheet.shape[1] > 2 * 3 * 240
    assert sheet.shape[0] > 2 * 180
    single = mask_sheet([(grey(), scene())], NAMES)
    assert 240 <= single.shape[1] < 300
    assert mask_sheet([], NAMES).size > 0, "a sheet that says so"
    with pytest.raises(ValueError, match="3 images but 1 captions"):
        mask_sheet(images(3), NAMES, captions=["a"])
