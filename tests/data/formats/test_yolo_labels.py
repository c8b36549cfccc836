"""Label files of YOLO sets: where they are found, what is told of those that fit nothing, and lines of another form."""

import re
import unicodedata

import numpy as np
import pytest

from detseg.data.annotations import AnnotationError
from detseg.data.checks.problems import raise_on_problems
from detseg.data.checks.validate import validate
from detseg.data.formats import NotRecognisedError, read_annotations, read_dataset, write_yolo
from tests.data.annotation_samples import make, write_picture
from tests.data.formats.test_yolo import write

LINE = "1 0.5 0.5 0.25 0.5\n"
BOX = [[24, 12, 40, 36]]


def yolo_set(root, images, labels, names="rose\ndaisy\n"):
    for seed, image in enumerate(images):
        write_picture(root / image, seed=seed)
    for label in labels:
        write(root / label, LINE)
    if names:
        write(root / "classes.txt", names)
    return root


def kinds(data):
    return [(problem.severity, problem.kind) for problem in validate(data)]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/1.jpg", "labels/1.txt"),
        ("JPEGImages/1.jpg", "labels/1.txt"),
        ("img/1.jpg", "labels/1.txt"),
        ("Images/1.jpg", "Labels/1.txt"),
        ("images/1.jpg", "annotations/1.txt"),
        ("images/1.jpg", "images/1.txt"),
        ("images/1.jpg", "images/labels/1.txt"),
        ("images/batch1/1.jpg", "labels/batch1/1.txt"),
        ("images/batch1/1.jpg", "labels/1.txt"),
        ("images/1.jpg", "my_yolo_labels/1.txt"),
        ("photos9/1.jpg", "labels/1.txt"),
        ("1.jpg", "1.txt"),
        ("images/1.jpg", "labels/1.jpg.txt"),
        ("images/1.jpg", "labels/1.TXT"),
        ("images/IMG_1.jpg", "labels/img_1.txt"),
        ("images/1.webp.jpg", "labels/1.txt"),
        ("images/1.jpg", "labels/d1c2b3a4-1.txt"),
        ("images/d1c2b3a4-1.jpg", "labels/1.txt"),
        ("images/my rose (1).jpg", "labels/d1c2b3a4-my_rose_1.txt"),
        ("images/décran.jpg", "labels/d%C3%A9cran.txt"),
        ("images/blüte.jpg", f"labels/{unicodedata.normalize('NFD', 'blüte')}.txt"),
    ],
)
def test_where_labels_are_found(tmp_path, image, label):
    data = read_annotations(yolo_set(tmp_path, [image], [label]))
    assert data.paths.tolist() == [str(tmp_path / image)]
    assert data.boxes.tolist() == BOX and data.names == ("rose", "daisy")
    assert str(data.label_files[0]) == str(tmp_path / label)
    assert kinds(data) == []


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/{}/1.jpg", "labels/{}/1.txt"),
        ("img/{}/1.jpg", "labels/{}/1.txt"),
        ("images/{}/{}1.jpg", "labels/{}1.txt"),
        ("{}/images/1.jpg", "{}/labels/1.txt"),
        ("{}/1.jpg", "{}/1.txt"),
        ("{}/1.jpg", "labels/{}/1.txt"),
        ("images/{}2017/1.jpg", "labels/{}2017/1.txt"),
        ("{}_images/1.jpg", "{}_labels/1.txt"),
        ("img_{}/1.jpg", "Annotations_{}/1.txt"),
    ],
)
def test_splits_without_yaml(tmp_path, images, labels):
    for form in (images, labels):
        for split in ("train", "valid"):
            path = form.format(split, split)
            if path.endswith(".jpg"):
                write_picture(tmp_path / path, seed=len(split))
            else:
                write(tmp_path / path, LINE)
    write(tmp_path / "classes.txt", "rose\ndaisy\n")
    data = read_dataset(tmp_path)
    assert [part.boxes.tolist() for part in data.values()] == [BOX, BOX]
    assert [kinds(part) for part in data.values()] == [[], []]


def test_a_label_file_that_two_images_mean_is_of_none(tmp_path):
    data = read_annotations(
        yolo_set(tmp_path, ["images/a.b.jpg", "images/c.jpg", "images/C.png"], ["labels/C.jpg.txt"])
    )
    assert len(data.ids) == 0
    data = read_annotations(yolo_set(tmp_path, [], ["labels/a.b.txt", "labels/A.b.TXT"]))
    assert len(data.ids) == 1, "its own goes before the other"


def test_one_label_file_for_images_of_two_folders_is_of_none(tmp_path):
    yolo_set(
        tmp_path, ["images/cam1/1.jpg", "images/cam2/1.jpg", "images/cam2/2.jpg"], ["labels/1.txt", "labels/2.txt"]
    )
    data = read_annotations(tmp_path)
    assert data.image_index.tolist() == [2]
    assert kinds(data) == [("warning", "images-without-labels")]
    write(tmp_path / "labels/cam1/1.txt", LINE)
    assert read_annotations(tmp_path).image_index.tolist() == [0, 2]


def test_the_usual_folder_of_labels_goes_before_others(tmp_path):
    yolo_set(tmp_path, ["images/1.jpg"], ["labels/1.txt"])
    write(tmp_path / "labels_old/1.txt", "0 .5 .5 .1 .1\n")
    assert read_annotations(tmp_path).boxes.tolist() == BOX
    (tmp_path / "labels").rename(tmp_path / "labels_new")
    with pytest.raises(NotRecognisedError):
        read_annotations(tmp_path)


def test_labels_without_images_and_images_without_labels_are_counted(tmp_path):
    names = [f"images/train/{number}.jpg" for number in range(4)]
    labels = [f"labels/train/{number}.txt" for number in (0, 1, 7, 8)]
    yolo_set(tmp_path, [*names, "images/val/9.jpg"], [*labels, "labels/val/9.txt"])
    train = read_annotations(tmp_path, "train")
    assert kinds(train) == [("warning", "images-without-labels"), ("warning", "labels-without-images")]
    first, second = (problem.what for problem in train.read_problems)
    assert first == f"2 of 4 images have no label file and count as without objects, the first is {tmp_path}/{names[2]}"
    assert second == f"2 label files belong to no image, the first is {tmp_path}/{labels[2]}"
    assert kinds(read_annotations(tmp_path, "val")) == []


def test_labels_of_another_split_belong_to_their_images(tmp_path):
    yolo_set(tmp_path, ["images/1.jpg", "images/2.jpg"], ["labels/1.txt", "labels/2.txt"])
    write(tmp_path / "labels/notes.txt", "drawn on Monday\n")
    write(tmp_path / "train.txt", "images/1.jpg\n")
    write(tmp_path / "val.txt", "images/2.jpg\n")
    assert [kinds(part) for part in read_dataset(tmp_path).values()] == [[], []]


def test_labels_that_no_image_uses_are_an_error(tmp_path):
    yolo_set(tmp_path, ["photos/train/1.jpg", "photos/train/2.jpg"], ["annotated/x1.txt", "annotated/x2.txt"])
    write(tmp_path / "data.yaml", "train: photos/train\nnames: [rose, daisy]\n")
    data = read_annotations(tmp_path, "train")
    (problem,) = data.read_problems
    assert (problem.severity, problem.kind, problem.repairable) == ("error", "no-label-files", False)
    assert problem.what == (
        f"no label file for any of 2 images; looked for {tmp_path}/photos/labels/1.txt, {tmp_path}/labels/train/1.txt, "
        f"{tmp_path}/photos/train/1.txt; there are 2 label files that fit none, the first is "
        f"{tmp_path}/annotated/x1.txt"
    )
    with pytest.raises(AnnotationError, match="cannot repair these"):
        raise_on_problems(validate(data))


def test_no_label_file_at_all_is_a_warning(tmp_path):
    yolo_set(tmp_path, ["images/1.jpg"], [])
    write_picture(tmp_path / "labels/1.png")
    write(tmp_path / "data.yaml", "train: images\nnames: [rose, daisy]\n")
    (problem,) = read_annotations(tmp_path, "train").read_problems
    assert problem.severity == "warning" and problem.what.startswith("no label file for any of 1 images; looked for")
    assert "if the PNG files there are masks, train a segmenter with --masks" in problem.remedy
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(AnnotationError, match="detseg train segmenter learns from them"):
        read_annotations(tmp_path)


def test_images_of_other_kinds_are_told(tmp_path):
    yolo_set(tmp_path, ["images/1.jpg"], ["labels/1.txt", "labels/2.txt"])
    (tmp_path / "images/2.svg").touch()
    data = read_annotations(tmp_path)
    assert kinds(data) == [("warning", "labels-without-images"), ("warning", "left-out-files")]
    (tmp_path / "images/1.jpg").unlink()
    with pytest.raises(AnnotationError, match=r"no images with the extensions .*1 \.svg file is left out"):
        read_annotations(tmp_path / "data.yaml" if write(tmp_path / "data.yaml", "train: images\nnames: [a]") else "")


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt", "labels/train/classes.txt"])
def test_where_names_are_found(tmp_path, place):
    yolo_set(tmp_path, ["images/train/1.jpg"], ["labels/train/1.txt"], names="")
    write(tmp_path / place, "rose\ndaisy\n")
    assert read_annotations(tmp_path).names == ("rose", "daisy")


def test_made_up_names_are_told(tmp_path):
    yolo_set(tmp_path, ["images/1.jpg"], ["labels/1.txt"], names="")
    data = read_annotations(tmp_path)
    assert data.names == ("0", "1") and kinds(data) == [("warning", "made-up-names")]
    write(tmp_path / "labels/1.txt", "2000000000 .5 .5 .1 .1\n")
    with pytest.raises(AnnotationError, match="class 2000000000 in a line, and no list of names"):
        read_annotations(tmp_path)


def test_several_yaml_files(tmp_path):
    yolo_set(tmp_path, ["images/train/1.jpg"], ["labels/train/1.txt"], names="")
    write(tmp_path / "flowers.yaml", "train: images/train\nnames: [rose, daisy]\n")
    write(tmp_path / "flowers_small.yaml", "train: images/train\nnames: [rose, daisy]\n")
    write(tmp_path / "other.yaml", "train: images/gone\nnames: [rose]\n")
    write(tmp_path / "environment.yml", "name: !!python/tuple [a, b]\n")
    assert read_annotations(tmp_path, "train").names == ("rose", "daisy")
    write(tmp_path / "flowers_small.yaml", "train: images/train\nnames: [rose, tulip]\n")
    with pytest.raises(AnnotationError, match=r"could be meant \(flowers\.yaml, flowers_small\.yaml\)"):
        read_annotations(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp949", "latin-1"])
def test_lists_of_windows(tmp_path, encoding):
    word = "데이터" if encoding == "cp949" else "blüte"
    yolo_set(tmp_path, ["images/1.jpg", f"images/{word}.jpg"], ["labels/1.txt", f"labels/{word}.txt"])
    lines = ["D:\\사진\\images\\1.jpg" if encoding == "cp949" else "D:\\Übung\\images\\1.jpg", f"images\\{word}.jpg"]
    (tmp_path / "train.txt").write_bytes("\r\n".join(lines).encode(encoding))
    data = read_annotations(tmp_path, "train")
    assert len(data.ids) == 2 and kinds(data) == []


def test_a_list_with_zero_bytes_is_refused_by_name_and_line(tmp_path):
    yolo_set(tmp_path, ["images/1.jpg"], ["labels/1.txt"])
    (tmp_path / "train.txt").write_bytes(b"images/1.jpg\nimages/\x002.jpg\n")
    with pytest.raises(AnnotationError, match=r"train\.txt: line 2: holds a zero byte"):
        read_annotations(tmp_path / "train.txt")


def test_an_image_without_labels_is_told_of_the_list_that_names_it(tmp_path):
    yolo_set(tmp_path, ["images/1.jpg"], ["labels/1.txt"])
    (tmp_path / "foreign").write_text("no image")
    (tmp_path / "train.txt").write_text("images/1.jpg\nforeign\n")
    data = read_annotations(tmp_path, "train")
    problem = next(problem for problem in validate(data) if problem.severity == "error")
    assert problem.file == str(tmp_path / "train.txt") and problem.image == str(tmp_path / "foreign")


def test_lists_of_names_without_folder_or_extension(tmp_path, monkeypatch):
    yolo_set(tmp_path, ["images/1.jpg", "images/2.png"], ["labels/1.txt", "labels/2.txt"])
    write(tmp_path / "train.txt", "1\n2\n")
    assert len(read_annotations(tmp_path, "train").ids) == 2
    write(tmp_path / "lists/train.txt", "images/1.jpg\n")
    monkeypatch.chdir(tmp_path)
    (path,) = read_annotations(tmp_path / "lists/train.txt").paths
    assert path == str(tmp_path / "images/1.jpg"), "darknet's lists are of the folder it was started in"


def read_lines_of(tmp_path, *lines, names="rose\ndaisy\n"):
    yolo_set(tmp_path, ["images/1.jpg"], ["labels/1.txt"], names)
    write(tmp_path / "labels/1.txt", "\n".join(lines))
    return read_annotations(tmp_path)


def test_classes_counted_from_one(tmp_path):
    lines = ["1 .5 .5 .2 .2", "2 .2 .2 .1 .1", "2 .8 .8 .1 .1"]
    data = read_lines_of(tmp_path, *lines)
    (problem,) = validate(data)
    assert (problem.kind, problem.severity, problem.repairable) == ("common-cause", "error", False)
    assert (
        "2 of 3 objects are of class 2" in problem.what
        and "counted from 1, where the list counts from 0?" in problem.what
    )
    with pytest.raises(AnnotationError, match="--repair cannot repair these"):
        raise_on_problems([problem])
    assert [p.kind for p in validate(read_lines_of(tmp_path, *lines, "0 .4 .4 .1 .1"))] == ["unknown-category"] * 2
    assert validate(read_lines_of(tmp_path, *lines, names="no\nrose\ndaisy\n")) == []


def test_corners_in_place_of_centre_and_size(tmp_path):
    corners = [(0.1, 0.1, 0.4, 0.5), (0.6, 0.5, 0.9, 0.9), (0.3, 0.7, 0.6, 1.0)]
    data = read_lines_of(tmp_path, *(f"0 {a} {b} {c} {d}" for a, b, c, d in corners))
    (problem,) = validate(data)
    assert (problem.kind, problem.severity, problem.repairable) == ("common-cause", "error", False)
    assert "nearly all fit if read as x1, y1, x2, y2" in problem.what
    centres = [((a + c) / 2, (b + d) / 2, c - a, d - b) for a, b, c, d in corners]
    data = read_lines_of(tmp_path, *(f"0 {a} {b} {c} {d}" for a, b, c, d in centres))
    assert validate(data) == []
    np.testing.assert_allclose(data.boxes, np.array(corners) * [64, 48, 64, 48], atol=1e-4)
    whole = ["0 .5 .5 1 1", "0 .48 .5 1 1", "0 .5 .49 .99 1"]
    assert {p.kind for p in validate(read_lines_of(tmp_path, *whole))} == {"box-over-border"}, "no corners"


def pose(points, numbers, seed=0):
    """A line of a box with key points in it."""
    rng = np.random.default_rng(seed)
    centre, side = rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.3, 2)
    values = [1, *centre, *side]
    for x, y in centre + side * rng.uniform(-0.45, 0.45, (points, 2)):
        values += [x, y, *rng.integers(0, 3, numbers - 2)]
    return " ".join(f"{value:g}" for value in values)


@pytest.mark.parametrize(("points", "numbers"), [(17, 3), (4, 3), (1, 3), (5, 2), (17, 2)])
def test_poses_without_kpt_shape(tmp_path, points, numbers):
    lines = [pose(points, numbers, seed) for seed in range(5)]
    (problem,) = read_lines_of(tmp_path, *lines).read_problems
    assert (problem.kind, problem.severity, problem.repairable) == ("key-points", "error", False)
    assert problem.remedy == f"add kpt_shape: [{points}, {numbers}] to data.yaml"
    write(tmp_path / "data.yaml", f"train: images\nnames: [rose, daisy]\nkpt_shape: [{points}, {numbers}]")
    data = read_annotations(tmp_path, "train")
    assert validate(data) == [] and len(data.ids) == 5 and data.segments is None
    write(tmp_path / "labels/1.txt", f"{lines[0]} 0.5\n{lines[1]}\n")
    (problem,) = validate(read_annotations(tmp_path, "train"))
    assert re.search(r"line 1: \d+ numbers; expected a class, 4 numbers \(box\) and \d+ of key points", problem.what)


def test_polygons_are_no_poses(tmp_path):
    """Rotated boxes are polygons of four points; so are polygons that all have as many points."""
    rotated = "0 .5 .3 .7 .5 .5 .7 .3 .5"
    data = read_lines_of(tmp_path, rotated, rotated.replace("0 ", "1 ", 1))
    assert validate(data) == [] and data.segments.polygons(0)[0].shape == (4, 2)
    assert data.boxes[0].tolist() == pytest.approx([0.3 * 64, 0.3 * 48, 0.7 * 64, 0.7 * 48])
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    for number in range(20):
        rng = np.random.default_rng(number)
        points = rng.uniform(0.3, 0.7, 2) + rng.uniform(0.02, 0.3) * np.column_stack([np.cos(angles), np.sin(angles)])
        line = f"0 {' '.join(f'{value:.5f}' for value in points.ravel())}"
        assert [p.kind for p in validate(read_lines_of(tmp_path, line)) if p.kind == "key-points"] == [], number


def test_images_cannot_be_kept_elsewhere(tmp_path):
    sample = make([[10, 5, 30, 35]], paths=[str(write_picture(tmp_path / "a.jpg"))])
    with pytest.raises(AnnotationError, match=r"images cannot be kept elsewhere; choose images=\"link\" or \"copy\""):
        write_yolo(sample, tmp_path / "yolo", images="keep")
    assert not (tmp_path / "yolo").exists()
    write_yolo(sample, tmp_path / "yolo")
    (tmp_path / "yolo/labels/train/a.txt").unlink()
    placed = make([[10, 5, 30, 35]], paths=[str(tmp_path / "yolo/images/train/a.jpg")])
    write_yolo(placed, tmp_path / "yolo", images="keep")
    assert read_annotations(tmp_path / "yolo", "train").boxes.round(4).tolist() == [[10, 5, 30, 35]]


@pytest.mark.parametrize("beside", ["other_yolo/train", "labels/train", "labels"])
def test_labels_of_another_set_beside_do_not_count(tmp_path, beside):
    write_picture(tmp_path / "flowers/train/1.jpg")
    write(tmp_path / beside / "1.txt", LINE)
    with pytest.raises(NotRecognisedError):
        read_annotations(tmp_path / "flowers")
    write(tmp_path / "flowers/train.csv", "filename,class,xmin,ymin,xmax,ymax\n1.jpg,rose,1,2,3,4\n")
    assert read_annotations(tmp_path / "flowers").boxes.tolist() == [[1, 2, 3, 4]]


def test_a_link_to_a_folder_above_adds_no_images(tmp_path):
    yolo_set(tmp_path, ["images/train/1.jpg", "images/val/2.jpg"], ["labels/train/1.txt", "labels/val/2.txt"])
    (tmp_path / "images/train/up").symlink_to(tmp_path)
    (tmp_path / "images/loop").symlink_to(".")
    data = read_dataset(tmp_path)
    assert [part.paths.tolist() for part in data.values()] == [
        [str(tmp_path / "images/train/1.jpg")],
        [str(tmp_path / "images/val/2.jpg")],
    ]


@pytest.mark.parametrize("val", ["valid", "Validation"])
def test_darknet_lists_in_other_spellings(tmp_path, val):
    """CVAT's YOLO 1.1 has valid.txt, or the list of a subset as its project calls it."""
    for seed, split in enumerate(("train", val)):
        write_picture(tmp_path / f"obj_{split}_data/{seed}.jpg", seed=seed)
        write(tmp_path / f"obj_{split}_data/{seed}.txt", LINE)
        write(tmp_path / f"{split}.txt", f"data/obj_{split}_data/{seed}.jpg\n")
    write(tmp_path / "obj.names", "rose\ndaisy\n")
    data = read_dataset(tmp_path)
    assert {split: (len(part), part.boxes.tolist()) for split, part in data.items()} == {
        "train": (1, BOX),
        "val": (1, BOX),
    }


def test_names_of_roboflows_darknet_export(tmp_path):
    for split in ("train", "valid"):
        yolo_set(tmp_path / split, ["1.jpg"], ["1.txt"], names="")
        write(tmp_path / split / "_darknet.labels", "rose\ndaisy\n")
    assert [part.names for part in read_dataset(tmp_path).values()] == [("rose", "daisy")] * 2


def test_a_label_file_of_two_images_is_an_error(tmp_path):
    """1.jpg and 1.png beside each other: whose objects they are cannot be told."""
    data = read_annotations(yolo_set(tmp_path, ["images/1.jpg", "images/1.png", "images/2.jpg"], ["labels/1.txt"]))
    (problem,) = [problem for problem in validate(data) if problem.severity == "error"]
    images = f"{tmp_path}/images/1.jpg and {tmp_path}/images/1.png"
    assert problem.what == f"{tmp_path}/labels/1.txt is the label file of several images: {images}"
    with pytest.raises(AnnotationError, match="of several images"):
        raise_on_problems(validate(data))


@pytest.mark.parametrize("places", [("labels/train", "labels/val"), ("train", "val")])
def test_lists_of_classes_that_differ_are_refused(tmp_path, places):
    """LabelImg writes classes.txt into each folder, in the order in which the classes came up."""
    if places[0] == "train":
        images, labels = ["train/1.jpg", "val/2.jpg"], ["train/1.txt", "val/2.txt"]
    else:
        images, labels = ["images/train/1.jpg", "images/val/2.jpg"], ["labels/train/1.txt", "labels/val/2.txt"]
    yolo_set(tmp_path, images, labels, names="")
    for place in places:
        write(tmp_path / place / "classes.txt", "rose\ndaisy\n")
    assert [part.names for part in read_dataset(tmp_path).values()] == [("rose", "daisy")] * 2
    write(tmp_path / places[1] / "classes.txt", "daisy\nrose\n")
    with pytest.raises(AnnotationError, match=r"rose, daisy.* daisy, rose; w"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("other", ["2.xml", "2.json"])
def test_images_that_were_annotated_in_another_form_are_no_negatives(tmp_path, other):
    """LabelImg was switched from YOLO to VOC halfway."""
    yolo_set(tmp_path, ["1.jpg", "2.jpg", "3.jpg"], ["1.txt"])
    (tmp_path / other).write_text("")
    (problem,) = validate(read_annotations(tmp_path))
    assert problem.severity == "error" and problem.what.endswith(
        f"a file of another form, the first is {tmp_path / other}"
    )


def test_where_the_images_of_cvats_export_belong(tmp_path):
    """Exported without images, its list says data/obj_train_data/, where nothing lies."""
    write(tmp_path / "obj_train_data/1.txt", LINE)
    write(tmp_path / "obj.names", "rose\ndaisy\n")
    write(tmp_path / "train.txt", "data/obj_train_data/1.jpg\n")
    image = tmp_path / "obj_train_data/1.jpg"
    assert [str(image) in str(problem) for problem in validate(read_annotations(tmp_path))][:1] == [True]
    write_picture(image)
    assert read_annotations(tmp_path).boxes.tolist() == BOX
