"""Label Studio's JSON and JSON-MIN: regions of all tools, brush masks, which annotation counts, paths, predictions."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from detseg.data import read_annotations, read_dataset, validate, write_dataset
from detseg.data.annotations import AnnotationError
from detseg.data.formats import label_studio
from detseg.data.formats.label_studio_brush import decode_brush, encode_brush
from detseg.data.polygons import SegmentsBuilder
from tests.data.annotation_samples import by_image, make, write_json, write_picture

RECT = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["rose"]}
SIZE = {"original_width": 80, "original_height": 40}


def result(value=RECT, kind="rectanglelabels", number=[0], **fields):  # noqa: B006 - counts
    number[0] += 1
    head = {"id": f"r{number[0]}", "type": kind, "from_name": "label", "to_name": "image", "image_rotation": 0}
    return head | SIZE | {"value": value} | fields


def task(*results, name="a.png", **fields):
    annotation = {"id": 1, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": list(results)}
    return {"id": 1, "annotations": [annotation], "predictions": [], "data": {"image": name}} | fields


def read(folder, *tasks):
    for name in ("a.png", "b.png"):
        write_picture(folder / name, 80, 40)
    write_json(folder / "project-1-at-2024-01-01.json", list(tasks))
    return read_annotations(folder)


def boxes(data):
    return np.round(data.boxes, 6).tolist()


def test_percents_become_pixels(tmp_path):
    data = read(tmp_path, task(result()), task(name="b.png"))
    assert by_image(data) == {"a.png": [("rose", False, [8, 8, 32, 24])], "b.png": []}
    assert validate(data)[0].severity == "warning"  # the two images are the same


def test_without_original_sizes_the_image_is_measured(tmp_path):
    polygon = {"points": [[10, 10], [50, 10], [50, 50]], "polygonlabels": ["rose"], "closed": True}
    bare = [{"type": "rectanglelabels", "value": RECT}, {"type": "polygonlabels", "value": polygon}]
    data = read(tmp_path, task(*bare, {"type": "rectanglelabels", "value": RECT | {"rotation": 5}}))
    assert boxes(data) == [[8, 8, 32, 24], [8, 4, 40, 20]]
    assert data.segments.polygons(1)[0].tolist() == [[8, 4], [40, 4], [40, 20]]
    assert "it is rotated" in data.read_problems[0].what


def test_rotated_rectangles_turn_around_their_corner(tmp_path):
    data = read(tmp_path, task(result(RECT | {"rotation": 90})))
    assert np.round(data.segments.polygons(0)[0], 6).tolist() == [[8, 8], [8, 32], [-8, 32], [-8, 8]]


def test_ellipses(tmp_path):
    value = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": 0, "ellipselabels": ["daisy"]}
    data = read(tmp_path, task(result(value, "ellipselabels"), result(value | {"rotation": 90}, "ellipselabels")))
    assert boxes(data) == [[24, 16, 56, 24], [36, 4, 44, 36]]


@pytest.mark.parametrize("seed", range(6))
def test_brush_code_comes_back(seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 90, 2)
    mask = np.kron(random.random((height, width)) < random.random(), np.ones((1 + seed, 1 + seed))) > 0
    assert (decode_brush(encode_brush(mask), mask.shape[::-1]) == mask).all()


def test_brush_code_of_single_values():
    """A head for 8 bytes of 8 bits; a block of two bytes, 0 and 0, as they are; a block of 255 six times."""
    bits = f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + f"000001{0:08b}{0:08b}" + f"100101{255:08b}"
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]
    assert decode_brush(code, (2, 1)).tolist() == [[True, True]]


def test_brush_masks(tmp_path):
    mask = np.zeros((40, 80), bool)
    mask[10:14, 20:60] = True
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["rose"]}
    data = read(tmp_path, task(result(value, "brushlabels")))
    assert boxes(data) == [[20, 10, 60, 14]]
    assert (coco.decode(data.segments.rle(0, 40, 80)) == mask).all()


@pytest.mark.parametrize("code", [[], [0, 0, 50, 0], [1, 2, 300], "text", None, encode_brush(np.ones((40, 80)))[:9]])
def test_damaged_brush_masks_are_problems(tmp_path, code):
    value = {"format": "rle", "rle": code, "brushlabels": ["rose"]}
    data = read(tmp_path, task(result(value, "brushlabels"), result()))
    assert len(data.ids) == 1 and len(data.read_problems) == 1


def test_shape_and_label_may_be_two_results_of_a_region(tmp_path, caplog):
    geometry = {key: RECT[key] for key in ("x", "y", "width", "height", "rotation")}
    pair = [
        result(geometry, "rectangle", id="same"),
        result(geometry | {"labels": ["rose"]}, "labels", id="same"),
    ]
    assert by_image(read(tmp_path, task(*pair)))["a.png"] == [("rose", False, [8, 8, 32, 24])]
    pair[1]["value"] = {"labels": ["daisy"]}
    stray = result({"labels": ["tulip"]}, "labels", id="other")
    assert by_image(read(tmp_path, task(*pair, stray)))["a.png"] == [("daisy", False, [8, 8, 32, 24])]
    assert "labels without a region, left out: 1" in caplog.text


def test_labels_are_not_guessed(tmp_path):
    two = RECT | {"rectanglelabels": ["rose", "daisy"]}
    data = read(tmp_path, task(result(two), result(RECT | {"rectanglelabels": []})))
    assert len(data.ids) == 0
    assert "2 labels ('rose', 'daisy')" in data.read_problems[0].what and "0 labels" in data.read_problems[1].what


def test_what_is_no_object_is_counted(tmp_path, caplog):
    point = {"x": 5, "y": 5, "width": 1, "keypointlabels": ["rose"]}
    choice = {"choices": ["sharp"]}
    assert len(read(tmp_path, task(result(point, "keypointlabels"), result(choice, "choices"), result())).ids) == 1
    assert "results of the type choices, no objects, left out: 1" in caplog.text
    assert "regions without an area" in caplog.text


def test_which_annotation_counts(tmp_path, caplog):
    def annotation(x, **fields):
        return {"was_cancelled": False, "result": [result(RECT | {"x": x})]} | fields

    cancelled = annotation(30, was_cancelled=True)
    last = task(annotations=[annotation(10), annotation(20), cancelled])
    truth = task(name="b.png", annotations=[annotation(10, ground_truth=True), annotation(20)])
    data = read(tmp_path, last, truth)
    assert data.boxes[:, 0].tolist() == [16, 8]
    assert "images with several annotations, of which the ground truth counts, else the last: 2" in caplog.text


def test_the_first_versions_called_annotations_completions(tmp_path):
    old = task()
    old["completions"] = [{"result": [result()]}]
    del old["annotations"]
    assert by_image(read(tmp_path, old))["a.png"] == [("rose", False, [8, 8, 32, 24])]


def test_tasks_nobody_annotated_are_left_out(tmp_path, caplog):
    skipped = task(annotations=[{"was_cancelled": True, "result": []}])
    guessed = task(annotations=[], predictions=[{"model_version": "m", "result": [result()]}])
    data = read(tmp_path, skipped, guessed, task(name="b.png"))
    assert by_image(data) == {"b.png": []}
    for what in ("skipped by people, left out: 1", "never annotated, left out: 1", "with predictions, which are not"):
        assert what in caplog.text
    with pytest.raises(
        AnnotationError, match=r"no image of .*\.json is annotated; tasks skipped by people, left out: 1"
    ):
        read(tmp_path, skipped)


def test_json_min(tmp_path, caplog):
    row = {"image": "a.png", "id": 1, "annotator": 1, "annotation_id": 1, "lead_time": 2.5, "created_at": "2024"}
    brush = {"format": "rle", "rle": encode_brush(np.ones((40, 80), bool)), "brushlabels": ["daisy"]}
    data = read(
        tmp_path,
        row | {"label": [RECT | SIZE | {"x": 50}]},
        row | {"label": [RECT | SIZE], "brush": [brush | SIZE], "annotation_id": 2},
        row | {"image": "b.png", "id": 2},
    )
    objects = [("daisy", False, [0, 0, 80, 40]), ("rose", False, [8, 8, 32, 24])]
    assert by_image(data) == {"a.png": objects, "b.png": []}
    assert "earlier annotations of an image, left out for its last: 1" in caplog.text


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"image": "/data/local-files/?d=flowers/sub%20dir/a.png"}, "flowers/sub dir/a.png"),
        ({"img": "s3://bucket/dir/a.png", "title": "a rose"}, "s3://bucket/dir/a.png"),
        ({"photo": "https://x.org/dir/a.png?token=1&d=2"}, "https://x.org/dir/a.png"),
        ({"image": "a.png", "thumbnail": "small.png"}, "a.png"),
    ],
)
def test_the_image_of_a_task(tmp_path, data, path):
    write_picture(tmp_path / path.split("/")[-1], 80, 40)
    file = write_json(tmp_path / "tasks.json", [task(result(), data=data)])
    assert label_studio._image(data) == path
    assert validate(read_annotations(file)) == []


def test_an_image_that_cannot_be_told_is_an_error(tmp_path):
    with pytest.raises(AnnotationError, match=r"task 1: .*which of its data is the image cannot be told: 'x', 'y'"):
        read(tmp_path, task(result(), data={"x": "a.png", "y": "b.png"}))


def test_what_is_written_is_what_the_tool_takes(tmp_path):
    path = write_picture(tmp_path / "from/a b.png", 64, 48)
    data = make([[16, 12, 32, 36], [0, 0, 20, 20], [0, 0, 8, 8]], [0, 1, 2], paths=[str(path)])
    builder = SegmentsBuilder()
    builder.add_nothing()
    builder.add_polygons([[0, 0, 20, 0, 20, 20]])
    builder.add_polygons([[0, 0, 4, 0, 4, 4, 0, 4], [4, 4, 8, 4, 8, 8, 4, 8]])
    data = replace(data, segments=builder.build())
    write_dataset(data, tmp_path / "to", to="labelstudio")
    (written,) = json.loads((tmp_path / "to/train.json").read_text())
    assert written["data"] == {"image": "/data/local-files/?d=images/train/a%20b.png"}
    box, polygon, brush = written["annotations"][0]["result"]
    assert box["value"] == {"x": 25, "y": 25, "width": 25, "height": 50, "rotation": 0, "rectanglelabels": ["rose"]}
    assert (box["original_width"], box["original_height"], box["to_name"]) == (64, 48, "image")
    assert polygon["type"] == "polygonlabels" and brush["type"] == "brushlabels"
    back = read_annotations(tmp_path / "to")
    assert by_image(back) == by_image(data) and validate(back) == []
    assert coco.decode(back.segments.rle(2, 48, 64)).sum() == 32


def test_predictions_are_written_with_scores_and_not_read(tmp_path):
    path = write_picture(tmp_path / "a.png", 64, 48)
    data = make([[16, 12, 32, 36], [0, 0, 20, 20]], [0, 1], paths=[str(path)])
    label_studio.FORMAT.write(data, tmp_path / "to", "train", scores=np.array([0.5, 1.0]))
    (written,) = json.loads((tmp_path / "to/train.json").read_text())
    assert written["annotations"] == [] and written["predictions"][0]["model_version"] == "detseg"
    assert written["predictions"][0]["score"] == 0.75
    assert [r["score"] for r in written["predictions"][0]["result"]] == [0.5, 1.0]
    with pytest.raises(AnnotationError, match="never annotated, left out: 1"):
        read_annotations(tmp_path / "to")


def test_the_configuration_lists_the_classes(tmp_path):
    path = write_picture(tmp_path / "a.png", 64, 48)
    data = make([[16, 12, 32, 36]], [0], paths=[str(path)])
    names = ("Rose & Co", 'the "wild" one', "Gänseblümchen")
    named = tuple(c._replace(name=name) for c, name in zip(data.categories, names, strict=True))
    for split in ("train", "val"):
        write_dataset(replace(data, categories=named), tmp_path / "to", split, to="labelstudio")
    assert read_dataset(tmp_path / "to")["val"].names == names
    with pytest.raises(AnnotationError, match="already holds other categories"):
        write_dataset(data, tmp_path / "to", to="labelstudio")


def test_unknown_sizes_are_refused(tmp_path):
    data = make([[1, 2, 3, 4]], [0], sizes=[(0, 0)])
    with pytest.raises(AnnotationError, match="1 sizes are unknown"):
        write_dataset(data, tmp_path / "to", to="labelstudio", images="keep")


@pytest.mark.parametrize(
    "text",
    [
        '[{"data": {"image": "a.png"}, "annotations": 3}]',
        '[{"data": {"image": 3}, "annotations": []}]',
        '[{"data": {"image": "a.png"}, "annotations": [{"result": [1]}]}]',
        '[{"data": {"image": "a.png"}, "annotations": []}, 7]',
        '[{"data": {"image": "a.png"}, "annotations": [}]',
        '{"data": {"image": "a.png"}, "annotations": []}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "tasks.json").write_text(text)
    with pytest.raises(AnnotationError, match=r"tasks\.json"):
        read_annotations(tmp_path / "tasks.json")


def test_uploads_are_found_whatever_was_put_before_their_names(tmp_path):
    tasks = []
    for number, name in enumerate(("rose-1.jpg", "tulip.jpg")):
        write_picture(tmp_path / name, 64, 48, number)
        value = {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["x"]}
        result = [{"type": "rectanglelabels", "original_width": 64, "original_height": 48, "value": value}]
        image = f"/data/upload/7/{('abc', '0a1b2c3d')[number]}-{name}"
        tasks.append({"id": number, "data": {"image": image}, "annotations": [{"result": result}]})
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    data = read_annotations(tmp_path)
    assert [Path(path).name for path in data.paths] == ["rose-1.jpg", "tulip.jpg"] and validate(data) == []


@pytest.mark.parametrize(("name", "separator"), [("project-1.csv", ","), ("project-1.tsv", "\t")])
def test_the_table_is_the_short_form(tmp_path, name, separator):
    label = [{**RECT, **SIZE}, {**RECT, **SIZE, "x": 50, "rectanglelabels": ["daisy"]}]
    with (tmp_path / name).open("w", newline="") as file:
        rows = csv.writer(file, delimiter=separator)
        rows.writerow(["annotation_id", "annotator", "created_at", "id", "image", "label", "lead_time"])
        rows.writerow([1, 1, "2024", 1, "/data/upload/1/a.png", json.dumps(label), 1.5])
        rows.writerow([2, 1, "2024", 2, "/data/upload/1/b.png", "", 1.5])
    for image in ("a.png", "b.png"):
        write_picture(tmp_path / image, 80, 40)
    data = read_annotations(tmp_path)
    assert boxes(data) == [[8, 8, 32, 24], [40, 8, 64, 24]] and data.names == ("daisy", "rose")
    assert data.labels.tolist() == [1, 0] and len(data) == 2
    (tmp_path / name).write_text((tmp_path / name).read_text().replace("}]", "}"))
    with pytest.raises(AnnotationError, match=name):
        read_annotations(tmp_path)
