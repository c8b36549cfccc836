"""Datumaro's JSON: kinds of annotations, groups, masks, and damaged entries."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco

from detseg.data import raise_on_problems, read_annotations, read_dataset, validate
from detseg.data.annotations import AnnotationError
from tests.data.annotation_samples import by_image, write_json, write_picture


def annotation(kind, label=0, group=0, **fields):
    return {"id": 0, "type": kind, "attributes": {}, "group": group, "label_id": label, "z_order": 0, **fields}


def item(*annotations, name="a", **fields):
    return {"id": name, "annotations": list(annotations), "image": {"path": f"{name}.png", "size": [48, 64]}, **fields}


def content(*items, names=("rose", "Gänse")):
    labels = [{"name": name, "parent": "", "attributes": []} for name in names]
    return {"info": {}, "categories": {"label": {"labels": labels}, "points": {"items": []}}, "items": list(items)}


def read(folder, data, split="train"):
    file = folder / f"annotations/{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return read_annotations(folder, split)


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(("a", "sub/b")):
        write_picture(tmp_path / f"images/train/{name}.png", seed=seed)
    return tmp_path


def test_kinds(folder, caplog):
    pixels = np.zeros((48, 64), np.uint8, order="F")
    pixels[5:20, 10:30] = 1
    rle = {"size": [48, 64], "counts": coco.encode(pixels)["counts"].decode()}
    data = read(
        folder,
        content(
            item(
                annotation("bbox", 1, bbox=[1, 2.5, 30, 40], attributes={"occluded": True, "is_crowd": True}),
                annotation("polygon", points=[1, 2, 30, 2, 30, 40]),
                annotation("mask", rle=rle),
                annotation("ellipse", points=[10, 10, 50, 30]),
                annotation("rotated_bbox", bbox=[20, 15, 20, 10, 90]),
                annotation("label"),
                annotation("polyline", points=[1, 2, 3, 4]),
                annotation("points", points=[1, 2], visibility=[2]),
            ),
            item(name="sub/b", image={"path": ""}),
        ),
    )
    assert data.names == ("rose", "Gänse") and data.labels.tolist() == [1, 0, 0, 0, 0]
    assert data.iscrowd.tolist() == [True] + [False] * 4
    expected = [[1, 2.5, 31, 42.5], [1, 2, 30, 40], [10, 5, 30, 20], [10, 10, 50, 30], [15, 5, 25, 25]]
    np.testing.assert_allclose(data.boxes, expected, atol=1e-9)
    assert (coco.decode(data.segments.rle(2, 0, 0)) == pixels).all()
    assert [p.split("/")[-1] for p in data.paths.tolist()] == ["a.png", "b.png"]
    raise_on_problems(validate(data))
    assert "1 label, 1 polyline, 1 points" in caplog.text


def test_groups_of_one_class_are_one_object(folder):
    triangle = {"points": [1, 2, 30, 2, 30, 40]}
    data = read(
        folder,
        content(
            item(
                annotation("polygon", group=1, **triangle),
                annotation("bbox", group=1, bbox=[0, 1, 31, 40]),
                annotation("polygon", group=1, **triangle),
                annotation("bbox", 1, group=1, bbox=[0, 1, 2, 3]),
                annotation("bbox", group=2, bbox=[0, 1, 2, 3]),  # two boxes: a group of objects
                annotation("bbox", group=2, bbox=[0, 1, 3, 3]),
            )
        ),
    )
    assert data.boxes.tolist() == [[0, 1, 31, 41], [0, 1, 2, 4], [0, 1, 2, 4], [0, 1, 3, 4]]
    assert data.labels.tolist() == [0, 1, 0, 0] and len(data.segments.polygons(0)) == 2


def test_splits_have_the_classes_of_all_files(folder):
    write_picture(folder / "images/val/c.png")
    read(folder, content(item(annotation("bbox", bbox=[1, 2, 3, 4])), names=("rose", "daisy")))
    read(folder, content(item(annotation("bbox", 1, bbox=[1, 2, 3, 4]), name="c"), names=("rose", "tulip")), "val")
    data = read_dataset(folder)
    assert data["train"].names == data["val"].names == ("rose", "daisy", "tulip")
    assert by_image(data["val"]) == {"c.png": [("tulip", False, [1, 2, 4, 6])]}


def test_sizes_that_no_image_has(folder):
    vast = annotation("mask", rle={"size": [10**6, 10**6], "counts": [10**6, 10**12 - 10**6]})
    for side in (10**30, 2**32, -1):
        data = read(folder, content(item(vast, image={"path": "a.png", "size": [side, 64]})))
        assert data.sizes.tolist() == [[64, 48]], side
        assert [p.kind for p in data.read_problems] == ["malformed-object"]


def test_damaged_annotations_are_problems(folder):
    damaged = [
        annotation("bbox", bbox=[1, 2, 3]),
        annotation("bbox", bbox="x"),
        annotation("bbox", 7, bbox=[1, 2, 3, 4]),
        annotation("bbox", None, bbox=[1, 2, 3, 4]),
        annotation("mask", rle={"size": [48, 64], "counts": ""}),
        annotation("mask", rle={"size": [48, 64], "counts": [1, 2]}),
        annotation("polygon"),
        7,
    ]
    data = read(folder, content(item(*damaged, annotation("bbox", bbox=[1, 2, 3, 4]))))
    problems = validate(data)
    assert len(data.ids) == 1 and len(problems) == len(damaged)
    assert {p.kind for p in problems} == {"malformed-object"}
    assert any("label_id 7 is not among the 2 labels" in p.what for p in problems)
    data = read(folder, json.dumps(content(item(annotation("bbox", bbox=[1, 2, 3, float("nan")])))))
    assert [p.kind for p in validate(data)] == ["not-finite"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"dm_format_version": "1.0", "items": 3}', 'no list "items"'),
        ('{"dm_format_version": "1.0", "items": [], "categories": []}', "categories: Expected"),
        ('{"dm_format_version": "1.0", "items": [{}], "categories": {}}', r"items\[0\]: .*missing required field `id`"),
        ('{"dm_format_version": "1.0", \n"items": [{]}', "line 2, column"),
    ],
)
def test_damaged_files_are_errors(folder, text, message):
    with pytest.raises(AnnotationError, match=rf"train.json.*{message}"):
        read(folder, text)


def test_folders_of_images_are_called_as_the_files(tmp_path):
    for seed, subset in enumerate(("Train", "Validation")):
        write_picture(tmp_path / f"images/{subset}/1.png", seed=seed)
        items = [{"id": "1", "annotations": [], "image": {"path": "1.png", "size": [48, 64]}}]
        content = {"info": {}, "categories": {"label": {"labels": [{"name": "rose"}]}}, "items": items}
        write_json(tmp_path / f"annotations/{subset}.json", content)
    assert [part.paths.tolist() for part in read_dataset(tmp_path).values()] == [
        [str(tmp_path / "images/Train/1.png")],
        [str(tmp_path / "images/Validation/1.png")],
    ]
