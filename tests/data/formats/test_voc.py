import logging
import shutil

import pytest

from detseg.data.annotations import AnnotationError, Category
from detseg.data.checks.validate import validate
from detseg.data.formats import find_sources, read_annotations, read_coco, read_dataset, read_voc, write_voc
from detseg.data.formats import voc as voc_format
from tests.data.annotation_samples import by_image, make, write_coco_dataset, write_picture

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
<part><name>petal</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""
SIZE = "<size><width>64</width><height>48</height><depth>3</depth></size>"


def one(name, *corners, difficult=0):
    return OBJECT.format(*corners, name=name, difficult=difficult)


def write_xml(path, *objects, filename=None, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f"{path.stem}.jpg" if filename is None else filename
    path.write_text(f"<annotation><filename>{name}</filename>{size}{''.join(objects)}</annotation>")
    return path


@pytest.fixture
def voc(tmp_path):
    """Three images in two splits; 'c' has no objects."""
    write_xml(tmp_path / "Annotations/a.xml", one("rose", 1, 1, 64, 48), one("daisy", 10, 20, 30, 40, difficult=1))
    write_xml(tmp_path / "Annotations/b.xml", one(" tulip ", 2.5, 3.5, 10.25, 20))
    write_xml(tmp_path / "Annotations/c.xml")
    for seed, name in enumerate("abc"):
        write_picture(tmp_path / f"JPEGImages/{name}.jpg", seed=seed)
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nc\n")
    (lists / "val.txt").write_text("b\n")
    (lists / "rose_train.txt").write_text("a  1\nc -1\n")
    return tmp_path


def test_corners_count_from_one_and_include_the_last_pixel(voc):
    train = read_voc(voc, "train")
    assert train.boxes.tolist() == [[0, 0, 64, 48], [9, 19, 30, 40]]
    assert train.iscrowd.tolist() == [False, True]
    assert train.sizes.tolist() == [[64, 48]] * 2
    assert [train.objects(i) for i in range(2)] == [slice(0, 2), slice(2, 2)]


def test_categories_are_the_same_in_every_split(voc):
    data = read_dataset(voc)
    expected = (Category(1, "daisy"), Category(2, "rose"), Category(3, "tulip"))
    assert data["train"].categories == data["val"].categories == expected
    assert data["train"].labels.tolist() == [1, 0]
    assert data["val"].labels.tolist() == [2]
    assert [p.split("/")[-1] for p in data["train"].paths.tolist()] == ["a.jpg", "c.jpg"]
    assert validate(data["train"]) == []


@pytest.mark.parametrize("name", ["labels.txt", "classes.txt"])
def test_a_class_file_sets_the_order(voc, name):
    (voc / name).write_text("tulip\nrose\n\ndaisy\n")
    assert read_voc(voc, "train").labels.tolist() == [1, 2]
    (voc / name).write_text("tulip\nrose\n")
    train = read_voc(voc, "train")
    assert train.labels.tolist() == [1, -1]
    (problem,) = train.read_problems
    assert (problem.kind, problem.object) == ("unknown-category", 2)
    assert problem.file.endswith("a.xml") and "'daisy'" in problem.what
    assert [p.kind for p in validate(train, check_images=False)] == ["unknown-category"], "told once"
    (voc / name).write_text("rose\nrose\n")
    with pytest.raises(AnnotationError, match="given twice: rose"):
        read_voc(voc, "train")


def test_splits_by_list_file_or_argument(voc):
    assert len(read_annotations(voc / "ImageSets/Main/val.txt")) == 1
    assert len(read_annotations(voc, "train")) == 2
    with pytest.raises(AnnotationError, match="train, val; choose one"):
        read_annotations(voc)
    with pytest.raises(AnnotationError, match=r"no split 'test'; found: train, val"):
        read_annotations(voc, "test")
    (voc / "ImageSets/Main/val.txt").write_text("b\nmissing\n")
    with pytest.raises(AnnotationError, match=r"1 listed images have no XML file.*'missing'"):
        read_annotations(voc, "val")


def test_what_tools_write_for_difficult(voc):
    for text, expected in (
        ("1", True),
        ("true", True),
        ("yes", True),
        ("0", False),
        ("", False),
        ("Unspecified", False),
    ):
        write_xml(voc / "Annotations/b.xml", one("tulip", 1, 1, 5, 5, difficult=text))
        assert read_voc(voc, "val").iscrowd.tolist() == [expected], text


def test_lists_made_per_class(voc):
    (voc / "ImageSets/Main/train.txt").write_text("a  1\nc -1\n")
    assert len(read_voc(voc, "train")) == 2


def test_folder_without_lists_and_single_files(voc):
    shutil.rmtree(voc / "ImageSets")
    assert len(read_annotations(voc)) == 3
    assert len(read_annotations(voc / "Annotations")) == 3
    assert len(read_annotations(voc / "Annotations" / "a.xml").ids) == 2


def test_xml_beside_the_images_under_any_name(tmp_path):
    write_picture(tmp_path / "a.PNG")
    write_picture(tmp_path / "other.jpg")
    write_xml(tmp_path / "a.xml", one("rose", 1, 1, 5, 5), filename="renamed.jpg", size="")
    write_xml(tmp_path / "b.xml", filename="C:\\photos\\other.jpg")
    annotations = read_annotations(tmp_path)
    assert annotations.paths.tolist() == [str(tmp_path / "a.PNG"), str(tmp_path / "other.jpg")]
    assert annotations.sizes.tolist() == [[64, 48], [64, 48]]


def test_an_image_is_found_by_the_name_of_its_xml_where_filename_is_of_another(voc):
    write_xml(voc / "Annotations/b.xml", one("tulip", 1, 1, 5, 5), filename="a.jpg")
    data = read_annotations(voc, "val")
    assert data.paths.tolist() == [str(voc / "JPEGImages/b.jpg")] and validate(data) == []


def test_images_and_xml_in_subfolders_with_equal_names(voc):
    shutil.rmtree(voc / "ImageSets")
    write_picture(voc / "JPEGImages/cam2/a.jpg", width=32)
    size = SIZE.replace("64", "32")
    for xml, filename in (("cam2/a.xml", "a.jpg"), ("second.xml", "cam2/a.jpg")):
        file = write_xml(voc / "Annotations" / xml, one("daisy", 1, 1, 5, 5), filename=filename, size=size)
        data = read_annotations(voc)
        places = [path.removeprefix(f"{voc}/JPEGImages/") for path in data.paths.tolist()]
        assert sorted(places) == ["a.jpg", "b.jpg", "c.jpg", "cam2/a.jpg"] and validate(data) == []
        file.unlink()


def test_lists_with_capital_letters(voc, tmp_path):
    for name in ("train", "val"):
        (voc / f"ImageSets/Main/{name}.txt").rename(voc / f"ImageSets/Main/{name.title()}.txt")
    data = read_dataset(voc)
    assert {split: len(part) for split, part in data.items()} == {"train": 2, "val": 1}
    write_voc(data["val"], voc, "test")  # no name of the other splits is used again
    assert (voc / "ImageSets/Main/test.txt").read_text() != "b\n"


def test_images_argument(voc):
    elsewhere = (voc / "JPEGImages").rename(voc.with_name("elsewhere"))
    assert validate(read_voc(voc, "val", images=elsewhere)) == []
    missing = validate(read_voc(voc, "val"))
    assert [p.kind for p in missing] == ["missing-image"]


def test_unreadable_files_name_the_place(voc):
    file = voc / "Annotations/a.xml"
    file.write_text("<annotation>\n<object>\n</annotation>")
    with pytest.raises(AnnotationError, match=r"a\.xml: line 3"):
        read_voc(voc, "train")
    file.write_text("<html/>")
    with pytest.raises(AnnotationError, match="no VOC annotation"):
        read_voc(voc, "train")
    write_xml(file, size="<size><width>wide</width></size>")
    with pytest.raises(AnnotationError, match=r"a\.xml: <size> holds"):
        read_voc(voc, "train")
    file.write_text('<!DOCTYPE a [<!ENTITY e "boom">]><annotation>&e;</annotation>')
    with pytest.raises(AnnotationError, match=r"a\.xml: cannot be read"):
        read_voc(voc, "train")


def test_an_object_without_box_is_named_and_left_out(voc):
    write_xml(voc / "Annotations/a.xml", "<object><name>rose</name></object>", one("daisy", 1, 2, 3, 4))
    train = read_voc(voc, "train")
    assert train.boxes.tolist() == [[0, 1, 3, 4]]
    (problem,) = train.read_problems
    assert problem.kind == "malformed-object" and "<object> 1 (rose)" in problem.what


def test_written_folder_reads_back_the_same(tmp_path):
    first = read_coco(write_coco_dataset(tmp_path / "coco"))
    write_voc(first, tmp_path / "voc", "train")
    write_voc(first.subset([1]), tmp_path / "voc", "val", images="copy")
    data = read_dataset(tmp_path / "voc")
    assert data["train"].names == first.names, "the order of the categories is kept"
    assert by_image(data["train"]) == by_image(first)
    assert validate(data["train"]) == []
    assert (tmp_path / "voc/JPEGImages/b.jpg").is_symlink()
    (val,) = data["val"].paths.tolist()
    assert val.endswith("a_0.jpg"), "a name of the other split is not overwritten"
    assert len(data["val"].ids) == 2


def test_names_with_markup_and_images_of_the_same_name(tmp_path):
    paths = [write_picture(tmp_path / d / "a.jpg", seed=i) for i, d in enumerate("xy")]
    annotations = make(
        [[0, 0, 5, 5], [1, 1, 6, 6]],
        image_index=[0, 1],
        sizes=[(64, 48)] * 2,
        paths=[str(p) for p in paths],
        categories=(Category(4, "<rose> & 'co'"),),
    )
    write_voc(annotations, tmp_path / "voc")
    again = read_annotations(tmp_path / "voc", "train")
    assert again.names == ("<rose> & 'co'",)
    assert again.boxes.tolist() == annotations.boxes.tolist()
    assert len(set(again.paths.tolist())) == 2


def test_what_voc_cannot_hold_is_told(tmp_path, caplog):
    first = read_coco(write_coco_dataset(tmp_path / "coco"))
    with caplog.at_level(logging.WARNING):
        write_voc(first, tmp_path / "voc")
    assert "polygons" not in caplog.text
    assert "VOC has no run-length masks, 1 objects keep only their boxes" in caplog.text
    same = make([[0, 0, 1, 1]], categories=(Category(1, "rose"), Category(2, "rose")))
    with pytest.raises(AnnotationError, match="names must differ"):
        write_voc(same, tmp_path / "other", images="keep")
    with pytest.raises(AnnotationError, match="already holds other categories"):
        tulips = make([[0, 0, 1, 1]], categories=(Category(1, "tulip"),))
        write_voc(tulips, tmp_path / "voc", "val", images="keep")
    with pytest.raises(ValueError, match="the image does not exist"):
        write_voc(make([[0, 0, 1, 1]]), tmp_path / "other")


# ------------------------------------------------------------------ layouts

A, B = one("rose", 1, 2, 30, 40), one("daisy", 5, 6, 7, 8)


def tree(root, *files):
    """XML files and images at these places: train/a.xml, images/a.jpg."""
    for seed, name in enumerate(files):
        path = root / name
        if path.suffix.lower() == ".xml":
            write_xml(path, A if path.stem == "a" else B)
        else:
            write_picture(path, seed=seed)
    return root


@pytest.mark.parametrize(
    ("xml", "images"),
    [
        ("annotations", "images"),
        ("Annotations", "Images"),
        ("annots", "images"),
        ("ANNOTATIONS", "img"),
        ("xmls", "JPEGImages"),
        ("xml", "imgs"),
        ("labels", "images"),
        ("boxes by Anna", "images"),
        ("", ""),
        ("", "images"),
    ],
)
def test_folders_by_their_usual_names(tmp_path, xml, images):
    tree(tmp_path / xml, "a.xml", "b.XML")
    tree(tmp_path / images, "a.jpg", "b.JPG")
    for place in (tmp_path, tmp_path / xml):
        data = read_annotations(place)
        assert [path.rpartition("/")[2] for path in data.paths.tolist()] == ["a.jpg", "b.JPG"]
        assert data.boxes.tolist() == [[0, 1, 30, 40], [4, 5, 7, 8]] and data.names == ("daisy", "rose")
        assert validate(data) == []


def test_the_folder_one_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tree(tmp_path, "annots/a.xml", "images/a.jpg") / "annots")
    assert validate(read_annotations(".")) == []


@pytest.mark.parametrize(
    ("train", "val", "images"),
    [
        ("train", "valid", ("train", "valid")),
        ("train/Annotations", "val/Annotations", ("train/JPEGImages", "val/JPEGImages")),
        ("train/annotations", "test/annotations", ("images/train", "images/test")),
        ("annotations/train", "annotations/valid", ("images/train", "images/valid")),
        ("Annotations/Train", "Annotations/Validation", ("images", "images")),
        ("labels/train", "labels/val", ("images/train", "images/val")),
        ("annots_train", "annots_val", ("images", "images")),
    ],
)
def test_splits_from_folders(tmp_path, train, val, images):
    tree(tmp_path, f"{train}/a.xml", f"{val}/b.xml", f"{images[0]}/a.jpg", f"{images[1]}/b.jpg")
    found = find_sources(tmp_path)
    other = "test" if "test" in val else "val"
    assert set(found) == {"train", other}
    data = {split: read() for split, read in found.items()}
    assert {split: part.boxes.tolist() for split, part in data.items()} == {
        "train": [[0, 1, 30, 40]],
        other: [[4, 5, 7, 8]],
    }
    assert data["train"].names == data[other].names == ("daisy", "rose"), "the names of both"
    for part in data.values():
        assert validate(part) == []


def test_labels_for_yolo_beside_xml_stay_yolo(tmp_path):
    tree(tmp_path, "labels/a.xml", "images/a.jpg")
    assert voc_format.FORMAT.find(tmp_path, None)
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert voc_format.FORMAT.find(tmp_path, None) is None


def test_files_of_no_split_are_counted(tmp_path, caplog):
    tree(tmp_path, "train/a.xml", "valid/b.xml", "c.xml", "train/a.jpg", "valid/b.jpg", "c.jpg")
    assert set(read_dataset(tmp_path)) == {"train", "val"}
    assert f"1 XML files are in no split and left out, the first is {tmp_path}/c.xml" in caplog.text


def test_a_folder_of_test_files_beside_the_others(tmp_path):
    tree(tmp_path, "a.xml", "b.xml", "a.jpg", "b.jpg", "test/a.xml", "test/a.jpg")
    assert len(read_annotations(tmp_path)) == 2, "as without it"


def test_links_in_a_circle(tmp_path):
    tree(tmp_path, "train/a.xml", "train/a.jpg", "val/b.xml", "val/b.jpg")
    for name in ("train", "val"):
        (tmp_path / name / "train").symlink_to(tmp_path)
        (tmp_path / name / "val").symlink_to(tmp_path)
    assert {split: len(part) for split, part in read_dataset(tmp_path).items()} == {"train": 1, "val": 1}


def test_an_image_named_train_makes_no_split(tmp_path):
    tree(tmp_path, "annotations/a.xml", "annotations/train.xml", "images/a.jpg", "images/train.jpg")
    assert len(read_annotations(tmp_path)) == 2


def test_lists_beside_any_folder_of_xml(tmp_path):
    tree(tmp_path, "annotations/x/a.xml", "annotations/b.xml", "annotations/c.xml", *(f"images/{n}.jpg" for n in "abc"))
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/train.txt").write_text("a.jpg\nannotations/b.xml\n")
    (tmp_path / "ImageSets/valid.txt").write_text("c 1\n")
    data = read_dataset(tmp_path)
    assert [path[-5:] for part in data.values() for path in part.paths.tolist()] == ["a.jpg", "b.jpg", "c.jpg"]
    assert len(read_annotations(tmp_path / "ImageSets/valid.txt")) == 1


def test_trainval_lists_both_again(voc):
    (voc / "ImageSets/Main/trainval.txt").write_text("a\nb\nc\n")
    data = {split: read() for split, read in find_sources(voc).items()}
    assert {split: len(part.ids) for split, part in data.items()} == {"train": 2, "trainval": 3, "val": 1}
    assert len({part.names for part in data.values()}) == 1


def test_two_cameras_with_one_image_between_them(tmp_path):
    """Whose image it is nobody knows, so both are reported and no one gets the boxes of both."""
    tree(tmp_path, "Annotations/cam1/a.xml", "Annotations/cam2/a.xml", "JPEGImages/a.jpg")
    data = read_annotations(tmp_path)
    assert [p.kind for p in validate(data)] == ["missing-image"] * 2
    assert data.paths.tolist() == [str(tmp_path / f"JPEGImages/{cam}/a.jpg") for cam in ("cam1", "cam2")]


@pytest.mark.parametrize(
    ("filename", "found"),
    [
        ("b.jpg", "b.jpg"),
        ("b", "b.jpg"),
        ("C:\\x\\b.jpg", "b.jpg"),
        ("", "a.png"),
        ("gone.jpg", "a.png"),
        ("b.PNG", "a.png"),
    ],
)
def test_the_image_by_name_of_the_file_or_by_filename(tmp_path, filename, found):
    tree(tmp_path, "images/b.jpg", *(["images/a.png"] if found == "a.png" else []))
    write_xml(tmp_path / "annots/a.xml", A, filename=filename)
    assert read_annotations(tmp_path).paths.tolist() == [str(tmp_path / "images" / found)]


def test_an_image_belongs_to_the_file_of_its_name_before_others_that_name_it(tmp_path):
    """b.xml was a copy of a.xml, and its own image is gone: its boxes are not for a.jpg."""
    tree(tmp_path, "annots/a.xml", "images/a.jpg")
    write_xml(tmp_path / "annots/b.xml", B, filename="a.jpg")
    data = read_annotations(tmp_path)
    assert data.paths.tolist() == [str(tmp_path / f"images/{name}.jpg") for name in "ab"]
    assert [p.kind for p in validate(data)] == ["missing-image"]


def test_lists_of_masks_are_no_lists_of_boxes(voc):
    (voc / "ImageSets/Segmentation").mkdir()
    (voc / "ImageSets/Segmentation/train.txt").write_text("a\n")
    assert voc_format.FORMAT.find(voc / "ImageSets/Segmentation/train.txt", None) is None


def test_the_folder_that_the_file_names(tmp_path):
    write_picture(tmp_path / "roses of May/a.jpg")
    file = write_xml(tmp_path / "annots/a.xml", A)
    file.write_text(file.read_text().replace("<filename>", "<folder>roses of May</folder><filename>"))
    assert validate(read_annotations(tmp_path)) == []


def test_an_image_that_is_not_there_is_expected_among_the_images(tmp_path):
    tree(tmp_path, "annotations/a.xml", "annotations/b.xml", "images/b.jpg")
    (problem,) = validate(read_annotations(tmp_path))
    assert problem.kind == "missing-image" and problem.image == str(tmp_path / "images/a.jpg")


def test_images_without_xml_are_counted(tmp_path, caplog):
    tree(tmp_path, "train/a.xml", "valid/b.xml", "images/a.jpg", "images/b.jpg", "images/c.jpg", "images/._a.jpg")
    read_dataset(tmp_path)
    assert f"1 images have no XML file and are left out, the first is {tmp_path}/images/c.jpg" in caplog.text
    caplog.clear()
    read_annotations(tmp_path / "train/a.xml")
    assert not caplog.text, "one file was asked for"


# ------------------------------------------------------------------ foreign files


def test_hidden_and_foreign_files_are_passed_over(voc, caplog):
    shutil.rmtree(voc / "ImageSets")
    (voc / "Annotations/._a.xml").write_bytes(b"\0\x05\x16\x07Mac OS X")
    (voc / "Annotations/.DS_Store").write_bytes(b"\0")
    (voc / "Annotations/annotations.xml").write_text("<annotations><version>1.1</version></annotations>")
    (voc / "Annotations/pom.xml").write_text("<?xml version='1.0'?><!-- Maven --><project/>")
    data = read_annotations(voc)
    assert len(data) == 3 and validate(data) == []
    assert f"2 XML files are no VOC annotations and passed over, the first is {voc}/Annotations/ann" in caplog.text


def test_xml_of_others_is_not_claimed(tmp_path):
    (tmp_path / "pom.xml").write_text("<project/>")
    (tmp_path / "annotations.xml").write_text("<annotations><image name='a.jpg'/></annotations>")
    write_picture(tmp_path / "images/a.jpg")
    for place in (tmp_path, tmp_path / "annotations.xml"):
        assert not voc_format.FORMAT.find(place, None) and not voc_format.FORMAT.guess(place, None)
        with pytest.raises(AnnotationError, match="no VOC annotation here"):
            read_voc(place)


def test_damaged_files_are_counted(voc):
    for name in "ab":
        (voc / f"Annotations/{name}.xml").write_text("<annotation><object></annotation>")
    with pytest.raises(AnnotationError, match=r"a\.xml: line 1.*\(1 more files cannot be read\)"):
        read_voc(voc)


@pytest.mark.parametrize("line", ["{}", "images/{}.jpg Annotations/{}.xml", "./images/{}.jpg"])
def test_lists_in_the_folder_itself(tmp_path, line):
    """PaddleDetection keeps train.txt and val.txt beside the folders, with an image and its file a line."""
    for seed, name in enumerate("abc"):
        write_picture(tmp_path / f"images/{name}.jpg", seed=seed)
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / f"Annotations/{name}.xml").write_text("<annotation><filename>x</filename></annotation>")
    for split, names in (("train", "ab"), ("val", "c")):
        (tmp_path / f"{split}.txt").write_text("".join(line.format(name, name) + "\n" for name in names))
    data = read_dataset(tmp_path)
    assert {split: [path[-5:] for path in part.paths.tolist()] for split, part in data.items()} == {
        "train": ["a.jpg", "b.jpg"],
        "val": ["c.jpg"],
    }
    (tmp_path / "train.txt").write_text("notes on training\n")
    (tmp_path / "val.txt").unlink()
    assert len(read_annotations(tmp_path)) == 3
