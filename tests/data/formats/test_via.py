"""VGG Image Annotator: projects and exports of versions 1 to 3, shapes, and which attribute is the class."""

import json
import math

import numpy as np
import pytest

from detseg.data import read_annotations, read_dataset, validate
from detseg.data.annotations import AnnotationError
from tests.data.annotation_samples import by_image, write_json, write_picture

RECT = {"name": "rect", "x": 10, "y": 5, "width": 20, "height": 15}
TRIANGLE = {"name": "polygon", "all_points_x": [1, 21, 21], "all_points_y": [2, 2, 12]}


def region(shape=RECT, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes or {"class": "rose"}}


def image(folder, *regions, name="a.png"):
    write_picture(folder / name, 64, 48)
    return {f"{name}123": {"filename": name, "size": 123, "regions": list(regions), "file_attributes": {}}}


def project(entries, options=None, kind="dropdown"):
    attribute = {"type": kind, "description": "", "options": options or {}, "default_options": {}}
    return {
        "_via_settings": {"ui": {}, "core": {}, "project": {"name": "flowers"}},
        "_via_img_metadata": entries,
        "_via_attributes": {"region": {"class": attribute}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(entries),
    }


def boxes(data):
    return np.round(data.boxes, 6).tolist()


def test_a_project_with_its_classes_in_order(tmp_path):
    entries = image(tmp_path, region(), region(TRIANGLE)) | image(tmp_path, name="b.png")
    write_json(tmp_path / "flowers.json", project(entries, {"tulip": "", "rose": ""}))
    data = read_annotations(tmp_path)
    assert data.names == ("tulip", "rose") and len(data) == 2 and validate(data)[0].severity == "warning"
    assert boxes(data) == [[10, 5, 30, 20], [1, 2, 21, 12]] and data.drawn.tolist() == [False, True]


def test_numbered_options_are_named_by_their_description(tmp_path):
    entries = image(tmp_path, region(**{"class": "2"}))
    write_json(tmp_path / "flowers.json", project(entries, {"1": "tulip", "2": "rose"}))
    data = read_annotations(tmp_path)
    assert data.names == ("tulip", "rose") and data.labels.tolist() == [1]


def test_values_that_the_options_lack_count_too(tmp_path):
    write_json(tmp_path / "flowers.json", project(image(tmp_path, region()), {"tulip": ""}))
    assert read_annotations(tmp_path).names == ("rose",)


@pytest.mark.parametrize("regions", [{"0": region(), "1": region(TRIANGLE)}, [region(), region(TRIANGLE)]])
def test_exports_have_regions_as_list_or_by_number(tmp_path, regions):
    entries = image(tmp_path)
    next(iter(entries.values()))["regions"] = regions
    next(iter(entries.values()))["fileref"] = ""
    write_json(tmp_path / "via_region_data.json", entries)
    assert boxes(read_annotations(tmp_path)) == [[10, 5, 30, 20], [1, 2, 21, 12]]


def test_circles_ellipses_and_closed_lines(tmp_path, caplog):
    line = {"name": "polyline", "all_points_x": [1, 9, 9, 1], "all_points_y": [1, 1, 9, 1]}
    shapes = [
        {"name": "circle", "cx": 30, "cy": 20, "r": 10},
        {"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 5},
        {"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 5, "theta": math.pi / 2},
        line,
        {"name": "point", "cx": 1, "cy": 2},
        line | {"all_points_x": [1, 9, 9, 2]},
    ]
    write_json(tmp_path / "via.json", image(tmp_path, *map(region, shapes)))
    data = read_annotations(tmp_path)
    assert boxes(data) == [[20, 10, 40, 30], [20, 15, 40, 25], [25, 10, 35, 30], [1, 1, 9, 9]]
    assert data.drawn.all()
    assert "regions of the shape point, without an area, left out: 1" in caplog.text
    assert "regions of the shape polyline, without an area, left out: 1" in caplog.text


def test_the_only_attribute_is_the_class_whatever_its_name(tmp_path, caplog):
    write_json(tmp_path / "via.json", image(tmp_path, region(sort="rose"), region(TRIANGLE, sort="daisy", note="")))
    assert read_annotations(tmp_path).names == ("daisy", "rose") and not caplog.text


def test_of_several_the_one_that_is_named_like_a_class(tmp_path, caplog):
    write_json(tmp_path / "via.json", image(tmp_path, region(Label="rose", occluded="no")))
    assert read_annotations(tmp_path).names == ("rose",)
    assert "the class of a region is its attribute 'Label'; 'occluded' are not read" in caplog.text
    write_json(tmp_path / "via.json", image(tmp_path, region(type="rose", name="Anna")))
    with pytest.raises(AnnotationError, match=r"attributes 'type', 'name', and it cannot be told which"):
        read_annotations(tmp_path)
    write_json(tmp_path / "via.json", image(tmp_path, region(type="rose", name="Anna", **{"class": "tulip"})))
    assert read_annotations(tmp_path).names == ("tulip",)


def test_without_attributes_there_is_one_class(tmp_path, caplog):
    entries = image(tmp_path, region())
    next(iter(entries.values()))["regions"][0]["region_attributes"] = {}
    write_json(tmp_path / "via.json", entries)
    assert read_annotations(tmp_path).names == ("object",) and "no attributes" in caplog.text


def test_checkboxes_and_missing_values(tmp_path):
    ticked = [{"rose": True, "daisy": False}, {"rose": True, "daisy": True}, {}, "undefined"]
    write_json(tmp_path / "via.json", image(tmp_path, *(region(**{"class": value}) for value in ticked)))
    data = read_annotations(tmp_path)
    assert boxes(data) == [[10, 5, 30, 20]]
    texts = [problem.what for problem in data.read_problems]
    assert "'class' has 'rose', 'daisy'; give it one" in texts[0] and "has no value" in texts[1] + texts[2]


@pytest.mark.parametrize("mark", ["#", ""])
def test_csv(tmp_path, mark):
    rows = ["filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"]
    for name, count in (("Gänse, rot.png", 2), ("b.png", 0)):
        write_picture(tmp_path / name, 64, 48, count)
        for number, shape in enumerate((RECT, TRIANGLE)[:count] or [{}]):
            texts = [json.dumps(part).replace('"', '""') for part in (shape, {"class": "rose"} if shape else {})]
            rows.append(f'"{name}",123,"{{}}",{count},{number},"{texts[0]}","{texts[1]}"')
    (tmp_path / "via_region_data.csv").write_text(mark + "\n".join(rows), encoding="utf-8-sig")
    data = read_annotations(tmp_path)
    assert boxes(data) == [[10, 5, 30, 20], [1, 2, 21, 12]] and data.names == ("rose",) and len(data) == 2
    assert [p.severity for p in validate(data)] == []


def third(tmp_path, name="a.png"):
    write_picture(tmp_path / name, 64, 48)
    files = [("1", name, 1, 2, name), ("2", "b.png", 2, 2, "https://x.org/b.png"), ("3", "c.mp4", 1, 4, "c.mp4")]
    regions = [("1", [2, 10, 5, 20, 15]), ("1", [7, 1, 2, 21, 2, 21, 12]), ("1", []), ("1", [1, 5, 5])]
    regions += [("1", [3, 30, 20, 10]), ("1", [4, 30, 20, 10, 5])]
    attribute = {"aname": "flower", "anchor_id": "FILE1_Z0_XY1", "type": 4, "desc": "", "options": {"0": "rose"}}
    return {
        "project": {"pid": "__VIA_PROJECT_ID__", "rev": "1", "vid_list": ["1", "2", "3"]},
        "config": {},
        "attribute": {"1": attribute},
        "file": {f[0]: dict(zip(("fid", "fname", "loc", "type", "src"), f, strict=True)) for f in files},
        "metadata": {
            f"{vid}_{n}": {"vid": vid, "flg": 0, "z": [], "xy": xy, "av": {"1": "0"}}
            for n, (vid, xy) in enumerate(regions)
        },
        "view": {number: {"fid_list": [number]} for number in "123"},
    }


def test_a_project_of_version_3(tmp_path, caplog):
    write_picture(tmp_path / "b.png", 64, 48)
    write_json(tmp_path / "via_project.json", third(tmp_path))
    data = read_annotations(tmp_path)
    assert data.names == ("rose",) and len(data) == 2
    assert boxes(data) == [[10, 5, 30, 20], [1, 2, 21, 12], [20, 10, 40, 30], [20, 15, 40, 25]]
    assert "views of several files or of a video, left out: 1\n" in caplog.text
    assert "regions of the shape point, without an area, left out: 1" in caplog.text


def test_csv_of_version_3(tmp_path):
    write_picture(tmp_path / "a.png", 64, 48)
    attribute = third(tmp_path)["attribute"]
    rows = [
        "# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)",
        f"# ATTRIBUTE = {json.dumps(attribute)}",
        "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata",
        '"1_a","[""a.png""]",0,"[]","[2,10,5,20,15]","{""1"":""0""}"',
        '"1_b","[""a.png""]",0,"[]","[]","{""1"":""0""}"',
    ]
    (tmp_path / "export.csv").write_text("\n".join(rows))
    data = read_annotations(tmp_path)
    assert boxes(data) == [[10, 5, 30, 20]] and data.names == ("rose",)


def test_splits_agree_about_their_classes(tmp_path):
    write_json(tmp_path / "train/via_region_data.json", image(tmp_path / "train", region(**{"class": "rose"})))
    write_json(tmp_path / "val/via_region_data.json", image(tmp_path / "val", region(**{"class": "daisy"})))
    data = read_dataset(tmp_path)
    assert data["train"].names == data["val"].names == ("daisy", "rose")
    assert by_image(data["val"]) == {"a.png": [("daisy", False, [10, 5, 30, 20])]}


def test_a_bad_region_is_a_problem_of_it(tmp_path):
    shapes = [{"name": "rect", "x": 1}, {"name": "star"}, TRIANGLE | {"all_points_y": [1, 2]}, "rect", RECT]
    write_json(tmp_path / "via.json", image(tmp_path, *map(region, shapes), 7))
    data = read_annotations(tmp_path)
    assert boxes(data) == [[10, 5, 30, 20]] and len(data.read_problems) == 5
    assert "region 1 cannot be used: 'y' is missing" in data.read_problems[0].what


@pytest.mark.parametrize(
    "text",
    [
        b'{"a1": {"filename": "a", "regions": [], "file_attributes": {}}, "b": 3}',
        b'{"_via_img_metadata": []}',
        b'{"_via_img_metadata": {"a": {"filename": "a.png"}}}',
        b'{"project": {"vid_list": []}, "view": {"1": {}}}',
        b'{"_via_\xff',
    ],
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "via.json").write_bytes(text)
    with pytest.raises(AnnotationError, match=r"via\.json"):
        read_annotations(tmp_path)


@pytest.mark.parametrize("row", ["a.png,1", '"a.png",1,"{}",1,0,"{broken","{}"', "a.png,1,{},1,0,[1],[2]"])
def test_a_damaged_row_is_named(tmp_path, row):
    head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    (tmp_path / "via.csv").write_text(head + row)
    try:
        data = read_annotations(tmp_path)
    except AnnotationError as error:
        assert "via.csv" in str(error)
    else:
        assert len(data.ids) == 0 and len(data.read_problems) == 1
