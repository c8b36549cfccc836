"""CreateML JSON as Apple, LabelImg and Roboflow write it."""

import json

import pytest

from detseg.data import read_annotations, read_dataset, validate, write_dataset
from detseg.data.annotations import AnnotationError
from detseg.data.formats import createml
from tests.data.annotation_samples import by_image, make, write_json, write_picture


def box(label="rose", x=20, y=15, width=20, height=10):
    return {"label": label, "coordinates": {"x": x, "y": y, "width": width, "height": height}}


def entry(folder, *boxes, name="a.png", **fields):
    write_picture(folder / name, 64, 48, len(boxes))
    return {"image": name, "annotations": list(boxes)} | fields


def test_centres_become_corners(tmp_path):
    entries = [entry(tmp_path, box(), box("daisy", 1.5, 2.5, 3, 5)), entry(tmp_path, name="b.png")]
    data = read_annotations(write_json(tmp_path / "any.json", entries))
    objects = [("daisy", False, [0, 0, 3, 5]), ("rose", False, [10, 10, 30, 20])]
    assert by_image(data) == {"a.png": objects, "b.png": []} and validate(data) == []


def test_labelimg_and_the_older_form(tmp_path):
    old = entry(tmp_path, name="b.png")
    old = {"imagefilename": old["image"], "annotation": [box()]}
    write_json(tmp_path / "labels.json", [entry(tmp_path, box(), verified=False), old])
    data = read_annotations(tmp_path)
    assert by_image(data) == {name: [("rose", False, [10, 10, 30, 20])] for name in ("a.png", "b.png")}


def test_roboflow_has_a_file_in_each_split(tmp_path):
    for split, label in (("train", "rose"), ("valid", "daisy")):
        write_json(tmp_path / split / "_annotations.createml.json", [entry(tmp_path / split, box(label))])
    data = read_dataset(tmp_path)
    assert data["train"].names == data["val"].names == ("daisy", "rose")
    assert data["val"].labels.tolist() == [0]


def test_a_bad_box_is_a_problem_of_it(tmp_path):
    bad = [{"label": "rose"}, box(None), box(x="left"), box(x=None), {"coordinates": {}}, 3, box("")]
    data = read_annotations(write_json(tmp_path / "a.json", [entry(tmp_path, *bad, box())]))
    assert data.boxes.tolist() == [[10, 10, 30, 20]] and len(data.read_problems) == len(bad)
    assert "object 1: annotation 1 cannot be used: 'coordinates' is missing" in str(data.read_problems[0])


def test_what_is_written(tmp_path):
    path = write_picture(tmp_path / "a.png", 64, 48)
    write_dataset(make([[10, 10, 30, 20]], [0], paths=[str(path)]), tmp_path / "to", to="createml")
    content = json.loads((tmp_path / "to/train/_annotations.createml.json").read_text())
    assert content == [{"image": "a.png", "annotations": [box()]}]
    assert (tmp_path / "to/classes.txt").read_text().split("\n")[:2] == ["rose", "daisy"]


@pytest.mark.parametrize(
    "text",
    [
        '[{"image": "a", "annotations": []}, 3]',
        '[{"image": "", "annotations": []}]',
        '[{"image": "a", "annotations": [}]',
    ],
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(AnnotationError, match=r"a\.json"):
        read_annotations(tmp_path / "a.json")


@pytest.mark.parametrize(
    "content",
    [
        {"images": []},
        [{"image": "a"}],
        [{"image": "a", "annotations": [{"bbox": [1, 2, 3, 4]}]}],
        [{"id": 1, "data": {"image": "a"}, "annotations": []}],
        [],
        [1],
    ],
)
def test_other_lists_are_none(tmp_path, content):
    assert not createml.is_createml(write_json(tmp_path / "a.json", content))
