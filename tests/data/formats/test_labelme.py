"""LabelMe JSON of several versions: shapes, groups, flags, masks, names of images."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest

from detseg.data import read_annotations, read_dataset, validate, write_dataset
from detseg.data.annotations import AnnotationError
from detseg.data.formats import find_sources, labelme
from detseg.data.formats.outlines import mask_png
from detseg.data.polygons import SegmentsBuilder
from tests.data.annotation_samples import by_image, make, write_json, write_picture


def shape(label, points, kind="polygon", **fields):
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | fields


def write(folder, name="a", shapes=(), picture=True, **fields):
    if picture:
        write_picture(folder / f"{name}.png", 64, 48)
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": f"{name}.png",
        "imageData": None,
        "imageHeight": 48,
        "imageWidth": 64,
    }
    return write_json(folder / f"{name}.json", content | fields)


def boxes(data):
    return np.round(data.boxes, 6).tolist()


def test_rectangles_in_any_order_of_corners(tmp_path):
    four = [[10, 5], [30, 5], [30, 25], [10, 25]]
    write(tmp_path, shapes=[shape("rose", [[30, 25], [10, 5]], "rectangle"), shape("rose", four, "rectangle")])
    data = read_annotations(tmp_path)
    assert boxes(data) == [[10, 5, 30, 25]] * 2 and not data.drawn.any()
    assert validate(data.subset([0]))[0].kind == "duplicate-object"


def test_polygon_circle_and_shapes_of_the_first_versions(tmp_path):
    old = {"label": "rose", "points": [[1, 2], [21, 2], [21, 12]], "line_color": None, "fill_color": None}
    write(tmp_path, shapes=[old, shape("daisy", [[30, 20], [30, 30]], "circle")], imageHeight=None, imageWidth=None)
    data = read_annotations(tmp_path)
    assert boxes(data) == [[1, 2, 21, 12], [20, 10, 40, 30]]
    assert data.sizes.tolist() == [[64, 48]] and data.drawn.all() and data.names == ("daisy", "rose")
    assert data.segments.polygons(0)[0].tolist() == [[1, 2], [21, 2], [21, 12]]


def test_shapes_of_one_group_and_label_are_one_object(tmp_path):
    left, right = [[1, 1], [5, 1], [5, 5]], [[20, 1], [30, 1], [30, 9]]
    shapes = [
        shape("rose", left, group_id=1),
        shape("daisy", left, group_id=1),
        shape("rose", right, group_id=1),
        shape("rose", [[40, 40], [50, 45]], "rectangle", group_id=2),
    ]
    write(tmp_path, shapes=shapes)
    data = read_annotations(tmp_path)
    assert by_image(data)["a.png"] == [
        ("daisy", False, [1, 1, 5, 5]),
        ("rose", False, [1, 1, 30, 9]),
        ("rose", False, [40, 40, 50, 45]),
    ]
    assert [len(data.segments.polygons(row)) for row in range(3)] == [2, 1, 0]


def test_a_mask_fills_its_bounding_box(tmp_path):
    mask = np.array([[1, 1, 0], [0, 1, 1]], bool)
    code = base64.b64encode(mask_png(mask)).decode()
    write(tmp_path, shapes=[shape("rose", [[10, 20], [12, 21]], "mask", mask=code)])
    data = read_annotations(tmp_path)
    assert boxes(data) == [[10, 20, 13, 22]] and data.segments.has_rle.all()
    from pycocotools import mask as coco

    drawn = coco.decode(data.segments.rle(0, 48, 64))
    assert drawn.sum() == 4 and (drawn[20:22, 10:13] == mask).all()


def test_shapes_without_an_area_are_counted(tmp_path, caplog):
    shapes = [shape("rose", [[1, 1]], "point"), shape("rose", [[1, 1], [5, 5]], "line")] * 2
    write(tmp_path, shapes=[*shapes, shape("rose", [[1, 1], [5, 5]], "rectangle")])
    assert len(read_annotations(tmp_path).ids) == 1
    assert "shapes of the type point, without an area, left out: 2" in caplog.text
    assert "shapes of the type line, without an area, left out: 2" in caplog.text


def test_difficult_shapes_are_ignored(tmp_path):
    box = [[1, 1], [5, 5]], "rectangle"
    shapes = [shape("a", *box, flags={"difficult": True}), shape("b", *box, difficult=True), shape("c", *box)]
    write(tmp_path, shapes=shapes)
    assert read_annotations(tmp_path).iscrowd.tolist() == [True, True, False]


def test_a_list_of_classes_and_its_special_names(tmp_path, caplog):
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nrose\ndaisy\n")
    box = [[1, 1], [5, 5]], "rectangle"
    write(tmp_path, shapes=[shape("rose", *box), shape("__ignore__", *box), shape("_background_", *box)])
    data = read_annotations(tmp_path)
    assert data.names == ("rose", "daisy")
    assert list(zip(data.labels.tolist(), data.iscrowd.tolist(), strict=True)) == [(0, False), (0, True), (1, True)]
    assert "shapes labelled _background_, left out: 1" in caplog.text
    (tmp_path / "labels.txt").unlink()
    assert read_annotations(tmp_path).names == ("rose",)
    assert "list the classes in labels.txt to have them ignored: 1" in caplog.text


def test_windows_paths_and_images_in_another_folder(tmp_path):
    write_picture(tmp_path / "images/a.png", 64, 48)
    write(tmp_path / "json", picture=False, imagePath="..\\images\\a.png")
    data = read_annotations(tmp_path)
    assert data.paths.tolist() == [str(tmp_path / "images/a.png")] and validate(data)[0].severity == "warning"


def test_without_image_path_the_image_of_the_same_name(tmp_path):
    write(tmp_path, imagePath=None)
    assert read_annotations(tmp_path).paths.tolist() == [str(tmp_path / "a.png")]
    (tmp_path / "a.png").unlink()
    with pytest.raises(AnnotationError, match="'imagePath' is missing"):
        read_annotations(tmp_path)


def test_an_embedded_image_that_is_no_file_is_named(tmp_path, caplog):
    write(tmp_path, "a", imageData="iVBORw0K" * 20000)
    write(tmp_path, "b", picture=False, imageData="iVBORw0K")
    assert len(read_annotations(tmp_path)) == 2
    assert "images embedded in their JSON file ('imageData') and not found as files" in caplog.text
    assert "(the first: b.png in b.json)" in caplog.text and ": 1 (" in caplog.text


def test_an_embedded_image_may_come_first(tmp_path):
    write_picture(tmp_path / "a.png", 64, 48)
    content = {"imageData": "iVBORw0K" * 20000, "imagePath": "a.png", "shapes": []}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert len(read_annotations(tmp_path)) == 1


def test_splits_in_folders_and_images_inside(tmp_path):
    write(tmp_path / "train", "a", [shape("rose", [[1, 1], [5, 5]], "rectangle")])
    write(tmp_path / "valid/images", "b", [shape("daisy", [[1, 1], [5, 5]], "rectangle")])
    data = read_dataset(tmp_path)
    assert data["val"].names == data["train"].names == ("daisy", "rose")


def test_what_is_wrong_with_one_shape_is_a_problem_of_it(tmp_path):
    good = shape("rose", [[1, 1], [5, 5]], "rectangle")
    bad = [
        shape("", [[1, 1], [5, 5]], "rectangle"),
        shape("rose", [[1, 1], [5]], "rectangle"),
        shape("rose", [[1, 1], [5, 5], [9, 9]], "rectangle"),
        shape("rose", [[1, 1], [5, 5]], "cloud"),
        shape("rose", [[1, 1], [5, 5]], "mask", mask="no base64 !"),
        shape("rose", [[1, 1], [1, 1]], "circle"),
        shape("rose", [[1, 1], [float("nan"), 5], [3, 9]]),
        7,
    ]
    write(tmp_path, shapes=[*bad, good])
    data = read_annotations(tmp_path)
    assert boxes(data) == [[1, 1, 5, 5]]
    assert len({problem.what for problem in data.read_problems}) >= len(bad)
    assert all(str(tmp_path / "a.json") in str(problem) for problem in data.read_problems)


def test_other_json_files_are_passed_over_and_named(tmp_path, caplog):
    write(tmp_path)
    write_json(tmp_path / "settings.json", {"theme": "dark"})
    assert len(read_annotations(tmp_path)) == 1
    assert "passed over: 1 (the first: settings.json)" in caplog.text


def test_unicode_names(tmp_path):
    write(tmp_path, "Gänse blümchen", [shape("Gänseblümchen", [[1, 1], [5, 5]], "rectangle")])
    data = read_annotations(tmp_path)
    assert data.names == ("Gänseblümchen",) and validate(data) == []


def test_groups_and_masks_come_back(tmp_path):
    path = write_picture(tmp_path / "from/a.png", 64, 48)
    data = make([[0, 0, 20, 20], [10, 10, 13, 14]], [0, 1], paths=[str(path)])
    builder = SegmentsBuilder()
    builder.add_polygons([[0, 0, 5, 0, 5, 5], [10, 10, 20, 10, 20, 20]])
    mask = np.zeros((48, 64), np.uint8, order="F")
    mask[10:14, 10:13] = 1
    from pycocotools import mask as coco

    builder.add_rle(48, 64, coco.encode(mask)["counts"])
    write_dataset(replace(data, segments=builder.build()), tmp_path / "to", to="labelme")
    back = read_annotations(tmp_path / "to")
    assert by_image(back) == by_image(data)
    assert len(back.segments.polygons(0)) == 2
    assert (coco.decode(back.segments.rle(1, 48, 64)) == mask).all()


def test_kept_images_of_one_name_get_files_of_their_own(tmp_path):
    paths = [str(write_picture(tmp_path / f"from/{place}/a.png", 64, 48, seed)) for seed, place in enumerate("xy")]
    data = make([[0, 0, 20, 20], [10, 10, 13, 14]], [0, 1], [0, 1], [(64, 48)] * 2, paths)
    write_dataset(data, tmp_path / "to", to="labelme", images="keep")
    back = read_annotations(tmp_path / "to")
    assert [row.tolist() for row in back.boxes] == [[0, 0, 20, 20], [10, 10, 13, 14]]
    assert back.paths.tolist() == paths


@pytest.mark.parametrize(
    "text",
    [
        b'{"shapes": [',
        b'{"shapes": [{"points"',
        b"[1]",
        b'{"shapes": 3, "imagePath": "a.png"}',
        b'{"shapes": [], "im\xff',
    ],
)
def test_a_damaged_file_among_good_ones_is_named(tmp_path, text):
    write(tmp_path)
    (tmp_path / "b.json").write_bytes(text)
    with pytest.raises(AnnotationError, match=r"b\.json"):
        read_annotations(tmp_path)


def test_a_single_file(tmp_path):
    file = write(tmp_path, shapes=[shape("rose", [[1, 1], [5, 5]], "rectangle")])
    assert list(find_sources(file)) == [""] and len(read_annotations(file).ids) == 1
    assert labelme.is_labelme(file)
    for other in ({"shapes": 3}, [{"shapes": [{"type": "rectangle", "points": [1, 2, 3, 4]}]}]):
        assert not labelme.is_labelme(write_json(tmp_path / "other.json", other))


def test_folders_of_one_split(tmp_path, caplog):
    """Neither half of the training images may be lost without a word."""
    for folder in ("train", "train_old", "val"):
        content = {"shapes": [], "imagePath": "a.png", "imageWidth": 64, "imageHeight": 48}
        write_json(tmp_path / folder / "a.json", content)
    assert list(read_dataset(tmp_path)) == ["train", "val"]
    assert f"{tmp_path}/train_old is not read: {tmp_path}/train is the split 'train'" in caplog.text
    (tmp_path / "train").rename(tmp_path / "train_new")
    with pytest.raises(AnnotationError, match=r"train_new and train_old could all be of the split 'train'; join them"):
        read_dataset(tmp_path)


def test_images_without_a_file_are_told(tmp_path, caplog):
    for seed, name in enumerate(("a.png", "b.png", "Ä c.png", ".d.png")):
        write_picture(tmp_path / name, seed=seed)
    for name, image in (("a", "a.png"), ("ä%20c", "../elsewhere/ä c.jpg")):
        content = {"shapes": [], "imagePath": image, "imageWidth": 64, "imageHeight": 48}
        write_json(tmp_path / f"{name}.json", content)
    assert len(read_annotations(tmp_path)) == 2
    assert f"{tmp_path}: images without a JSON file, left out: 1 (the first: b.png)" in caplog.text
