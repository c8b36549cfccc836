"""KITTI and VisDrone: their columns, what is ignored, and the folders that they come in."""

import pytest

from detseg.data import raise_on_problems, read_annotations, read_dataset, validate, write_dataset
from detseg.data.annotations import AnnotationError
from detseg.data.formats import find_sources
from tests.data.annotation_samples import by_image, make, write_picture

KITTI = """Pedestrian 0.00 0 -0.20 12.40 3.00 30.73 42.92 1.89 0.48 1.20 1.84 1.47 8.41 0.01
Person sitting 0.00 0 -0.20 1 3 5 7 1.89 0.48 1.20 1.84 1.47 8.41 0.01 0.97
DontCare -1 -1 -10 50.00 1.00 60.00 20.00 -1 -1 -1 -1000 -1000 -1000 -10
"""
REGION = [50, 1, 60, 20]


def write(folder, labels, images, text, name="000001"):
    (folder / labels).mkdir(parents=True, exist_ok=True)
    (folder / labels / f"{name}.txt").write_text(text)
    write_picture(folder / images / f"{name}.png")


@pytest.mark.parametrize(
    ("place", "labels", "images", "split"),
    [
        ("training", "label_2", "image_2", "train"),
        ("raw/training", "label_2", "image_2", "train"),
        ("", "labels", "images", ""),
        ("", "labels", "data", ""),
        ("", "labels/train", "images/train", "train"),
    ],
)
def test_kitti(tmp_path, place, labels, images, split):
    write(tmp_path / place, labels, images, KITTI)
    write(tmp_path / place, labels, images, "", "000002")
    assert list(find_sources(tmp_path)) == [split]
    data = read_annotations(tmp_path)
    assert data.names == ("Pedestrian", "Person sitting")
    assert by_image(data) == {
        "000001.png": [
            ("Pedestrian", False, [12.4, 3, 30.73, 42.92]),
            ("Pedestrian", True, REGION),
            ("Person sitting", False, [1, 3, 5, 7]),
            ("Person sitting", True, REGION),
        ],
        "000002.png": [],
    }
    raise_on_problems(validate(data))


def test_a_split_without_any_objects_is_one(tmp_path):
    write(tmp_path / "training", "label_2", "image_2", KITTI)
    write(tmp_path / "val", "label_2", "image_2", "")
    data = read_dataset(tmp_path)
    assert (len(data["val"]), len(data["val"].ids)) == (1, 0) and data["val"].names == data["train"].names


def test_a_folder_of_labels_will_do(tmp_path):
    write(tmp_path, "label_2", "image_2", KITTI)
    assert len(read_annotations(tmp_path / "label_2").ids) == 4


def test_lines_of_kitti_that_are_none(tmp_path, caplog):
    write(tmp_path, "label_2", "image_2", KITTI + "\nCar 0 0 -10 1 2 3\nCar 0 0 -10 1 2 3 x -1 -1 -1 -1 -1 -1 -1\n")
    write_picture(tmp_path / "image_2/000009.png")
    problems = validate(read_annotations(tmp_path))
    assert [p.what.split(":")[0] for p in problems] == ["line 5", "line 6"]
    assert "1 images have no label file" in caplog.text and "000009.png" in caplog.text


def test_names_that_kitti_cannot_hold(tmp_path):
    write_picture(tmp_path / "a.png")
    data = make([[1, 2, 3, 4]], paths=[str(tmp_path / "a.png")])
    for name in ("class 1", "DontCare", "two  blanks"):
        renamed = data.match(data.categories)
        categories = (data.categories[0]._replace(name=name), *data.categories[1:])
        renamed = make([[1, 2, 3, 4]], paths=data.paths.tolist(), categories=categories)
        with pytest.raises(AnnotationError, match="cannot be told from the other columns"):
            write_dataset(renamed, tmp_path / "to", to="kitti")


VISDRONE = "10,5,20,30,1,4,0,1\n0,0,4,5,0,1,0,0,\n50,1,10,19,0,0,0,0\n2,2,3,3,0,11,0,0\n"


def test_visdrone(tmp_path):
    for split in ("train", "val", "test-dev"):
        write(tmp_path / f"VisDrone2019-DET-{split}", "annotations", "images", VISDRONE)
    assert set(find_sources(tmp_path)) == {"train", "val", "test"}
    data = read_dataset(tmp_path)["train"]
    assert data.names == (
        "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus", "motor",
    )  # fmt: skip
    assert len(data.ids) == 22 and data.iscrowd.sum() == 21
    assert ("car", False, [10, 5, 30, 35]) in by_image(data)["000001.png"]
    assert ("pedestrian", True, [0, 0, 4, 5]) in by_image(data)["000001.png"]
    assert [data.names[label] for label in data.labels[data.boxes[:, 0] == 50]] == list(data.names)
    raise_on_problems(validate(data))
    assert len(read_annotations(tmp_path / "VisDrone2019-DET-val").ids) == 22


def test_lines_of_visdrone_that_are_none(tmp_path):
    write(
        tmp_path, "annotations", "images", VISDRONE + "1,2,3,4\n1,2,3,x,1,1,0,0\n1,2,3,4,1,12,0,0\n1,2,3,4,1,1.5,0,0\n"
    )
    problems = validate(read_annotations(tmp_path))
    assert [p.what.split(":")[0] for p in problems] == ["line 5", "line 6", "line 7", "line 8"]
    assert "the class 12 is none of 0..11" in problems[2].what


def test_own_classes_of_visdrone(tmp_path):
    write(tmp_path, "annotations", "images", "1,2,3,4,1,2,0,0\n")
    (tmp_path / "classes.txt").write_text("rose\ndaisy\n")
    data = read_annotations(tmp_path)
    assert data.names == ("rose", "daisy") and data.labels.tolist() == [1]


def test_folders_that_could_be_of_one_split_are_refused(tmp_path):
    for split in ("train_day", "train_night", "val"):
        (tmp_path / split / "label_2").mkdir(parents=True)
        (tmp_path / split / "image_2").mkdir()
        (tmp_path / split / "label_2/1.txt").write_text("Car 0 0 -10 1 2 31 42 -1 -1 -1 -1000 -1000 -1000 -10\n")
    with pytest.raises(
        AnnotationError, match=r"train_day and train_night could all be of the split 'train'; join them"
    ):
        read_annotations(tmp_path)
