"""Results as objects: what they print, draw, write and hand over, against pycocotools, supervision and our readers."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from detseg.results import Classification, Results, Segmentation

IMAGE = np.full((40, 60, 3), 200, np.uint8)
CATEGORIES = [(7, "rose"), (3, "<b>tulip</b>")]


def results(count=3, masks=None, source=IMAGE):
    boxes = np.array([[1, 2, 31, 22], [10.5, 5.25, 50, 39], [0, 0, 60, 40]], np.float32)[:count]
    found = {
        "boxes": boxes,
        "scores": np.array([0.9, 0.5, 0.25], np.float32)[:count],
        "labels": np.array([0, 1, 0])[:count],
    }
    return Results(found | ({} if masks is None else {"masks": masks[:count]}), source, CATEGORIES)


@pytest.fixture
def masks():
    maps = np.zeros((3, 40, 60), bool)
    maps[0, 2:22, 1:31], maps[1, 6:39, 11:50] = True, True
    return maps


def test_a_mapping_with_attributes():
    found = results()
    assert set(found) == {"boxes", "scores", "labels"} and found["boxes"] is found.boxes and found.masks is None
    assert len(found) == 3 and dict(found)["scores"][1] == 0.5 and "masks" not in found
    assert str(found) == "2 rose, 1 <b>tulip</b>" and repr(found) == "<Results: 2 rose, 1 <b>tulip</b>>"
    assert found == found and found != results()
    nothing = results(0)
    assert str(nothing) == "nothing" and len(nothing) == 0 and not nothing and nothing.crops() == []
    assert nothing.to_coco(1) == [] and nothing.to_yolo() == "" and nothing.to_json() == "[]"
    assert nothing.plot().shape == IMAGE.shape


@pytest.mark.parametrize("rows", [slice(1, None), [2, 0], np.array([True, False, True]), []])
def test_a_selection_has_the_same_rows_of_everything(rows, masks):
    found = results(masks=masks)
    some = found.select(rows)
    for name in found:
        assert np.array_equal(some[name], found[name][np.arange(3)[rows]])
    coded = results(masks=[coco.encode(np.asfortranarray(m, np.uint8)) for m in masks])
    assert coded.select(rows).masks == [coded.masks[i] for i in np.arange(3)[rows]]


def test_classes_are_kept_by_name():
    assert results().of_classes(["rose"]).labels.tolist() == [0, 0]
    assert len(results().of_classes([])) == 0
    with pytest.raises(ValueError, match="knows no class 'ros'; it knows rose"):
        results().of_classes(["ros"])


@pytest.mark.parametrize("coded", [False, True])
def test_coco(masks, coded):
    given = [coco.encode(np.asfortranarray(m, np.uint8)) for m in masks] if coded else masks
    rows = json.loads(json.dumps(results(masks=given).to_coco(5)))
    assert [row["category_id"] for row in rows] == [7, 3, 7] and {row["image_id"] for row in rows} == {5}
    assert rows[1]["bbox"] == [10.5, 5.25, 39.5, 33.75]
    for row, mask in zip(rows, masks, strict=True):
        assert np.array_equal(coco.decode(row["segmentation"]), mask)
    drawn = coco.decode(
        coco.merge(coco.frPyObjects(results(masks=given).to_coco(polygons=True)[0]["segmentation"], 40, 60))
    )
    assert np.array_equal(drawn, masks[0])
    assert results(masks=given).to_coco(polygons=True)[2]["segmentation"] == [[0, 0] * 3], "no pixel: a point"


def test_yolo_rows_say_where_objects_are(masks):
    found = results()
    rows = [[float(number) for number in row.split()] for row in found.to_yolo().splitlines()]
    assert [row[0] for row in rows] == found.labels.tolist()
    x, y, w, h = np.array(rows)[:, 1:].T * [[60], [40], [60], [40]]
    np.testing.assert_allclose(np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1), found.boxes, atol=1e-3)
    assert [row.split()[-1] for row in found.to_yolo(scores=True).splitlines()] == ["0.900000", "0.500000", "0.250000"]


def test_yolo_rows_of_masks_are_their_outlines(masks):
    rows = results(masks=masks).to_yolo().splitlines()
    for row, mask in zip(rows[:2], masks, strict=False):
        corners = np.reshape([float(number) for number in row.split()[1:]], (-1, 2)) * [60, 40]
        assert np.array_equal(coco.decode(coco.merge(coco.frPyObjects([corners.ravel().tolist()], 40, 60))), mask)
    assert len(rows) == 3 and len(rows[2].split()) == 7, "no pixel: a point, three times"


def test_supervision(masks):
    supervision = pytest.importorskip("supervision")
    found = results(masks=masks)
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections) and len(theirs) == 3
    assert np.array_equal(theirs.xyxy, found.boxes) and theirs.class_id.tolist() == [0, 1, 0]
    assert theirs.data["class_name"][0] == "rose" and np.array_equal(theirs.mask, masks)


def test_drawn_saved_and_shown(tmp_path, masks):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), IMAGE)
    found = results(masks=masks, source=path)
    assert found.plot().shape == IMAGE.shape and not np.array_equal(found.plot(), IMAGE)
    assert found.save(tmp_path / "new" / "drawn.jpg").is_file() and found.save(tmp_path / "found.json").is_file()
    rows = json.loads((tmp_path / "found.json").read_text())
    assert [row["name"] for row in rows] == ["rose", "<b>tulip</b>", "rose"] and rows[0]["box"] == [1, 2, 31, 22]
    with pytest.raises(ValueError, match="written as"):
        found.save(tmp_path / "drawn.xyz")
    assert "&lt;b&gt;tulip" in found._repr_html_() and "<b>" not in found._repr_html_(), "names are text"
    crops = found.crops()
    assert crops[0].shape == (20, 30, 3) and crops[1].shape == (34, 40, 3)
    edge = Results(
        {"boxes": np.array([[59.5, 39.9, 60, 40]], np.float32), "scores": np.ones(1), "labels": [0]}, IMAGE, CATEGORIES
    )
    assert edge.crops()[0].shape == (1, 1, 3)


def test_segmentations_and_classes(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[:10] = 1
    seen = Segmentation(mask, np.ones((40, 60), np.float32), IMAGE, CATEGORIES)
    assert str(seen) == "75.0 % rose, 25.0 % <b>tulip</b>" and seen.plot().shape == IMAGE.shape
    assert json.loads(seen.to_json()) == {"rose": 0.75, "<b>tulip</b>": 0.25}
    taken = Classification(np.array([1, 0]), np.array([0.996, 0.004], np.float32), IMAGE, CATEGORIES)
    assert str(taken) == "<b>tulip</b> 100 %", "what rounds to nothing is not told"
    assert json.loads(taken.to_json()) == {"<b>tulip</b>": 0.996, "rose": 0.004}
    assert taken.plot().shape[1] >= 60 and taken.save(tmp_path / "taken.png").is_file()
