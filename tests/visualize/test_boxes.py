"""Boxes on images: which pixels change, that the input does not, and where labels go."""

import inspect
import itertools

import numpy as np
import pytest
import torch

import detseg.visualize.boxes as module
from detseg.visualize import draw_boxes
from tests.visualize.images import BACKGROUND, blank, changed


def test_only_pixels_of_the_box_change():
    outside = np.ones((120, 160), bool)
    outside[30:100, 20:90] = False
    for line_width, crowd in itertools.product((None, 1, 3, 50), (False, True)):
        drawn = changed(draw_boxes(blank(), [[20, 30, 90, 100]], iscrowd=[crowd], line_width=line_width))
        case = f"line width {line_width}, crowd {crowd}"
        assert not drawn[outside].any(), case
        assert drawn[30, 20:90].any() and drawn[99, 20:90].any(), f"{case}: half-open, the last row is 99"
        assert drawn[30:100, 20].any() and drawn[30:100, 89].any(), case
        assert not drawn[60:70, 50:60].any(), f"{case}: a box is an outline, its middle stays visible"


def test_outline_has_the_given_width_and_colour():
    drawn = draw_boxes(blank(), [[20, 30, 90, 100]], colors=(10, 200, 30), line_width=3)
    assert (drawn[30:33, 20:90] == (10, 200, 30)).all() and (drawn[97:100, 20:90] == (10, 200, 30)).all()
    assert changed(drawn).sum() == 70 * 70 - 64 * 64


def test_input_is_not_modified():
    image, boxes = blank(), np.array([[5.0, 5, 60, 60]])
    before = image.copy(), boxes.copy()
    drawn = draw_boxes(image, boxes, [0], ["rose"], [0.5], iscrowd=[True])
    assert (image == before[0]).all() and (boxes == before[1]).all()
    assert not np.shares_memory(drawn, image) and changed(drawn).any()
    assert not np.shares_memory(draw_boxes(image, []), image)


def test_boxes_without_visible_area_are_left_out():
    empty, reversed_, unknown = [[30, 30, 30, 50]], [[60, 30, 30, 50], [30, 50, 60, 30]], [[np.nan, 3, 20, 20]]
    outside = [[-50, -50, -1, -1], [160, 0, 300, 50], [0, 120, 50, 150]]
    for box in empty + reversed_ + unknown + outside:
        assert not changed(draw_boxes(blank(), [box], [0], ["rose"], [0.9])).any(), box


def test_visible_part_of_odd_boxes():
    for box, edge in (
        ([-100, -100, 1000, 1000], (0, 0, 160, 120)),
        ([-np.inf, 10, np.inf, 40], (0, 10, 160, 40)),
        ([150, 110, 170, 130], (150, 110, 160, 120)),
        ([40.1, 40.1, 40.3, 40.3], (40, 40, 41, 41)),  # thinner than a pixel: shown as one
        ([159.9, 119.9, 161, 121], (159, 119, 160, 120)),
        ([10.00001, 10, 20.00001, 20], (10, 10, 20, 20)),  # rounding dirt does not add a column
    ):
        rows, columns = np.nonzero(changed(draw_boxes(blank(), [box])))
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == edge, box


def test_no_boxes():
    for empty in ([], np.zeros((0, 4)), torch.zeros(0, 4)):
        drawn = draw_boxes(blank(), empty, np.zeros(0), ["rose"], np.zeros(0), iscrowd=np.zeros(0, bool))
        assert not changed(drawn).any()


def test_tensors_draw_like_arrays():
    boxes = torch.tensor([[10.0, 20, 90, 80]])
    a = draw_boxes(blank(), boxes, torch.tensor([1]), ["a", "b"], torch.tensor([0.5]), iscrowd=torch.tensor([True]))
    b = draw_boxes(blank(), boxes.numpy(), [1], ["a", "b"], [0.5], iscrowd=[True])
    assert (a == b).all()


def test_first_box_is_on_top():
    drawn = draw_boxes(blank(), [[20, 20, 60, 60]] * 2, colors=[(255, 0, 0), (0, 0, 255)])
    assert drawn[20, 30].tolist() == [255, 0, 0]


def test_crowd_is_thinner_and_broken():
    box = [[20, 20, 120, 100]]
    plain = (draw_boxes(blank(), box, colors=(255, 0, 0), line_width=4) == (255, 0, 0)).all(axis=2)
    crowd = (draw_boxes(blank(), box, colors=(255, 0, 0), line_width=4, iscrowd=[True]) == (255, 0, 0)).all(axis=2)
    assert plain[20:24, 20:120].all()
    assert 0.4 < crowd[20, 20:120].mean() < 0.8
    assert not crowd[22:24, 30:110].any()


def test_small_objects_stay_visible_in_large_images():
    drawn = draw_boxes(blank(3000, 4000), [[100, 100, 140, 140]])
    assert changed(drawn)[100:110, 100:140].all()
    assert not changed(drawn)[110:130, 110:130].any()


def test_lines_and_letters_grow_with_the_image():
    heights, lines = [], []
    for width in (240, 960, 4000):
        image = blank(width * 3 // 4, width)
        box = [[width * 0.2, width * 0.3, width * 0.8, width * 0.7]]
        mask = changed(draw_boxes(image, box))
        lines.append(int(mask[:, width // 2].sum()) // 2)
        with_label = changed(draw_boxes(image, box, [0], ["rose"]))
        heights.append(int((with_label & ~mask)[:, round(width * 0.2) + 1].sum()))
    assert lines[0] >= 2 and lines[2] >= 10 and lines == sorted(lines)
    assert heights[0] >= 10 and heights[1] > heights[0] and heights[2] > 3 * heights[1]


@pytest.fixture
def pasted(monkeypatch):
    """Where labels were put: (x, y, height, width) of each."""
    places, original = [], module.paste
    monkeypatch.setattr(module, "paste", lambda t, p, x, y: (places.append((x, y, *p.shape[:2])), original(t, p, x, y)))
    return places


def test_labels_stay_in_the_image(pasted):
    for box in ([0, 0, 160, 120], [150, 0, 160, 10], [0, 110, 10, 120], [150, 110, 160, 120]):
        for name in ("rose", "a very long name that no image of this size has room for"):
            pasted.clear()
            assert draw_boxes(blank(), [box], [0], [name], [0.51]).shape == (120, 160, 3)
            ((x, y, height, width),) = pasted
            assert x >= 0 and y >= 0 and x + width <= 160 and y + height <= 120, f"{name} at {box}"


def test_long_names_keep_their_score(monkeypatch):
    lines, original = [], module.text_patch
    monkeypatch.setattr(module, "text_patch", lambda text, *a: (lines.append(text), original(text, *a))[1])
    draw_boxes(blank(), [[0, 40, 50, 90]], [0], ["hydrangea " * 10], [0.51])
    assert lines[0].startswith("hydrangea") and lines[0].endswith("… 0.51")


def test_image_too_small_for_text():
    drawn = draw_boxes(blank(4, 5), [[0, 0, 5, 4]], [0], ["rose"], [0.5])
    assert drawn.shape == (4, 5, 3)


def test_labels_of_neighbours_do_not_cover_each_other(pasted):
    draw_boxes(blank(300, 400), [[100, 100, 200, 200], [104, 103, 198, 202]], [0, 0], ["rose"])
    (ax, ay, ah, aw), (bx, by, bh, bw) = pasted
    assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay


def test_accents_reach_the_image():
    a = draw_boxes(blank(), [[10, 40, 150, 110]], [0], ["Gänse"])
    b = draw_boxes(blank(), [[10, 40, 150, 110]], [0], ["Ganse"])
    assert (a != b).any()


def test_masks_are_laid_under_the_boxes():
    masks = np.zeros((2, 120, 160), np.uint8)
    masks[0, 30:90, 20:80] = 1
    masks[1, 30:90, 50:110] = 255
    boxes = [[20, 30, 80, 90], [50, 30, 110, 90]]
    image = blank()
    drawn = draw_boxes(image, boxes, colors=[(255, 0, 0), (0, 0, 255)], masks=masks, line_width=1)
    assert (image == BACKGROUND).all(), "a copy"
    red, blue = ((BACKGROUND + np.array(color)) / 2 for color in ((255, 0, 0), (0, 0, 255)))
    np.testing.assert_allclose(drawn[60, 35], red, atol=1)
    np.testing.assert_allclose(drawn[60, 65], red, atol=1, err_msg="the first is on top")
    np.testing.assert_allclose(drawn[60, 95], blue, atol=1)
    assert drawn[30, 40].tolist() == [255, 0, 0], "the box in full colour"
    assert not changed(drawn)[:30].any() and not changed(drawn)[:, 110:].any()
    assert (draw_boxes(image, [], masks=np.zeros((0, 120, 160))) == image).all()
    as_tensors = draw_boxes(
        image, boxes, colors=[(255, 0, 0), (0, 0, 255)], masks=torch.from_numpy(masks), line_width=1
    )
    assert (as_tensors == drawn).all()


def test_mistakes_are_named():
    box = [[1, 2, 3, 4]]
    for arguments, message in (
        ({"boxes": [[1, 2, 3]]}, r"boxes must have shape \(1, 4\), got \(1, 3\)"),
        ({"boxes": box, "labels": [1, 2]}, r"labels must have shape \(1,\), got \(2,\)"),
        ({"boxes": box, "scores": []}, r"scores must have shape \(1,\)"),
        ({"boxes": box, "labels": [3], "names": ["a", "b"]}, r"box 0 has label 3, .* 2 names \(0..1\)"),
        ({"boxes": box, "colors": [[1, 2]]}, r"colors must have shape"),
        ({"boxes": box, "colors": (1, 2, 256)}, r"0..255, got 1..256"),
        ({"boxes": box, "masks": np.zeros((1, 9, 9))}, r"masks must have shape \(1, 120, 160\), got \(1, 9, 9\)"),
        ({"boxes": box, "masks": np.zeros((2, 120, 160))}, r"masks must have shape \(1, 120, 160\)"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_boxes(blank(), **arguments)
    for image in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((9, 9, 0), np.uint8), "x"):
        with pytest.raises(ValueError, match=r"uint8 array \(height, width, 3\)"):
            draw_boxes(image, [])


def test_import_stays_light():
    import subprocess
    import sys

    code = "import sys, detseg.visualize; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    root = inspect.getfile(draw_boxes).split("/detseg/visualize")[0]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert result.stdout.strip() == "[]"
