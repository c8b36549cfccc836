"""Labelbox exports: NDJSON, lists of it, and the JSON of older projects."""

import json
from dataclasses import replace

import pytest

from detseg.data import read_annotations, read_dataset, validate, write_dataset
from detseg.data.annotations import AnnotationError
from detseg.data.polygons import SegmentsBuilder
from tests.data.annotation_samples import by_image, make, write_json, write_picture

BOX = {
    "name": "rose",
    "annotation_kind": "ImageBoundingBox",
    "bounding_box": {"top": 10, "left": 5, "height": 20, "width": 30},
}
POLYGON = {"name": "daisy", "polygon": [{"x": 1, "y": 2}, {"x": 21, "y": 2}, {"x": 21, "y": 12}]}
MASK = {"name": "rose", "annotation_kind": "ImageSegmentationMask", "mask": {"url": "https://api.labelbox.com/x.png"}}
LINE = {"name": "rose", "annotation_kind": "ImagePolyline", "line": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}


def label(*objects, **details):
    return {"id": "l", "label_details": details, "annotations": {"objects": list(objects), "classifications": []}}


def row(*labels, name="a.png", **data):
    return {
        "data_row": {"id": "cl", "external_id": name, "row_data": f"https://s.org/{name}?token=1"} | data,
        "media_attributes": {"height": 48, "width": 64, "asset_type": "image", "mime_type": "image/png"},
        "projects": {"cm": {"name": "flowers", "labels": list(labels), "project_details": {}}},
    }


def read(folder, *rows, file="export.ndjson"):
    for seed, name in enumerate(("a.png", "b.png")):
        write_picture(folder / name, 64, 48, seed)
    (folder / file).write_text("".join(f"{json.dumps(entry)}\n" for entry in rows))
    return read_annotations(folder)


def test_boxes_and_polygons(tmp_path):
    data = read(tmp_path, row(label(BOX, POLYGON)), row(label(), name="b.png"))
    objects = [("daisy", False, [1, 2, 21, 12]), ("rose", False, [5, 10, 35, 30])]
    assert by_image(data) == {"a.png": objects, "b.png": []} and validate(data) == []
    assert data.segments.polygons(1)[0].tolist() == [[1, 2], [21, 2], [21, 12]]


def test_masks_and_lines_are_counted(tmp_path, caplog):
    assert len(read(tmp_path, row(label(BOX, MASK, MASK, LINE))).ids) == 1
    assert "masks behind web addresses, left out; export boxes or polygons: 2" in caplog.text
    assert "objects of the kind line, without an area, left out: 1" in caplog.text


def test_rows_nobody_labelled_are_left_out(tmp_path, caplog):
    assert len(read(tmp_path, row(), row(label(BOX), name="b.png"))) == 1
    assert "data rows without a label, left out: 1 (the first: a.png)" in caplog.text
    with pytest.raises(AnnotationError, match=r"no image of export\.ndjson is annotated"):
        read(tmp_path, row())


def test_which_of_several_labels_counts(tmp_path, caplog):
    early, late = label(BOX, created_at="2024-01-01T00:00"), label(POLYGON, created_at="2024-02-01T00:00")
    reference = label(BOX, created_at="2023-01-01T00:00", is_benchmark_reference=True)
    data = read(tmp_path, row(late, early), row(reference, late, name="b.png"))
    assert [data.names[label] for label in data.labels] == ["daisy", "rose"]
    assert "images with several labels, of which a benchmark's reference counts, else the last: 2" in caplog.text
    assert read(tmp_path, row(label(BOX), label(POLYGON))).names == ("daisy",)


def test_videos_are_counted(tmp_path, caplog):
    video = row({"annotations": {"frames": {"1": {}}}}, name="c.mp4")
    assert len(read(tmp_path, video, row(label(BOX)))) == 1 and "data rows of videos, left out: 1" in caplog.text


def test_the_name_is_the_first_that_ends_like_an_image(tmp_path):
    data = read(tmp_path, row(label(BOX), name="no. 7", row_data="https://s.org/x%20y/b.png?token=1"))
    assert data.paths.tolist() == [str(tmp_path / "b.png")]


def test_a_list_in_json_and_splits(tmp_path):
    for split in ("train", "val"):
        write_picture(tmp_path / "a.png", 64, 48)
        write_json(tmp_path / f"{split}.json", [row(label(BOX))])
    assert read_dataset(tmp_path)["val"].boxes.tolist() == [[5, 10, 35, 30]]


def test_the_older_json(tmp_path, caplog):
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, 64, 48)
    box = {"featureId": "1", "title": "rose", "value": "rose_1", "bbox": BOX["bounding_box"]}
    mask = {"title": "rose", "instanceURI": "https://x"}

    def old(name, created, *objects, **fields):
        head = {"ID": created, "DataRow ID": name, "Labeled Data": f"https://x/{name}", "External ID": name}
        return head | {"Created At": created, "Label": {"objects": objects, "classifications": []}} | fields

    rows = [
        old("a.png", "2021-03", box),
        old("a.png", "2021-01"),
        old("b.png", "2021-01", {"title": "daisy", "polygon": POLYGON["polygon"]}, mask),
        old("c.png", "2021-01", Skipped=True),
        old("d.png", "2021-01", Label="Skip"),
    ]
    write_json(tmp_path / "export.json", rows)
    data = read_annotations(tmp_path)
    expected = {"a.png": [("rose", False, [5, 10, 35, 30])], "b.png": [("daisy", False, [1, 2, 21, 12])]}
    assert by_image(data) == expected
    assert "earlier labels of an image, left out for its last: 1" in caplog.text
    assert "skipped or without a label, left out: 2" in caplog.text and "masks behind web addresses" in caplog.text


def test_a_bad_object_is_a_problem_of_it(tmp_path):
    bad = [BOX | {"bounding_box": {"top": 1}}, BOX | {"name": ""}, POLYGON | {"polygon": [1, 2]}, 3]
    data = read(tmp_path, row(label(*bad, BOX)))
    assert len(data.ids) == 1 and len(data.read_problems) == 4


def test_objects_of_several_polygons_keep_their_box(tmp_path, caplog):
    path = write_picture(tmp_path / "from/a.png", 64, 48)
    builder = SegmentsBuilder()
    builder.add_polygons([[0, 0, 4, 0, 4, 4], [5, 5, 9, 5, 9, 9]])
    builder.add_polygons([[10, 10, 20, 10, 20, 20]])
    data = replace(make([[0, 0, 9, 9], [10, 10, 20, 20]], [0, 0], paths=[str(path)]), segments=builder.build())
    write_dataset(data, tmp_path / "to", to="labelbox")
    back = read_annotations(tmp_path / "to")
    assert by_image(back) == by_image(data) and back.drawn.tolist() == [False, True]
    assert "1 objects of several keep only their boxes" in caplog.text


@pytest.mark.parametrize(
    "line", ["[1]", '{"data_row": 3}', '{"data_row": {}, "projects": {"a": 3}}', '{"data_row"', "\xff"]
)
def test_a_damaged_line_is_named(tmp_path, line):
    write_picture(tmp_path / "a.png", 64, 48)
    (tmp_path / "x.ndjson").write_bytes(json.dumps(row(label(BOX))).encode() + b"\n" + line.encode("latin-1"))
    with pytest.raises(AnnotationError, match=r"x\.ndjson: (line|data row) 2"):
        read_annotations(tmp_path)
