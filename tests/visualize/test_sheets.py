"""Contact sheets: their size, order and captions."""

import numpy as np
import pytest

from detseg.visualize import compare_sheet, contact_sheet
from detseg.visualize.sheets import scaled
from tests.visualize.images import BACKGROUND, blank


def test_contact_sheet_size():
    gap = 200 // 40
    for count, columns, (rows, across) in ((1, 4, (1, 1)), (4, 2, (2, 2)), (5, 2, (3, 2))):
        sheet = contact_sheet([blank(50, 100)] * count, columns, tile=200)
        assert sheet.shape == (rows * (100 + gap) + gap, across * (200 + gap) + gap, 3), f"{count} in {columns}"


def test_rgb_stays_rgb():
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 200
    sheet = contact_sheet([red], 1, tile=80)
    assert sheet[sheet.shape[0] // 2, sheet.shape[1] // 2].tolist() == [200, 0, 0]


def test_contact_sheet_shows_each_image_in_order():
    images = [np.full((30, 40, 3), 20 * (i + 1), np.uint8) for i in range(5)]
    sheet = contact_sheet(images, 3, tile=40)
    seen = [int(v) for v in dict.fromkeys(sheet[:, :, 0].ravel().tolist()) if v % 20 == 0 and v <= 100]
    assert seen == [20, 40, 60, 80, 100]
    assert all((sheet == 20 * (i + 1)).all(axis=2).sum() == 30 * 40 for i in range(5))


def test_contact_sheet_does_not_alias_or_modify():
    image = blank(320, 320)
    sheet = contact_sheet([image], 1, tile=320)
    sheet[:] = 0
    assert (image == BACKGROUND).all()


def test_captions_add_text_below():
    plain = contact_sheet([blank(40, 80)], 1, tile=200)
    named = contact_sheet([blank(40, 80)], 1, tile=200, captions=["rose\n" + "x" * 500])
    assert named.shape[0] > plain.shape[0] and named.shape[1] == plain.shape[1]
    assert (named[plain.shape[0] :] < 120).any()


def test_empty_sheets():
    for sheet in (contact_sheet([], 4), contact_sheet([], 1, 40, []), compare_sheet([], [], [], ["rose"])):
        assert sheet.dtype == np.uint8 and sheet.ndim == 3 and sheet.shape[2] == 3 and min(sheet.shape[:2]) > 5


def test_sheet_mistakes():
    with pytest.raises(ValueError, match="columns and tile must be at least 1, got 0 and 320"):
        contact_sheet([blank()], 0)
    with pytest.raises(ValueError, match="columns and tile must be at least 1, got 2 and 0"):
        compare_sheet([], [], [], ["rose"], tile=0)
    with pytest.raises(ValueError, match="1 images but 2 captions"):
        contact_sheet([blank()], 1, captions=["a", "b"])
    with pytest.raises(ValueError, match="1 images but 0 truths"):
        compare_sheet([blank()], [], [{}], ["a"])
    with pytest.raises(ValueError, match="0 x 5 pixels"):
        contact_sheet([np.zeros((5, 0, 3), np.uint8)], 1)


@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("tile", [20, 40, 80])
def test_images_of_any_number_of_bands_are_scaled(bands, tile):
    image = np.full((30, 40, bands), range(10, 10 + bands), np.uint8)
    small, x, y = scaled(image, tile)
    assert small.shape == (tile * 3 // 4, tile, bands) and (x, y) == pytest.approx((tile / 40, tile / 40), rel=0.03)
    assert (small == range(10, 10 + bands)).all()
    assert contact_sheet([image], 1, tile).shape[2] == 3
