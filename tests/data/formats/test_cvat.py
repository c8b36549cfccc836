"""CVAT's XML for images: every shape, its run lengths, subsets, the order of classes, and what is left out."""

import numpy as np
import pytest
from pycocotools import mask as coco

from detseg.data import raise_on_problems, read_annotations, read_dataset, validate
from detseg.data.annotations import AnnotationError
from detseg.data.formats import find_sources
from detseg.data.formats.cvat import read_mask
from tests.data.annotation_samples import by_image, write_picture

LABELS = """<label><name>rose</name><color>#f00</color><type>any</type><attributes><attribute><name>petals</name>
<input_type>select</input_type></attribute></attributes></label>
<label><name>Gänse &amp; Co</name><type>rectangle</type><attributes></attributes></label>
<label><name>good</name><type>tag</type></label><label><name>pose</name><type>skeleton</type></label>
<label><name>1</name><type>points</type><parent>pose</parent></label>"""
META = f"<meta><task><id>4</id><name>flowers</name><labels>{LABELS}</labels></task><dumped>2024</dumped></meta>"


def document(images, meta=META):
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n{meta}\n{images}</annotations>'
    )


def image(shapes, name="a.png", more=""):
    return f'<image id="0" name="{name}" {more} width="64" height="48">\n{shapes}</image>\n'


def box(label="rose", more="", corners=(1, 2, 31.5, 42)):
    sides = " ".join(f'{key}="{value}"' for key, value in zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True))
    return f'<box label="{label}" occluded="0" source="manual" {sides} z_order="0" {more}>\n</box>\n'


def read(folder, text, name="annotations.xml"):
    (folder / name).write_text(text, encoding="utf-8")
    return read_annotations(folder)


@pytest.fixture
def folder(tmp_path):
    write_picture(tmp_path / "images/a.png")
    return tmp_path


def test_boxes_and_the_order_of_classes(folder):
    write_picture(folder / "images/cam 1/b.png", seed=1)
    shapes = box() + box("Gänse &amp; Co", corners=(0, 0, 5, 6))
    data = read(folder, document(image(shapes) + image("", "cam 1/b.png")))
    assert data.names == ("rose", "Gänse & Co")  # as in <meta>, without tags and skeletons
    assert by_image(data) == {
        "a.png": [("Gänse & Co", False, [0, 0, 5, 6]), ("rose", False, [1, 2, 31.5, 42])],
        "b.png": [],
    }
    raise_on_problems(validate(data))


def test_turned_boxes_polygons_and_ellipses(folder):
    shapes = box(more='rotation="90.00"', corners=(10, 10, 30, 20))
    shapes += '<polygon label="rose" points="1.5,2;30,2.25;30,40"></polygon>\n'
    shapes += '<ellipse label="rose" cx="30" cy="20" rx="20" ry="10" rotation="90"></ellipse>\n'
    data = read(folder, document(image(shapes)))
    np.testing.assert_allclose(data.segments.polygons(0)[0], [[25, 5], [25, 25], [15, 25], [15, 5]], atol=1e-9)
    np.testing.assert_allclose(data.boxes, [[15, 5, 25, 25], [1.5, 2, 30, 40], [20, 0, 40, 40]], atol=1e-9)
    assert data.segments.polygons(1)[0].tolist() == [[1.5, 2], [30, 2.25], [30, 40]]
    area = coco.area(data.segments.rle(2, 48, 64))
    assert area == pytest.approx(np.pi * 200, rel=0.03)
    raise_on_problems(validate(data))


def test_polygons_of_a_group_are_one_object(folder):
    triangle = '<polygon label="{}" points="{}" group_id="{}"></polygon>\n'
    shapes = "".join(
        triangle.format(label, points, group)
        for label, points, group in (
            ("rose", "0,0;5,0;5,5", 3), ("rose", "9,9;15,9;15,15", 3), ("Gänse &amp; Co", "1,1;2,1;2,2", 3),
            ("rose", "1,1;2,1;2,2", 0), ("rose", "1,1;2,1;2,3", 0),
        )
    )  # fmt: skip
    data = read(folder, document(image(shapes)))
    assert [len(data.segments.polygons(row)) for row in range(4)] == [2, 1, 1, 1]
    assert data.boxes[0].tolist() == [0, 0, 15, 15]


@pytest.mark.parametrize(("left", "top"), [(3, 5), (0, 0), (58, 44), (-2, -3)])
def test_masks(left, top):
    """Rows of a window against columns of the image; what sticks out is cut."""
    rng = np.random.default_rng(0)
    window = rng.integers(0, 2, (7, 9))
    bounds = np.flatnonzero(np.diff(np.concatenate([[0], window.ravel(), [2]])))
    runs = ", ".join(map(str, np.diff(np.concatenate([[0], bounds]))))
    expected = np.zeros((60, 80), np.uint8)
    expected[6 + top : 13 + top, 8 + left : 17 + left] = window
    expected = expected[6:54, 8:72]
    counts = read_mask(runs, left, top, 9, 7, (64, 48)).counts
    decoded = coco.decode(coco.frPyObjects({"size": [48, 64], "counts": counts}, 48, 64))
    np.testing.assert_array_equal(decoded, expected)


def test_the_mask_of_the_documentation(folder):
    runs = "3, 5, 7, 7, 5, 9, 3, 11, 2, 11, 2, 12, 1, 12, 1, 26, 1, 12, 1, 12, 2, 11, 3, 9, 5, 7, 7, 5, 3"
    write_picture(folder / "images/big.png", 800, 950)
    shape = f'<mask label="rose" rle="{runs}" left="707" top="888" width="13" height="15" z_order="0"></mask>\n'
    text = f'<image id="0" name="big.png" width="800" height="950">\n{shape}</image>\n'
    data = read(folder, document(text))
    decoded = coco.decode(data.segments.rle(0, 0, 0))[888:903, 707:720]
    assert decoded[0].tolist() == [0] * 3 + [1] * 5 + [0] * 5 and decoded.sum() == sum(map(int, runs.split(",")[1::2]))
    assert data.boxes.tolist() == [[707, 888, 720, 903]]


def test_what_encloses_no_area_is_counted_and_told(folder, caplog):
    shapes = '<polyline label="rose" points="1,2;3,4"></polyline><points label="rose" points="1,2"></points>'
    shapes += '<tag label="good"></tag><tag label="good"></tag>' + box()
    shapes += (
        '<skeleton label="pose"><points label="1" points="1,2"></points><points label="1" points="2,2"/></skeleton>'
    )
    data = read(folder, document(image(shapes)))
    assert len(data.ids) == 1
    assert "left out, as they enclose no area: 2 tag, 1 polyline, 1 points, 1 skeleton" in caplog.text


def test_subsets_of_a_project_and_files_are_splits(folder):
    write_picture(folder / "images/b.png", seed=1)
    images = image(box(), more='subset="Train" task_id="1"') + image("", "b.png", 'subset="Validation"')
    meta = META.replace("task>", "project>").replace("<id>", "<subset>Train</subset><id>")
    (folder / "annotations.xml").write_text(document(images, meta))
    data = read_dataset(folder)
    assert [len(data[split]) for split in ("train", "val")] == [1, 1]
    assert data["val"].names == ("rose", "Gänse & Co")
    (folder / "annotations.xml").unlink()
    for split in ("train", "val"):
        (folder / f"{split}.xml").write_text(document(image(box(), more='subset="default"')))
    assert {split: len(part.ids) for split, part in read_dataset(folder).items()} == {"train": 1, "val": 1}
    assert len(read(folder / "images", document(image(box(), more='subset="default"'))).ids) == 1


def test_without_meta_names_are_those_that_occur(folder):
    data = read(folder, document(image(box("tulip") + box("lily")), meta=""))
    assert data.names == ("lily", "tulip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (document('<track id="0" label="rose"></track>'), "line 9: holds the tracks of a video.*'CVAT for images 1.1'"),
        (document('<image id="0" width="64" height="48"></image>'), "<image> has no name"),
        (document('<image id="0" name="a.png" width="wide" height="48"></image>'), "line 9: width='wide'"),
        (document(image(box()))[:-20], "not well-formed XML.*line"),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + document(image(box()))[38:], "cannot be read as XML"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_error(folder, text, message):
    with pytest.raises(AnnotationError, match=rf"annotations.xml.*{message}"):
        read(folder, text)


def test_damaged_shapes_are_problems_with_their_line(folder):
    shapes = box().replace('xtl="1" ', "") + box(corners=("x", 1, 2, 3)) + box()
    shapes += '<polygon label="rose" points="1,2;3"></polygon>\n<polygon label="rose" points=""></polygon>\n'
    shapes += '<mask label="rose" rle="3, 5" left="0" top="0" width="3" height="3"></mask>\n'
    shapes += '<mask label="rose" rle="9" left="0" top="0" width="3" height="3"></mask>\n'
    data = read(folder, document(image(shapes)))
    told = [problem.what for problem in validate(data)]
    assert len(data.ids) == 1 and len(told) == 7
    assert "no 'xtl'" in told[0] and told[0].startswith("line ")
    assert "do not fill the mask of 3 x 3" in " ".join(told) and "the mask is empty" in told[-1]


def test_sizes_that_no_image_has_are_measured(folder):
    for width in (0, -5, 2**31, 2**32 - 1, 10**30):
        data = read(folder, document(image(box()).replace('width="64"', f'width="{width}"')))
        assert data.sizes.tolist() == [[64, 48]] and len(data) == 1, width


def test_masks_of_images_too_large_are_problems_with_their_line(folder):
    mask = '<mask label="rose" rle="0, 9" left="0" top="0" width="3" height="3"></mask>\n'
    vast = mask.replace("0, 9", f"0, {10**12}").replace('"3"', '"1000000"')
    for shapes, width in ((mask, 2**31 - 1), (vast, 64)):
        data = read(folder, document(image(shapes).replace('width="64"', f'width="{width}"')))
        assert [p.what for p in data.read_problems if "its mask is of" in p.what and p.what.startswith("line ")], width


def test_subsets_keep_their_images_apart(tmp_path):
    """A project's folders are called as its subsets; images of several tasks may have one name."""

    def image(subset, left):
        box = f'<box label="rose" xtl="{left}" ytl="1" xbr="9" ybr="9" occluded="0"/>'
        return f'<image id="1" name="1.png" subset="{subset}" width="64" height="48">{box}</image>'

    for seed, subset in enumerate(("Train", "Validation")):
        write_picture(tmp_path / f"images/{subset}/1.png", seed=seed)
    text = "<annotations><version>1.1</version><meta></meta>{}</annotations>"
    (tmp_path / "annotations.xml").write_text(text.format(image("Train", 2) + image("Validation", 3)))
    data = read_dataset(tmp_path)
    assert {split: (part.paths.tolist(), part.boxes.tolist()) for split, part in data.items()} == {
        "train": ([str(tmp_path / "images/Train/1.png")], [[2, 1, 9, 9]]),
        "val": ([str(tmp_path / "images/Validation/1.png")], [[3, 1, 9, 9]]),
    }
    (tmp_path / "annotations.xml").write_text(text.format(image("Train", 2) + image("train_2", 3) + image("val", 4)))
    assert set(find_sources(tmp_path)) == {"Train", "train_2", "val"}, "neither is lost"
