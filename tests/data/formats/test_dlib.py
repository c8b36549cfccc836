"""The XML of dlib's imglab: ignored boxes, boxes without label, parts, and its declaration of the encoding."""

import pytest

from detseg.data import raise_on_problems, read_annotations, validate
from detseg.data.annotations import AnnotationError
from tests.data.annotation_samples import by_image, write_picture

HEAD = """<?xml version='1.0' encoding='ISO-8859-1'?>
<?xml-stylesheet type='text/xsl' href='image_metadata_stylesheet.xsl'?>
"""


def document(images):
    return f"{HEAD}<dataset>\n<name>imglab dataset</name>\n<comment>Created by imglab tool.</comment>\n<images>\n{images}</images>\n</dataset>"  # noqa: E501


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(("a.png", "Gänse.png")):
        write_picture(tmp_path / "photos" / name, seed=seed)
    return tmp_path


def test_boxes(folder, caplog):
    boxes = (
        "<box top='2' left='1' width='30' height='40' angle='0.5'><label>rose</label><part name='1' x='3' y='4'/></box>"
    )
    boxes += "<box top='0' left='0' width='5' height='6' ignore='1'/>"
    images = f"<image file='photos/a.png'>\n{boxes}</image>\n"
    images += "<image file='photos/Gänse.png' width='64' height='48'>\n</image>\n"
    (folder / "flowers.xml").write_text(document(images), encoding="utf-8")  # as dlib does, whatever it declares
    data = read_annotations(folder)
    assert by_image(data) == {
        "a.png": [("object", True, [0, 0, 5, 6]), ("rose", False, [1, 2, 31, 42])],
        "Gänse.png": [],
    }
    raise_on_problems(validate(data))
    assert "1 parts (landmarks) of boxes are left out" in caplog.text
    assert "1 boxes have no label and count as 'object'" in caplog.text
    (folder / "flowers.xml").write_text(document(images), encoding="latin-1")  # and as it declares
    assert by_image(read_annotations(folder)) == by_image(data)


def test_training_and_testing_are_splits(folder):
    for split, label in (("training_with_face_landmarks", "rose"), ("testing_with_face_landmarks", "daisy")):
        box = f"<box top='2' left='1' width='30' height='40'><label>{label}</label></box>"
        (folder / f"{split}.xml").write_text(document(f"<image file='photos/a.png'>{box}</image>"))
    assert read_annotations(folder, "test").names == ("daisy", "rose")


def test_sizes_that_no_image_has_are_measured(folder):
    image = "<image file='photos/a.png' width='4294967296' height='48'>\n</image>"
    (folder / "flowers.xml").write_text(document(image))
    assert read_annotations(folder).sizes.tolist() == [[64, 48]]


def test_damaged_files(folder):
    file = folder / "train.xml"
    file.write_text(
        document("<image file='photos/a.png'>\n<box top='2' left='1' width='x' height='40'/>\n<box top='1'/></image>")
    )
    data = read_annotations(folder, "train")
    assert [p.what[:6] for p in validate(data) if p.severity == "error"] == ["line 8", "line 9"] and len(data.ids) == 0
    file.write_text(document("<image>\n</image>"))
    with pytest.raises(AnnotationError, match=r"train.xml: line 7: <image> has no file"):
        read_annotations(folder, "train")
    file.write_text(document("<image file='a.png'>\n<box></image>"))
    with pytest.raises(AnnotationError, match=r"train.xml: not well-formed XML: mismatched tag: line 8"):
        read_annotations(folder, "train")
