"""Supervisely projects: geometries, data sets as splits, bitmaps, holes."""

import base64
import zlib

import numpy as np
import pytest
from pycocotools import mask as coco

from detseg.data import read_annotations, read_dataset, validate, write_dataset
from detseg.data.annotations import AnnotationError
from detseg.data.formats import find_sources
from detseg.data.formats.outlines import mask_png
from tests.data.annotation_samples import by_image, make, write_json, write_picture

TRIANGLE = [[1, 2], [21, 2], [21, 12]]


def thing(kind="rectangle", exterior=((5, 10), (34, 29)), title="rose", **fields):
    points = {"exterior": [list(point) for point in exterior], "interior": []}
    return {"id": 1, "classId": 1, "tags": [], "classTitle": title, "geometryType": kind, "points": points} | fields


def bitmap(mask, x, y, data=None, title="rose"):
    code = data or base64.b64encode(zlib.compress(mask_png(mask))).decode()
    return {"classTitle": title, "geometryType": "bitmap", "bitmap": {"data": code, "origin": [x, y]}}


def write(root, *objects, folder="ds", name="a.png", annotation=None):
    write_picture(root / folder / "img" / name, 64, 48, len(objects))
    content = {"description": "", "tags": [], "size": {"height": 48, "width": 64}, "objects": list(objects)}
    write_json(root / folder / "ann" / (annotation or f"{name}.json"), content)
    classes = [{"title": title, "shape": "any", "color": "#FF0000", "id": 1} for title in ("tulip", "rose", "daisy")]
    write_json(root / "meta.json", {"classes": classes, "tags": []})
    return root


def test_a_rectangle_holds_its_last_row_and_column(tmp_path):
    data = read_annotations(write(tmp_path, thing(), thing(exterior=[(34, 29), (5, 10)], title="daisy")))
    assert data.boxes.tolist() == [[5, 10, 35, 30]] * 2
    assert data.names == ("tulip", "rose", "daisy") and data.labels.tolist() == [1, 2]


def test_polygons_and_their_holes(tmp_path):
    square, hole = [[10, 10], [30, 10], [30, 30], [10, 30]], [[15, 15], [20, 15], [20, 20], [15, 20]]
    with_hole = thing("polygon", square, points={"exterior": square, "interior": [hole]})
    data = read_annotations(write(tmp_path, thing("polygon", TRIANGLE), with_hole))
    assert data.segments.polygons(0)[0].tolist() == TRIANGLE
    mask = coco.decode(data.segments.rle(1, 48, 64))
    assert mask.sum() == 20 * 20 - 5 * 5 and mask[17, 17] == 0
    assert data.boxes.tolist() == [[1, 2, 21, 12], [10, 10, 30, 30]]


def test_bitmaps_are_placed_at_their_origin_and_cut_at_the_border(tmp_path):
    mask = np.array([[1, 1, 0], [0, 1, 1]], bool)
    data = read_annotations(write(tmp_path, bitmap(mask, 10, 20), bitmap(mask, -1, 47)))
    assert data.boxes.tolist() == [[10, 20, 13, 22], [0, 47, 1, 48]]
    assert (coco.decode(data.segments.rle(0, 48, 64))[20:22, 10:13] == mask).all()


def test_a_bitmap_in_the_transparency_of_a_png(tmp_path):
    import io

    from PIL import Image

    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, :2, 3] = 255
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    code = base64.b64encode(zlib.compress(content.getvalue())).decode()
    assert read_annotations(write(tmp_path, bitmap(None, 4, 5, code))).boxes.tolist() == [[4, 5, 6, 6]]


def test_damaged_bitmaps_and_other_geometries(tmp_path, caplog):
    bad = [
        bitmap(None, 0, 0, "no base64 !"),
        bitmap(None, 0, 0, base64.b64encode(b"no zlib").decode()),
        bitmap(None, 0, 0, base64.b64encode(zlib.compress(b"no png")).decode()),
        bitmap(np.zeros((2, 2), bool), 0, 0),
        bitmap(np.ones((2, 2), bool), 99, 0),
        bitmap(np.ones((2, 2), bool), 0, 0) | {"bitmap": {}},
        thing(exterior=[(1, 2)]),
        thing(title=None),
        7,
    ]
    data = read_annotations(write(tmp_path, *bad, thing("line", TRIANGLE), thing("point"), thing()))
    assert data.boxes.tolist() == [[5, 10, 35, 30]] and len(data.read_problems) == len(bad)
    assert "objects of the geometry line, left out; convert them to polygons or bitmaps: 1" in caplog.text


def test_data_sets_named_after_splits(tmp_path, caplog):
    for folder, title in (("train_1", "rose"), ("train_2", "daisy"), ("val", "tulip"), ("spare", "rose")):
        write(tmp_path, thing(title=title), folder=folder, name=f"{folder}.png")
    data = read_dataset(tmp_path)
    assert len(data["train"]) == 2 and by_image(data["val"]) == {"val.png": [("tulip", False, [5, 10, 35, 30])]}
    assert "the data sets spare are named after no split and were left out" in caplog.text


def test_other_data_sets_are_read_together(tmp_path):
    write(tmp_path, thing(), folder="Day 1", name="a.png")
    write(tmp_path, thing(), thing("polygon", TRIANGLE), folder="Day 2", name="a.png")
    write(tmp_path, folder="Day 2/datasets/Night", name="b.png")
    data = read_annotations(tmp_path)
    assert [len(data.boxes[data.objects(row)]) for row in range(3)] == [1, 2, 0]
    assert data.paths.tolist()[1] == str(tmp_path / "Day 2/img/a.png") and validate(data) == []


def test_a_data_set_or_the_meta_file_by_itself(tmp_path):
    write(tmp_path, thing())
    for path in (tmp_path / "ds", tmp_path / "meta.json"):
        assert list(find_sources(path)) == [""] and read_annotations(path).names == ("tulip", "rose", "daisy")
    (tmp_path / "meta.json").unlink()
    assert read_annotations(tmp_path).names == ("rose",)


def test_names_without_extension_and_images_without_annotations(tmp_path, caplog):
    write(tmp_path, thing(), name="Gänse.png", annotation="Gänse.json")
    write_picture(tmp_path / "ds/img/b.png")
    data = read_annotations(tmp_path)
    assert data.paths.tolist() == [str(tmp_path / "ds/img/Gänse.png")]
    assert "images without a file in ann/, left out: 1 (the first: b.png)" in caplog.text


def test_images_in_another_folder(tmp_path):
    write(tmp_path, thing())
    (tmp_path / "ds/img").rename(tmp_path / "photos")
    assert read_annotations(tmp_path, images=tmp_path / "photos").paths.tolist() == [str(tmp_path / "photos/a.png")]


def test_a_project_holds_its_images(tmp_path):
    path = write_picture(tmp_path / "a.png", 64, 48)
    data = make([[1, 2, 30, 40]], [0], paths=[str(path)])
    with pytest.raises(AnnotationError, match="holds its images"):
        write_dataset(data, tmp_path / "to", to="supervisely", images="keep")


@pytest.mark.parametrize(
    "text", [b"[]", b'{"size": {}, "objects": []}', b'{"size": {"height": 1, "width": 2}, "objects": 3}', b"\xff"]
)
def test_a_damaged_annotation_is_named(tmp_path, text):
    write(tmp_path)
    (tmp_path / "ds/ann/b.png.json").write_bytes(text)
    with pytest.raises(AnnotationError, match=r"b\.png\.json"):
        read_annotations(tmp_path)


@pytest.mark.parametrize("text", [b"[]", b"{", b'{"classes": [3]}'])
def test_a_damaged_meta_file_is_named(tmp_path, text):
    write(tmp_path)
    (tmp_path / "meta.json").write_bytes(text)
    with pytest.raises(AnnotationError, match=r"meta\.json"):
        read_annotations(tmp_path)
