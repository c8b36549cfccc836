"""Drawing: which pixels change, that the input does not, and what counts as found, wrong or missed."""

import inspect

import cv2
import numpy as np
import pytest
import torch

from detseg.visualize import (
    class_color,
    compare_sheet,
    contact_sheet,
    draw_boxes,
    match_objects,
    worst_pictures,
)
from detseg.visualize import text as drawing_text
from detseg.visualize.compare import FOUND, IGNORED, MISSED, WRONG

BACKGROUND = 77


def blank(height=120, width=160):
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def changed(image):
    """(H, W) bool: pixels that differ from a blank picture."""
    return (image != BACKGROUND).any(axis=2)


def objects(*rows, scores=None, iscrowd=None):
    """Rows (label, x1, y1, x2, y2) as a target or, with scores, a detection."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    result = {"boxes": table[:, 1:], "labels": table[:, 0].astype(np.int64)}
    if scores is not None:
        result["scores"] = np.array(scores, np.float32)
    if iscrowd is not None:
        result["iscrowd"] = np.array(iscrowd, bool)
    return result


# ------------------------------------------------------------------------------------------ draw_boxes


@pytest.mark.parametrize("crowd", [False, True])
@pytest.mark.parametrize("line_width", [None, 1, 3, 50])
def test_only_pixels_of_the_box_change(line_width, crowd):
    image = blank()
    drawn = draw_boxes(image, [[20, 30, 90, 100]], iscrowd=[crowd], line_width=line_width)
    outside = np.ones(image.shape[:2], bool)
    outside[30:100, 20:90] = False
    assert not changed(drawn)[outside].any()
    assert changed(drawn)[30, 20:90].any() and changed(drawn)[99, 20:90].any()  # half-open: last row is 99
    assert changed(drawn)[30:100, 20].any() and changed(drawn)[30:100, 89].any()
    assert not changed(drawn)[60:70, 50:60].any(), "a box is an outline: its middle stays visible"


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


@pytest.mark.parametrize(
    "box",
    [
        [30, 30, 30, 50],
        [60, 30, 30, 50],
        [30, 50, 60, 30],
        [np.nan, 3, 20, 20],
        [-50, -50, -1, -1],
        [160, 0, 300, 50],
        [0, 120, 50, 150],
    ],
)
def test_boxes_without_visible_area_are_left_out(box):
    drawn = draw_boxes(blank(), [box], [0], ["rose"], [0.9])
    assert not changed(drawn).any()


@pytest.mark.parametrize(
    ("box", "edge"),
    [
        ([-100, -100, 1000, 1000], (0, 0, 160, 120)),
        ([-np.inf, 10, np.inf, 40], (0, 10, 160, 40)),
        ([150, 110, 170, 130], (150, 110, 160, 120)),
        ([40.1, 40.1, 40.3, 40.3], (40, 40, 41, 41)),  # thinner than a pixel: shown as one
        ([159.9, 119.9, 161, 121], (159, 119, 160, 120)),
        ([10.00001, 10, 20.00001, 20], (10, 10, 20, 20)),  # rounding dirt does not add a column
    ],
)
def test_visible_part_of_odd_boxes(box, edge):
    mask = changed(draw_boxes(blank(), [box]))
    rows, columns = np.nonzero(mask)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == edge


def test_no_boxes():
    for empty in ([], np.zeros((0, 4)), torch.zeros(0, 4)):
        drawn = draw_boxes(blank(), empty, np.zeros(0), ["rose"], np.zeros(0), iscrowd=np.zeros(0, bool))
        assert not changed(drawn).any()


def test_tensors_draw_like_arrays():
    boxes = torch.tensor([[10.0, 20, 90, 80]])
    a = draw_boxes(blank(), boxes, torch.tensor([1]), ["a", "b"], torch.tensor([0.5]), iscrowd=torch.tensor([True]))
    b = draw_boxes(blank(), boxes.numpy(), [1], ["a", "b"], [0.5], iscrowd=[True])
    assert (a == b).all()


def test_rgb_stays_rgb():
    drawn = draw_boxes(blank(), [[0, 0, 50, 50]], colors=(255, 0, 0))
    assert drawn[0, 0].tolist() == [255, 0, 0]
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 200
    sheet = contact_sheet([red], 1, tile=80)
    middle = sheet[sheet.shape[0] // 2, sheet.shape[1] // 2]
    assert middle.tolist() == [200, 0, 0]


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


def test_small_objects_stay_visible_in_large_pictures():
    drawn = draw_boxes(blank(3000, 4000), [[100, 100, 140, 140]])
    assert changed(drawn)[100:110, 100:140].all()
    assert not changed(drawn)[110:130, 110:130].any()


def test_lines_and_letters_grow_with_the_picture():
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


@pytest.mark.parametrize("box", [[0, 0, 160, 120], [150, 0, 160, 10], [0, 110, 10, 120], [150, 110, 160, 120]])
@pytest.mark.parametrize("name", ["rose", "a very long name that no picture of this size has room for"])
def test_label_stays_in_the_picture(box, name, monkeypatch):
    pasted = []
    import detseg.visualize.boxes as module

    original = module.paste
    monkeypatch.setattr(module, "paste", lambda t, p, x, y: (pasted.append((x, y, *p.shape)), original(t, p, x, y)))
    drawn = draw_boxes(blank(), [box], [0], [name], [0.51])
    ((x, y, height, width, _),) = pasted
    assert drawn.shape == (120, 160, 3)
    assert x >= 0 and y >= 0 and x + width <= 160 and y + height <= 120


def test_long_names_keep_their_score(monkeypatch):
    import detseg.visualize.boxes as module

    lines = []
    original = module.text_patch
    monkeypatch.setattr(module, "text_patch", lambda text, *a: (lines.append(text), original(text, *a))[1])
    draw_boxes(blank(), [[0, 40, 50, 90]], [0], ["hydrangea " * 10], [0.51])
    assert lines[0].startswith("hydrangea") and lines[0].endswith("… 0.51")


def test_picture_too_small_for_text():
    drawn = draw_boxes(blank(4, 5), [[0, 0, 5, 4]], [0], ["rose"], [0.5])
    assert drawn.shape == (4, 5, 3)


def test_labels_of_neighbours_do_not_cover_each_other(monkeypatch):
    import detseg.visualize.boxes as module

    places = []
    original = module.paste
    monkeypatch.setattr(module, "paste", lambda t, p, x, y: (places.append((x, y, *p.shape)), original(t, p, x, y)))
    draw_boxes(blank(300, 400), [[100, 100, 200, 200], [104, 103, 198, 202]], [0, 0], ["rose"])
    (ax, ay, ah, aw, _), (bx, by, bh, bw, _) = places
    assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay


@pytest.mark.parametrize("name", ["Gänseblümchen", "Пион", "牡丹", "ひまわり", "해바라기"])
def test_names_in_other_scripts_are_drawn(name):
    if not hasattr(cv2, "FontFace") and any(ord(c) > 0x2E00 for c in name):
        pytest.skip("this OpenCV has no font for Chinese, Japanese and Korean")
    mask = drawing_text.text_mask(name, 24)
    missing = drawing_text.text_mask("\uffff" * len(name), 24)
    assert mask.max() > 200
    assert mask.shape != missing.shape or (mask != missing).any()
    # Two different letters of the name do not look the same, as two missing ones would.
    first, last = (drawing_text.text_mask(c, 24) for c in (name[0], name[-1]))
    assert first.shape != last.shape or (first != last).any()


def test_accents_reach_the_picture():
    a = draw_boxes(blank(), [[10, 40, 150, 110]], [0], ["Gänse"])
    b = draw_boxes(blank(), [[10, 40, 150, 110]], [0], ["Ganse"])
    assert (a != b).any()


def test_text_contrast_is_legible_on_every_colour():
    def luminance(color):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(color) / 255]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    for color in [*map(class_color, range(200)), FOUND, WRONG, MISSED, IGNORED]:
        light, dark = sorted((luminance(color), luminance(drawing_text.text_color(color))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, color  # WCAG AA


def test_class_colours_are_stable_and_distinct():
    assert class_color(0) == (230, 159, 0) and class_color(100) == class_color(100)
    colors = np.array([[class_color(i) for i in range(80)]], np.float32) / 255
    lab = cv2.cvtColor(colors, cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1e3 * np.eye(80)
    assert distance[:7, :7].min() > 20
    assert distance[:40, :40].min() > 9
    assert distance.min() > 5
    with pytest.raises(ValueError, match="start at 0, got -1"):
        class_color(-1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes": [[1, 2, 3]]}, r"boxes must have shape \(1, 4\), got \(1, 3\)"),
        ({"boxes": [[1, 2, 3, 4]], "labels": [1, 2]}, r"labels must have shape \(1,\), got \(2,\)"),
        ({"boxes": [[1, 2, 3, 4]], "scores": []}, r"scores must have shape \(1,\)"),
        (
            {"boxes": [[1, 2, 3, 4]], "labels": [3], "names": ["a", "b"]},
            r"box 0 has label 3, .* 2 names \(0..1\)",
        ),
        ({"boxes": [[1, 2, 3, 4]], "colors": [[1, 2]]}, r"colors must have shape"),
        ({"boxes": [[1, 2, 3, 4]], "colors": (1, 2, 256)}, r"0..255, got 1..256"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_boxes(blank(), **arguments)


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8), "x"])
def test_image_must_be_rgb_uint8(image):
    with pytest.raises(ValueError, match=r"uint8 array \(height, width, 3\)"):
        draw_boxes(image, [])


# ---------------------------------------------------------------------------------------------- sheets


@pytest.mark.parametrize(("count", "columns", "grid"), [(1, 4, (1, 1)), (4, 2, (2, 2)), (5, 2, (3, 2))])
def test_contact_sheet_size(count, columns, grid):
    sheet = contact_sheet([blank(50, 100)] * count, columns, tile=200)
    gap = 200 // 40
    assert sheet.shape == (grid[0] * (100 + gap) + gap, grid[1] * (200 + gap) + gap, 3)


def test_contact_sheet_shows_each_picture_in_order():
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
    with pytest.raises(ValueError, match="1 images but 2 captions"):
        contact_sheet([blank()], 1, captions=["a", "b"])
    with pytest.raises(ValueError, match="1 images but 0 truths"):
        compare_sheet([blank()], [], [objects(scores=[])], ["a"])
    with pytest.raises(ValueError, match="0 x 5 pixels"):
        contact_sheet([np.zeros((5, 0, 3), np.uint8)], 1)


# ------------------------------------------------------------------------------------------- comparison


def test_match_by_hand():
    truth = objects((0, 0, 0, 10, 10), (0, 20, 0, 30, 10), (1, 40, 0, 50, 10), (1, 60, 0, 70, 10))
    prediction = objects(
        (0, 0, 0, 10, 10),  # right
        (0, 0, 0, 10, 9),  # a double of it
        (0, 20, 0, 30, 5),  # IoU exactly 0.5: right
        (0, 40, 0, 50, 10),  # the wrong class
        (1, 60, 0, 70, 4),  # too loose
        (1, 60, 0, 70, 10),  # right, but below the score threshold
        scores=[0.9, 0.8, 0.7, 0.6, 0.5, 0.1],
    )
    match = match_objects(truth, prediction)
    assert match.found.tolist() == [True, True, False, False]
    assert match.kept.tolist() == [0, 1, 2, 3, 4]
    assert match.right.tolist() == [True, False, True, False, False]
    assert (match.hits, match.wrong, match.missed) == (2, 3, 2)
    assert match.f1 == pytest.approx(4 / 9)
    assert match_objects(truth, prediction, score_threshold=0.05).found.tolist() == [True, True, False, True]


def test_better_score_chooses_first_and_takes_the_highest_iou():
    truth = objects((0, 0, 0, 10, 10), (0, 2, 0, 12, 10))
    prediction = objects((0, 1.8, 0, 12, 10), (0, 1, 0, 11, 10), scores=[0.5, 0.9])
    match = match_objects(truth, prediction)
    assert match.kept.tolist() == [1, 0] and match.right.all() and match.found.all()


def test_crowd_is_neither_missed_nor_wrong():
    truth = objects((0, 0, 0, 100, 100), (1, 200, 0, 210, 10), iscrowd=[True, False])
    prediction = objects((0, 5, 5, 15, 15), (1, 5, 5, 15, 15), (0, 95, 0, 120, 10), scores=[0.9, 0.8, 0.7])
    match = match_objects(truth, prediction)
    assert match.ignored.tolist() == [True, False, False]  # other class; only a fifth of it inside
    assert (match.hits, match.wrong, match.missed) == (0, 2, 1)


def test_match_of_nothing():
    nothing, none_found = objects(), objects(scores=[])
    assert match_objects(nothing, none_found).f1 == 1.0
    assert match_objects(objects((0, 0, 0, 5, 5)), none_found).f1 == 0.0
    assert match_objects(nothing, objects((0, 0, 0, 5, 5), scores=[0.9])).f1 == 0.0


def test_match_takes_tensors():
    truth = {
        "boxes": torch.tensor([[0.0, 0, 5, 5]]),
        "labels": torch.tensor([0]),
        "iscrowd": torch.tensor([False]),
    }
    prediction = {k: truth[k] for k in ("boxes", "labels")} | {"scores": torch.tensor([0.9])}
    assert match_objects(truth, prediction).hits == 1


def test_worst_pictures_come_first():
    one, two = objects((0, 0, 0, 9, 9)), objects((0, 0, 0, 9, 9), (0, 20, 20, 29, 29))
    right, nothing = objects((0, 0, 0, 9, 9), scores=[0.9]), objects(scores=[])
    order = worst_pictures([one, one, two, two], [right, nothing, right, nothing])
    assert order == [3, 1, 2, 0]
    assert worst_pictures([one, one], [right, nothing], 1) == [1]


def test_compare_sheet_paints_each_fate_on_its_side():
    truth = objects((0, 10, 40, 60, 90), (0, 80, 40, 130, 90), (0, 140, 40, 190, 90), iscrowd=[False, False, True])
    prediction = objects((0, 10, 40, 60, 90), (0, 80, 100, 130, 140), scores=[0.9, 0.8])
    image = blank(150, 200)
    sheet = compare_sheet([image], [truth], [prediction], ["rose"], tile=200)
    body = sheet[40:]  # below the legend
    half = body.shape[1] // 2
    left, right = body[:, :half], body[:, half:]

    def has(part, color):
        return (part == color).all(axis=2).sum() > 30

    assert has(left, FOUND) and has(left, MISSED) and has(left, IGNORED) and not has(left, WRONG)
    assert has(right, FOUND) and has(right, WRONG) and not has(right, MISSED) and not has(right, IGNORED)
    assert (image == BACKGROUND).all()


def test_compare_sheet_of_pictures_of_many_sizes():
    images = [blank(100, 200), blank(200, 100), blank(7, 7)]
    truths = [objects((0, 0, 0, 50, 50)), objects(), objects((1, 0, 0, 7, 7))]
    predictions = [
        objects(scores=[]),
        objects((1, 5, 5, 50, 50), scores=[0.9]),
        objects((1, 0, 0, 7, 7), scores=[1]),
    ]
    sheet = compare_sheet(images, truths, predictions, ["a", "b"], columns=2, tile=100, captions=["x", "y", "z"])
    assert sheet.shape[1] > 400 and sheet.shape[0] > 200


def test_real_flowers_are_matched_to_themselves(flowers_det):
    import json

    content = json.loads((flowers_det / "val.json").read_text())
    picture = max(content["images"], key=lambda i: sum(a["image_id"] == i["id"] for a in content["annotations"]))
    mine = [a for a in content["annotations"] if a["image_id"] == picture["id"]]
    boxes = np.array([a["bbox"] for a in mine])
    boxes[:, 2:] += boxes[:, :2]
    truth = {"boxes": boxes, "labels": np.array([a["category_id"] - 1 for a in mine])}
    match = match_objects(truth, truth | {"scores": np.linspace(0.9, 0.4, len(mine))})
    assert match.f1 == 1.0 and match.hits == len(mine) > 10


def test_import_stays_light():
    import subprocess
    import sys

    code = "import sys, detseg.visualize; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    root = inspect.getfile(draw_boxes).split("/detseg/visualize")[0]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert result.stdout.strip() == "[]"
