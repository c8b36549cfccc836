"""Tables of boxes: which column is what, splits, classes by number, images without objects, and what is told."""

import logging

import numpy as np
import pytest

from detseg.data import raise_on_problems, read_annotations, read_dataset, validate
from detseg.data.annotations import AnnotationError
from detseg.data.formats import read_labels, write_voc
from detseg.data.formats.box_table import columns_of
from tests.data.annotation_samples import by_image, make, write_picture

TF = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
A, B = [1.0, 2.0, 31.0, 42.0], [10.0, 5.0, 20.0, 25.0]
EXPECTED = {"a.png": [("daisy", False, B), ("rose", False, A)], "b.png": []}


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate("ab"):
        write_picture(tmp_path / f"images/{name}.png", 64, 48, seed)
    return tmp_path


def read(folder, text, name="boxes.csv", encoding="utf-8"):
    (folder / name).write_text(text, encoding=encoding)
    return read_annotations(folder / name)


TABLES = {
    "TensorFlow": f"{TF}a.png,64,48,rose,1,2,31,42\na.png,64,48,daisy,10,5,20,25\nb.png,64,48,,,,,\n",
    "RetinaNet": "data/a.png,1,2,31,42,rose\ndata/a.png,10,5,20,25,daisy\ndata/b.png,,,,,\n",
    "Kaggle text": 'image_id,width,height,bbox,label\na,64,48,"[1.0, 2, 30, 40]",rose\n'
    'a,64,48,"[10, 5, 10, 20]",daisy\nb,64,48,,\n',
    "x y w h": "image,x,y,w,h,label\na.png,1,2,30,40,rose\na.png,10,5,10,20,daisy\nb.png,nan,nan,nan,nan,\n",
    "x y width height": "image,x,y,width,height,label\na.png,1,2,30,40,rose\na.png,10,5,10,20,daisy\nb.png,,,,,\n",
    "makesense": "rose,1,2,30,40,a.png,64,48\ndaisy,10,5,10,20,a.png,64,48\n,,,,,b.png,64,48\n",
    "makesense headed": "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n"
    "rose,1,2,30,40,a.png,64,48\ndaisy,10,5,10,20,a.png,64,48\n,,,,,b.png,64,48\n",
    "GTSRB": "Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId;Path\n64;48;1;2;31;42;rose;images/a.png\n"
    "64;48;10;5;20;25;daisy;images/a.png\n64;48;;;;;;images/b.png\n",
    "middles": "image,x_center,y_center,width,height,label\na.png,16,22,30,40,rose\n"
    "a.png,15,15,10,20,daisy\nb.png,,,,,\n",
    "shares": "image,xmin,ymin,xmax,ymax,label\na.png,0.015625,0.0416666666666,0.484375,0.875,rose\n"
    "a.png,0.15625,0.104166666666,0.3125,0.520833333333,daisy\nb.png,,,,,\n",
    "semicolons, decimal commas": "image;xmin;ymin;xmax;ymax;label\na.png;1,0;2,0;31,0;42,0;rose\n"
    "a.png;10,0;5,0;20,0;25,0;daisy\nb.png;;;;;\n",
    "tabs, blank lines, other order": "label\tymax\txmax\tymin\txmin\tfile\n\nrose\t42\t31\t2\t1\ta.png\n\n"
    "daisy\t25\t20\t5\t10\ta.png\n\t\t\t\t\tb.png\n\t\t\t\t\t\n",
    "quoted, blanks": 'image, xmin, ymin, xmax, ymax, label\n"a.png", 1, 2, 31, 42, "rose"\n'
    " a.png , 10, 5, 20, 25, daisy\nb.png, , , , ,\n",
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_forms_of_tables(folder, name):
    data = read(folder, TABLES[name])
    assert by_image(data) == EXPECTED and data.names == ("daisy", "rose")
    raise_on_problems(validate(data))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_and_unicode(folder, encoding):
    write_picture(folder / "images/Gänse.png")
    data = read(folder, f"{TF}Gänse.png,64,48,Gänseblümchen,1,2,31,42\n", encoding=encoding)
    assert by_image(data) == {"Gänse.png": [("Gänseblümchen", False, A)]}


def test_what_was_taken_as_what_is_told(folder, caplog):
    caplog.set_level(logging.INFO)
    read(folder, TABLES["TensorFlow"])
    (record,) = caplog.records
    assert (
        record.levelno == logging.INFO
        and "the corners of the boxes from 'xmin', 'ymin', 'xmax', 'ymax'" in record.message
    )
    assert "classes from 'class'; sizes of images from 'width', 'height'" in record.message
    caplog.clear()
    data = read(folder, 'image_id,bbox\na,"[1, 2, 30, 40]"\n')
    (record,) = caplog.records
    assert (
        record.levelno == logging.WARNING and "left, top, width and height of the boxes from 'bbox'" in record.message
    )
    assert "one class, 'object'" in record.message and data.names == ("object",)
    caplog.clear()
    read(folder, TABLES["shares"])
    assert "in shares of the image" in caplog.text


def test_unclear_columns_are_an_error_that_lists_them(folder):
    with pytest.raises(AnnotationError, match=r"columns \(image, xmin, ymin, label\) is what. Head the columns"):
        read(folder, "image,xmin,ymin,label\na.png,1,2,rose\n")
    with pytest.raises(AnnotationError, match=r"columns \(xmin, ymin, xmax, ymax, label\)"):
        read(folder, "xmin,ymin,xmax,ymax,label\n1,2,3,4,rose\n")


def test_splits_by_files_folders_and_a_column(folder):
    rows = TABLES["TensorFlow"].splitlines(keepends=True)
    (folder / "train.csv").write_text("".join(rows[:2]))
    (folder / "val.csv").write_text("".join([rows[0], rows[2]]))
    data = read_dataset(folder)
    assert by_image(data["train"]) == {"a.png": EXPECTED["a.png"][1:]}
    assert data["val"].names == data["train"].names == ("daisy", "rose")
    for part in ("train", "val"):
        (folder / f"{part}.csv").unlink()
        write_picture(folder / f"robo/{part}/a.png")
        (folder / f"robo/{part}/_annotations.csv").write_text("".join(rows[:3]))
    assert {s: len(d.ids) for s, d in read_dataset(folder / "robo").items()} == {"train": 2, "val": 2}
    (folder / "all.csv").write_text(
        "image,x,y,w,h,label,split\na.png,1,2,30,40,rose,train\nb.png,1,2,3,4,daisy,Valid\n"
    )
    data = read_dataset(folder / "all.csv")
    assert by_image(data["train"]) == {"a.png": [("rose", False, A)]} and data["val"].names == ("daisy", "rose")
    (folder / "all.csv").write_text("image,x,y,w,h,label,split\na.png,1,2,30,40,rose,3\n")
    with pytest.raises(AnnotationError, match="the column 'split' holds '3', which is no split"):
        read_dataset(folder / "all.csv")


def test_two_tables_without_splits_are_not_joined(folder):
    for name in ("one", "two"):
        (folder / f"{name}.csv").write_text(TABLES["TensorFlow"])
    with pytest.raises(AnnotationError, match=r"several tables of boxes could be meant \(one.csv, two.csv\)"):
        read_annotations(folder)


@pytest.mark.parametrize("listing", ["rose,0\ndaisy,1\ntulip,2\n", "name,id\nrose,0\ndaisy,1\ntulip,2\n"])
def test_lists_of_classes(folder, listing):
    (folder / "classes.csv").write_text(listing)
    data = read(folder, TABLES["RetinaNet"])
    assert data.names == ("rose", "daisy", "tulip") and data.labels.tolist() == [0, 1]
    data = read(folder, TABLES["RetinaNet"].replace("rose", "0").replace("daisy", "1"))
    assert data.names == ("rose", "daisy", "tulip") and data.labels.tolist() == [0, 1]
    data = read(folder, TABLES["RetinaNet"].replace("rose", "lily"))
    assert [p.kind for p in validate(data)] == ["unknown-category"] and "'lily'" in data.read_problems[0].what


@pytest.mark.parametrize("row", ["tulip,1" + "0" * 4400, "tulip,0", "tulip,x", "tulip"])
def test_damaged_lists_of_classes_are_refused_by_line(folder, row):
    (folder / "classes.csv").write_text(f"rose,0\n\n{row}\ndaisy,1\n")
    with pytest.raises(AnnotationError, match=r"classes.csv: line 3: .* not 'tulip"):
        read(folder, TABLES["RetinaNet"])


def test_rows_that_are_no_objects_are_problems_with_their_lines(folder):
    rows = "a.png,64,48,rose,1,x,31,42\n\na.png,64,48,rose,1,,31,42\na.png,64,48,,1,2,31,42\na.png,1\n"
    rows += "b.png,64,48,rose,1,2,9,9\n"
    data = read(folder, TF + rows)
    problems = validate(data)
    assert {p.kind for p in problems} == {"malformed-object"} and len(data.ids) == 1
    assert [p.what for p in problems] == [
        "line 2: the box (1, x, 31, 42) is not four numbers",
        "line 4: the box (1, , 31, 42) is not four numbers",
        "line 5: there is no class",
        "line 6: 2 cells where the first row has 8",
    ]
    assert {p.image for p in problems} == {str(folder / "images/a.png")}
    with pytest.raises(AnnotationError, match="line 3: there is no name of an image"):
        read(folder, f"{TF}a.png,64,48,rose,1,2,31,42\n,64,48,rose,1,2,31,42\n")
    with pytest.raises(AnnotationError, match="has no rows"):
        read(folder, TF)
    with pytest.raises(AnnotationError, match="line 3: is not utf-8 text; save it as UTF-8"):
        read(folder, f"{TF}a.png,64,48,rose,1,2,31,42\na.png,64,48,Gänse,1,2,31,42\n", encoding="latin-1")


def test_more_rows_than_a_piece_and_images_that_come_again(folder):
    rows = [f"{'ab'[i % 2]}.png,64,48,rose,{i % 60},2,{i % 60 + 1},42\n" for i in range(2000)]
    data = read(folder, TF + "".join(rows))
    assert len(data) == 2 and len(data.ids) == 2000
    assert data.boxes[:, 0].tolist() == [i % 60 for i in (*range(0, 2000, 2), *range(1, 2000, 2))]
    assert np.array_equal(data.image_index, np.repeat([0, 1], 1000))


def test_boxes_are_not_taken_for_one_class_an_image_nor_the_other_way(folder):
    (folder / "boxes.csv").write_text(TABLES["TensorFlow"])
    with pytest.raises(AnnotationError, match=r"is a table of boxes.*detseg crops --data"):
        read_labels(folder / "boxes.csv")
    (folder / "boxes.csv").rename(folder / "train.csv")
    with pytest.raises(AnnotationError, match=r"holds images with boxes.*detseg crops"):
        read_labels(folder)
    table = folder / "labels.csv"
    for text in (
        "path,label\nimages/a.png,rose\nimages/b.png,daisy\n",
        "a.png,rose\nb.png,daisy\n",
        "filename,width,height,class\na.png,64,48,rose\n",
    ):
        table.write_text(text)
        assert columns_of(table) is None
        with pytest.raises(AnnotationError, match="no annotations recognised"):
            read_annotations(table)
    assert read_labels(table).names == ("rose",)


def test_ignored_objects(folder):
    data = read(folder, "image,xmin,ymin,xmax,ymax,label,difficult\na.png,1,2,31,42,rose,1\na.png,10,5,20,25,daisy,0\n")
    assert data.iscrowd.tolist() == [True, False]


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("cell_type", ("7", "x")),  # BCCD
        ("objectClass", ("7", "x")),
        ("Vehicle Category", ("7", "x")),
        ("file_type", ("object",)),
        ("shapeType", ("object",)),
        ("source", ("object",)),
    ],
)
def test_headings_of_classes(folder, caplog, heading, names):
    rows = "a.png,x,1,2,31,42\na.png,7,10,5,20,25\n"
    assert read(folder, f"filename,{heading},xmin,ymin,xmax,ymax\n{rows}").names == names
    told = f"not read are {heading!r} (if one holds classes, head it 'class')"
    assert (told in caplog.text) == (names == ("object",))


def test_a_table_of_test_images_does_not_hide_the_set_below(tmp_path):
    """BCCD has test.csv beside the folder of its VOC files."""
    data = make([[10, 5, 30, 35]], paths=[str(write_picture(tmp_path / "from/a.jpg"))])
    for split in ("train", "val"):
        write_voc(data, tmp_path / "bccd/BCCD", split, images="copy")
    (tmp_path / "bccd/test.csv").write_text("filename,cell_type,xmin,ymin,xmax,ymax\na.jpg,rose,1,2,3,4\n")
    assert [part.boxes.tolist() for part in read_dataset(tmp_path / "bccd").values()] == [[[10, 5, 30, 35]]] * 2
    assert read_annotations(tmp_path / "bccd/test.csv").boxes.tolist() == [[1, 2, 3, 4]]
