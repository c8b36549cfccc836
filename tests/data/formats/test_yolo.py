import logging

import numpy as np
import pytest
import yaml

from detseg.data.annotations import AnnotationError, Category
from detseg.data.checks.validate import validate
from detseg.data.formats import read_annotations, read_coco, read_dataset, read_yolo, write_yolo
from tests.data.annotation_samples import by_image, make, write_coco_dataset, write_picture


@pytest.fixture
def yolo(tmp_path):
    """Two training images (one without label file) and one for validation; images are 64 x 48."""
    write_picture(tmp_path / "images/train/a.jpg", seed=0)
    write_picture(tmp_path / "images/train/b.PNG", seed=1)
    write_picture(tmp_path / "images/val/c.jpeg", seed=2)
    write(tmp_path / "labels/train/a.txt", "1 0.5 0.5 0.25 0.5\n\n0 0 0 0.5 0 0.5 0.25\n")
    write(tmp_path / "labels/val/c.txt", "0.0 0.25 0.25 0.5 0.5\n")
    write(tmp_path / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: [rose, daisy]\n")
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_boxes_outlines_and_images_without_labels(yolo):
    data = read_dataset(yolo)
    train = data["train"]
    assert [p.removeprefix(f"{yolo}/images/train/") for p in train.paths.tolist()] == ["a.jpg", "b.PNG"]
    assert train.boxes.tolist() == [[24, 12, 40, 36], [0, 0, 32, 12]]
    assert train.labels.tolist() == [1, 0]
    assert train.categories == (Category(0, "rose"), Category(1, "daisy"))
    assert train.segments.polygons(0) == []
    assert train.segments.polygons(1)[0].tolist() == [[0, 0], [32, 0], [32, 12]]
    assert train.objects(1) == slice(2, 2)
    assert data["val"].boxes.tolist() == [[0, 0, 32, 24]]
    (problem,) = validate(train, other=data["val"])
    assert (problem.severity, problem.kind) == ("warning", "images-without-labels")
    assert (
        problem.what == f"1 of 2 images has no label file and counts as without objects, the first is {train.paths[1]}"
    )
    assert problem.remedy == f"if it has objects, write {yolo}/labels/train/b.txt"


def test_ways_to_write_data_yaml(yolo):
    write(yolo / "train_list.txt", "./images/train/a.jpg\nimages\\train\\b.PNG\n")
    write(yolo / "val_list.txt", f"{yolo}/images/val/c.jpeg\n")
    for content in (
        "train: images/train\nval: images/val\nnames: {1: daisy, 0: rose}",
        "train: images\\train\nval: images\\val\nnames: {'0': rose, '1': daisy}",
        "train: /content/datasets/flowers/images/train\nval: C:\\flowers\\images\\val\nnames: [rose, daisy]",
        "path: ../datasets/flowers\ntrain: images/train\nval: [images/val]\nnames: [rose, daisy]",
        "train: ../images/train\nvalid: ../images/val\nnames: [rose, daisy]",
        "train: train_list.txt\nval: val_list.txt\nnames: [rose, daisy]",
        "train: Images/Train\nval: IMAGES/val\nnames: [rose, daisy]",
    ):
        write(yolo / "data.yaml", content)
        for path in (yolo, yolo / "data.yaml"):
            data = read_dataset(path)
            assert data["train"].names == ("rose", "daisy"), content
            assert (len(data["train"]), len(data["train"].ids), len(data["val"].ids)) == (2, 2, 1), content


def test_names_are_text(yolo):
    places = "train: images/train\nval: images/val\n"
    write(yolo / "data.yaml", f"{places}nc: 4\nnames: [no, 007, 1_000, 2024-01-01]")
    assert read_dataset(yolo)["train"].names == ("no", "007", "1_000", "2024-01-01")


def test_faults_in_data_yaml_are_named(yolo):
    for content, message in (
        ("train: images/train\nnames: {0: {name: rose}}", "class 0 has no name but {'name': 'rose'}"),
        ("train: images/train\nnames: {0: rose, 1: }", "class 1 has no name but ''"),
        ("train: images/train\nnames: {0: rose, a: daisy}", r"must be 0\.\.1, found 0, a"),
        ("train: images/train\nnames: [rose]\nkpt_shape: [a, b]", "kpt_shape must be two whole numbers"),
        ("train: images/train\nval: images/val", 'has no "names"'),
        ("train: images/train\nnc: 3\nnames: [rose, daisy]", "nc is 3, but names lists 2"),
        ("train: images/train\nnames: {0: rose, 2: daisy}", r"must be 0\.\.1, found 0, 2"),
        ("train: photos\nnames: [rose]", r"data\.yaml: train: 'photos' not found; tried"),
        ("train: /dev/null\nnames: [rose]", r"data\.yaml: train: ./dev/null. is no folder, no list of images"),
        (f"train: {'y' * 999}\nnames: [rose]", r"data\.yaml: train: .*File name too long"),
        ("train: data.yaml\nnames: [rose]", r"data\.yaml: train: .data\.yaml. is no folder, no list of images"),
        ("names: [rose]", 'neither "train" nor "val"'),
        ("train: [", "cannot be read as YAML"),
    ):
        write(yolo / "data.yaml", content)
        with pytest.raises(AnnotationError, match=message):
            read_dataset(yolo / "data.yaml")


def test_other_layouts(yolo):
    (yolo / "data.yaml").unlink()
    data = read_dataset(yolo)
    assert data["train"].names == data["val"].names == ("0", "1"), "numbers serve as names in both splits"
    write(yolo / "classes.txt", "rose\ndaisy\ntulip\n")
    assert read_dataset(yolo)["val"].names == ("rose", "daisy", "tulip")
    assert len(read_annotations(write(yolo / "list.txt", "images/val/c.jpeg")).ids) == 1

    flat = yolo / "flat"
    write_picture(flat / "a.jpg")
    write(flat / "a.txt", "0 0.5 0.5 1 1")
    assert read_annotations(flat).boxes.tolist() == [[0, 0, 64, 48]]

    roboflow = yolo / "roboflow"
    for split in ("train", "valid"):
        write_picture(roboflow / split / "images/a.jpg")
        write(roboflow / split / "labels/a.txt", "0 0.5 0.5 1 1")
    assert [len(a.ids) for a in read_dataset(roboflow).values()] == [1, 1]


def test_one_bad_line_is_named_and_the_others_are_read(yolo):
    for line, kind, words in (
        ("0 0.5 0.5 x 1", "malformed-object", "line 2: '0 0.5 0.5 x 1' holds something that is no number"),
        ("0 0.5 0.5 1", "malformed-object", "4 numbers"),
        ("0 0.5 0.5 1 1 0.9", "malformed-object", "6 numbers"),
        ("0.5 0.5 0.5 1 1", "malformed-object", "class 0.5"),
        ("-1 0.5 0.5 1 1", "malformed-object", "class -1"),
        ("3000000000 0.5 0.5 1 1", "malformed-object", "class 3000000000"),
        ("2 0.5 0.5 1 1", "unknown-category", "class 2 is not among the 2 classes"),
        ("0 320 240 100 80", "pixel-coordinates", "320 is no share"),
        ("0 nan 0.5 1 1", "not-finite", "NaN"),
        ("0 inf 0.5 1 1", "not-finite", "infinity"),
    ):
        file = write(yolo / "labels/val/c.txt", f"1 0.5 0.5 1 1\n{line}\n")
        val = read_annotations(yolo, "val")
        assert val.boxes[0].tolist() == [0, 0, 64, 48], line
        (problem,) = validate(val, check_images=False)
        assert problem.kind == kind and words in problem.what, line
        assert problem.file == str(file) and problem.image.endswith("c.jpeg")


def test_missing_images_in_a_list(yolo):
    annotations = read_yolo([write(yolo / "list.txt", "images/val/c.jpeg\nimages/val/gone.jpg\n")])
    assert [p.kind for p in validate(annotations)] == ["missing-image"]
    with pytest.raises(AnnotationError, match="no images with the extensions"):
        read_yolo([yolo / "labels"])


def test_lists_may_name_folders_of_another_machine(yolo):
    for above in ("data/", "/home/someone/set/", "C:\\Users\\someone\\set\\"):
        (path,) = read_yolo([write(yolo / "list.txt", f"{above}images/val/c.jpeg\n")]).paths
        assert path == str(yolo / "images/val/c.jpeg"), above


def test_test_images_that_were_not_handed_on(yolo):
    with (yolo / "data.yaml").open("a") as file:
        file.write("test: images/gone\n")
    assert set(read_dataset(yolo)) == {"train", "val"}
    write(yolo / "data.yaml", "test: images/gone\nnames: [rose, daisy]")
    with pytest.raises(AnnotationError, match="test: 'images/gone' not found"):
        read_dataset(yolo)


def test_key_points_behind_the_box_are_left_out(yolo):
    content = (yolo / "data.yaml").read_text()
    for shape, points in (("[2, 2]", ".4 .4 .6 .6"), ("[2, 3]", ".4 .4 2 .6 .6 1")):
        write(yolo / "data.yaml", f"{content}kpt_shape: {shape}\n")
        write(yolo / "labels/val/c.txt", f"1 .5 .5 .25 .5 {points}\n")
        val = read_annotations(yolo, "val")
        assert val.boxes.tolist() == [[24, 12, 40, 36]] and val.segments is None and validate(val) == [], shape


def test_images_argument_is_refused(yolo):
    with pytest.raises(AnnotationError, match=r"--images is for .*COCO.*VOC"):
        read_annotations(yolo, "train", images=yolo)


def test_written_folder_reads_back_the_same(tmp_path):
    first = read_coco(write_coco_dataset(tmp_path / "coco"))
    write_yolo(first, tmp_path / "yolo", "train", crowd="keep")
    write_yolo(first.subset([3]), tmp_path / "yolo", "val", images="copy")
    content = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())
    assert content["names"] == {0: "rose", 1: "daisy", 2: "water lily"}
    data = read_dataset(tmp_path / "yolo")
    found, expected = by_image(data["train"]), by_image(first)
    assert found.keys() == expected.keys()
    for name, objects in expected.items():
        assert [(n, b) for n, _, b in found[name]] == [(n, b) for n, _, b in objects]
    assert [p.kind for p in validate(data["train"])] == []
    (tmp_path / "yolo").rename(tmp_path / "moved")
    assert len(read_dataset(tmp_path / "moved")["val"].ids) == 1, "the folder can be moved"


def test_crowd_is_refused_dropped_or_kept(tmp_path, caplog):
    first = read_coco(write_coco_dataset(tmp_path / "coco"))
    with pytest.raises(AnnotationError, match="cannot mark the 1 crowd"):
        write_yolo(first, tmp_path / "yolo")
    assert not (tmp_path / "yolo").exists()
    with caplog.at_level(logging.WARNING):
        write_yolo(first, tmp_path / "yolo", crowd="drop")
    assert "1 crowd (or difficult) objects were left out" in caplog.text
    assert "not every object has exactly one polygon, 1 objects keep only their boxes" in caplog.text
    assert len(read_annotations(tmp_path / "yolo", "train").ids) == 3


def test_polygons_are_written_where_every_object_has_one(tmp_path):
    annotations = make([[10, 5, 30, 35]], paths=[str(write_picture(tmp_path / "a.jpg"))])
    points = np.array([[10, 5], [30, 5], [30, 35.0]])
    from detseg.data.polygons import SegmentsBuilder

    builder = SegmentsBuilder()
    builder.add_polygons([points.ravel().tolist()])
    annotations = make([[10, 5, 30, 35]], paths=annotations.paths, segments=builder.build())
    write_yolo(annotations, tmp_path / "yolo")
    again = read_annotations(tmp_path / "yolo", "train")
    np.testing.assert_allclose(again.segments.polygons(0)[0], points)
    np.testing.assert_allclose(again.boxes, annotations.boxes)


def test_writer_refuses_what_would_mix_or_lose(tmp_path):
    image = str(write_picture(tmp_path / "a.jpg"))
    annotations = make([[10, 5, 30, 35]], paths=[image])
    write_yolo(annotations, tmp_path / "yolo")
    write_yolo(annotations, tmp_path / "yolo")  # the same again is fine
    other = make([[10, 5, 30, 35]], paths=[image], categories=(Category(1, "tulip"),))
    with pytest.raises(AnnotationError, match="already holds other categories"):
        write_yolo(other, tmp_path / "yolo", "val")
    renamed = make([[10, 5, 30, 35]], paths=[str(write_picture(tmp_path / "b.jpg"))])
    with pytest.raises(AnnotationError, match="already holds 1 other images"):
        write_yolo(renamed, tmp_path / "yolo")
    unmeasured = make([[10, 5, 30, 35]], paths=[image], sizes=[(0, 0)])
    with pytest.raises(AnnotationError, match="1 sizes are unknown"):
        write_yolo(unmeasured, tmp_path / "new")
    with pytest.raises(ValueError, match="crowd must be"):
        write_yolo(annotations, tmp_path / "new", crowd="maybe")
    with pytest.raises(ValueError, match="images must be"):
        write_yolo(annotations, tmp_path / "new", images="move")
