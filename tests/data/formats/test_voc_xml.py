"""What single VOC files hold: shapes, encodings, damage."""

import math
import random

import numpy as np
import pytest

from detseg.data.annotations import AnnotationError
from detseg.data.checks.validate import validate
from detseg.data.formats import read_annotations, read_coco, write_voc
from detseg.data.polygons import SegmentsBuilder
from tests.data.annotation_samples import make, write_coco_dataset, write_picture

BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
SIZE = "<size><width>64</width><height>48</height><depth>3</depth></size>"
SQUARE = "<x1>11</x1><y1>11</y1><x2>21</x2><y2>11</y2><x3>21</x3><y3>21</y3><x4>11</x4><y4>21</y4>"


def read(folder, *objects, size=SIZE):
    write_picture(folder / "a.jpg")
    found = "".join(f"<object>{content}</object>" for content in objects)
    (folder / "a.xml").write_text(f"<annotation><filename>a.jpg</filename>{size}{found}</annotation>")
    return read_annotations(folder / "a.xml")


# ------------------------------------------------------------------ shapes


def test_polygons_counted_from_one(tmp_path):
    """As Roboflow, supervision and OpenLabeler write them."""
    box = BOX.format(11, 11, 20, 20)
    data = read(tmp_path, f"<name>rose</name>{box}<polygon>{SQUARE}</polygon>", f"<name>daisy</name>{box}")
    assert data.boxes.tolist() == [[10, 10, 20, 20]] * 2
    assert data.drawn.tolist() == [True, False]
    assert data.segments.polygons(0)[0].tolist() == [[10, 10], [20, 10], [20, 20], [10, 20]]
    assert validate(data) == []


def test_numbers_of_points_order_them(tmp_path):
    points = "".join(f"<y{n}>{n * n % 41}</y{n}><x{n}>{n}</x{n}>" for n in (10, 9, 11, 1, 2, 3, 4, 5, 6, 7, 8))
    (polygon,) = read(tmp_path, f"<name>rose</name><polygon>{points}</polygon>").segments.polygons(0)
    assert polygon.tolist() == [[n - 1, n * n % 41 - 1] for n in range(1, 12)]


def test_polygons_of_labelme(tmp_path):
    """Its XML counts from 0, keeps removed objects and says what is a box."""

    def shape(name, deleted, kind=""):
        points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((12, 13), (50, 13), (50, 37), (12, 37)))
        more = f"<deleted>{deleted}</deleted><verified>0</verified><occluded>no</occluded><attributes/>{kind}"
        parts = "<parts><hasparts/><ispartof/></parts><id>0</id>"
        return f"<name>{name}</name>{more}{parts}<polygon><username>ann</username>{points}</polygon>"

    size = "<imagesize><nrows>48</nrows><ncols>64</ncols></imagesize>"
    kinds = (shape("rose", 0), shape("rose", 1), shape("daisy", 0, "<type>bounding_box</type>"))
    data = read(tmp_path, *kinds, size=size)
    assert data.boxes.tolist() == [[12, 13, 50, 37]] * 2 and data.names == ("daisy", "rose")
    assert data.drawn.tolist() == [True, False] and data.sizes.tolist() == [[64, 48]]


def test_several_polygons_are_one_object(tmp_path):
    far = SQUARE.replace(">11<", ">31<").replace(">21<", ">41<")
    data = read(tmp_path, f"<name>rose</name><polygon>{SQUARE}</polygon><polygon/><polygon>{far}</polygon>")
    assert data.boxes.tolist() == [[10, 10, 40, 40]] and len(data.segments.polygons(0)) == 2


@pytest.mark.parametrize(
    ("angle", "corners"),
    [
        (0, [[20, 15], [40, 15], [40, 25], [20, 25]]),
        (math.pi / 2, [[35, 10], [35, 30], [25, 30], [25, 10]]),
        (math.atan2(3, 4), [[25, 10], [41, 22], [35, 30], [19, 18]]),  # clockwise, as y grows downwards
        (math.pi, [[40, 25], [20, 25], [20, 15], [40, 15]]),
    ],
)
def test_rotated_boxes_become_polygons(tmp_path, angle, corners):
    box = f"<robndbox><cx>30</cx><cy>20</cy><w>20</w><h>10</h><angle>{angle!r}</angle></robndbox>"
    data = read(tmp_path, f"<type>robndbox</type><name>ship</name><difficult>1</difficult>{box}")
    (polygon,) = data.segments.polygons(0)
    np.testing.assert_allclose(polygon, corners, atol=1e-9)
    np.testing.assert_allclose(data.boxes[0], [*polygon.min(0), *polygon.max(0)])
    assert data.iscrowd.tolist() == [True]


def test_each_box_of_an_object_is_one_and_parts_are_none(tmp_path):
    part = f"<part><name>head</name>{BOX.format(1, 1, 5, 5)}</part>"
    data = read(tmp_path, f"<name>person</name>{BOX.format(1, 2, 9, 9)}{part}{BOX.format(11, 12, 20, 20)}")
    assert data.boxes.tolist() == [[0, 1, 9, 9], [10, 11, 20, 20]] and data.names == ("person",)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("<name>rose</name>", "has no <bndbox>, <polygon> or <robndbox>"),
        ("<name> </name>" + BOX.format(1, 1, 5, 5), "<object> 2 (without name) has no <name>"),
        ("<name>rose</name>" + BOX.format("1,5", 1, 5, 5), "has '1,5' in <xmin>, expected a number, with a point"),
        ("<name>rose</name><bndbox><xmin>1</xmin></bndbox>", "has no number in <ymin>"),
        ("<name>rose</name><polygon><x1>1</x1></polygon>", "with a point without x or y"),
        ("<name>rose</name><polygon><pt><x>1</x></pt></polygon>", "has no number in <y>"),
        (f"<name>rose</name>{BOX.format(1, 1, 5, 5) * 2}<polygon>{SQUARE}</polygon>", "2 <bndbox> and polygons"),
        (
            "<name>rose</name><robndbox><cx>9</cx><cy>9</cy><w>4</w><h>4</h><angle>90</angle></robndbox>",
            "has the <angle> 90, expected radians",
        ),
    ],
)
def test_what_cannot_be_used_is_reported(tmp_path, content, what):
    data = read(tmp_path, f"<name>daisy</name>{BOX.format(1, 1, 5, 5)}", content)
    assert data.names == ("daisy",) and len(data.ids) == 1
    (problem,) = data.read_problems
    assert problem.kind == "malformed-object" and what in problem.what and problem.file.endswith("a.xml")


def test_reversed_corners_are_reported(tmp_path):
    (problem,) = validate(read(tmp_path, f"<name>rose</name>{BOX.format(30, 1, 5, 5)}"))
    assert problem.severity == "error" and "(29, 0, 5, 5)" in problem.what


def test_fractions_and_sizes_of_zero(tmp_path):
    size = "<size><width>0</width><height>0</height><depth>3</depth></size>"
    data = read(tmp_path, f"<name>rose</name>{BOX.format('1.25', '2e0', ' 9.5 ', '9')}", size=size)
    assert data.boxes.tolist() == [[0.25, 1, 9.5, 9]] and data.sizes.tolist() == [[64, 48]]
    with pytest.raises(AnnotationError, match=r"a\.xml: <size> holds \['9999999999', '5'\]"):
        read(tmp_path, size="<size><width>9999999999</width><height>5</height></size>")


def test_what_tools_write_for_difficult(tmp_path):
    texts = {"1": True, "true": True, "Yes": True, "0": False, "": False, "Unspecified": False, "nan": False}
    objects = [f"<name>rose</name><difficult>{text}</difficult>{BOX.format(1, 1, 5, 5)}" for text in texts]
    assert read(tmp_path, *objects).iscrowd.tolist() == list(texts.values())


def test_polygons_are_written_and_read_back(tmp_path):
    path = write_picture(tmp_path / "a.jpg")
    builder = SegmentsBuilder()
    polygons = [[[1.5, 2, 30.25, 2, 30.25, 40.125]], [], [[0, 0, 5, 0, 5, 5], [7, 7, 9, 7, 9, 9.1]]]
    for found in polygons:
        builder.add_polygons(found)
    boxes = [[1.5, 2, 30.25, 40.125], [3, 3, 6, 6], [0, 0, 9, 9.1]]
    write_voc(make(boxes, [0, 1, 1], paths=[str(path)], segments=builder.build()), tmp_path / "voc")
    data = read_annotations(tmp_path / "voc", "train")
    np.testing.assert_allclose(data.boxes, boxes, atol=1e-12)
    for row, expected in enumerate(polygons):
        found = [polygon.ravel() for polygon in data.segments.polygons(row)]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)
    assert validate(data) == []


def test_masks_of_run_lengths_keep_their_boxes(tmp_path):
    first = read_coco(write_coco_dataset(tmp_path / "coco"))
    write_voc(first, tmp_path / "voc")
    again = read_annotations(tmp_path / "voc", "train")
    assert int(first.drawn.sum()) == 2 and int(again.drawn.sum()) == 1


# ------------------------------------------------------------------ encodings


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("gb2312", "玫瑰"),
        ("GBK", "玫瑰"),
        ("gb18030", "玫瑰"),
        ("euc-kr", "장미"),
        ("shift_jis", "バラ"),
        ("big5", "玫瑰"),
        ("iso-8859-1", "Gänseblümchen"),
        ("windows-1252", "Gänseblümchen"),
        ("utf-8", "玫瑰"),
        ("utf-8-sig", "玫瑰"),
        ("utf-16", "玫瑰"),
    ],
)
def test_encodings_that_files_declare(tmp_path, encoding, name):
    declared = encoding.removesuffix("-sig")
    text = f"<annotation><object><name>{name}</name>{BOX.format(1, 1, 5, 5)}</object></annotation>"
    (tmp_path / "a.xml").write_bytes(f'<?xml version="1.0" encoding="{declared}"?>\n{text}'.encode(encoding))
    write_picture(tmp_path / "a.jpg")
    assert read_annotations(tmp_path).names == (name,)


def test_letters_beyond_the_declared_encoding(tmp_path):
    text = f'<?xml version="1.0" encoding="gb2312"?><annotation><object><name>镕</name>{BOX}</object></annotation>'
    (tmp_path / "a.xml").write_bytes(text.format(1, 1, 5, 5).encode("gbk"))  # a letter that gb2312 lacks
    assert read_annotations(tmp_path).names == ("镕",)


@pytest.mark.parametrize("declared", ["", '<?xml version="1.0"?>', '<?xml version="1.0" encoding="utf-8"?>'])
def test_text_of_another_encoding_than_declared(tmp_path, declared):
    (tmp_path / "a.xml").write_bytes(f"{declared}<annotation><filename>Gänse</filename></annotation>".encode("latin-1"))
    with pytest.raises(AnnotationError, match=r"a\.xml: cannot be read as XML: .*save it as UTF-8"):
        read_annotations(tmp_path)


@pytest.mark.parametrize("encoding", ["klingon", "zip", "hex", "undefined", "idna"])
def test_encodings_that_are_none(tmp_path, encoding):
    (tmp_path / "a.xml").write_text(f'<?xml version="1.0" encoding="{encoding}"?><annotation>é</annotation>', "utf-8")
    with pytest.raises(AnnotationError, match=r"a\.xml: .*save it as UTF-8"):
        read_annotations(tmp_path)


# ------------------------------------------------------------------ hostile files

GOOD = f"""<?xml version="1.0" encoding="utf-8"?>
<annotation><folder>x</folder><filename>a.jpg</filename><path>C:\\x\\a.jpg</path>{SIZE}
<object><name>röse</name><difficult>0</difficult>{BOX.format(1, 2, 30, 40)}<polygon>{SQUARE}</polygon></object>
<object><name>ship</name><robndbox><cx>9</cx><cy>9</cy><w>4</w><h>4</h><angle>1</angle></robndbox></object>
<object><name>leaf</name><polygon><pt><x>1</x><y>2</y></pt><pt><x>9</x><y>2</y></pt><pt><x>9</x><y>8</y></pt></polygon></object>
</annotation>""".encode()
VALUES = (
    b"",
    b"nan",
    b"-inf",
    b"1e999",
    b"-1",
    b"9" * 40,
    b"1,5",
    b"\xff",
    b"\0",
    b"&lol;",
    b"<x/>",
    b"]]>",
    b"../../..",
)


def mutations(seed):
    """Good files damaged: bytes changed, cut, doubled, and values replaced by such as tools never meant."""
    rng = random.Random(seed)
    data = bytearray(GOOD)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[start] = rng.randrange(256)
        elif kind == 1:
            del data[start : start + rng.randrange(1, 60)]
        elif kind == 2:
            data[start:start] = data[start : start + rng.randrange(1, 200)]
        else:
            begin, end = data.find(b">", start) + 1, data.find(b"</", start)
            data[begin : max(begin, end)] = rng.choice(VALUES)
    return bytes(data)


def test_damaged_files_give_one_clear_error_or_data(tmp_path):
    write_picture(tmp_path / "a.jpg")
    file, refused = tmp_path / "a.xml", 0
    for seed in range(400):
        file.write_bytes(mutations(seed))
        try:
            data = read_annotations(file)
            validate(data, check_images=False)
            assert len(data) == 1
        except AnnotationError as error:
            refused += 1
            assert str(file) in str(error)
    assert 100 < refused < 390, refused


@pytest.mark.parametrize(
    "content",
    [
        '<!DOCTYPE a [<!ENTITY e "boom">]><annotation>&e;</annotation>',
        '<!DOCTYPE a [<!ENTITY a "x"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>',
        '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation><filename>&e;</filename></annotation>',
        '<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><annotation>&e;</annotation>',
        "<annotation>&e;</annotation>",
        "<annotation>" + "<a>" * 100_000,
        "<annotation>" + "<object>" * 1000 + "</annotation>",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_and_depth_do_no_harm(tmp_path, content, encoding):
    (tmp_path / "a.xml").write_bytes(content.encode(encoding))
    with pytest.raises(AnnotationError, match=r"a\.xml"):
        read_annotations(tmp_path / "a.xml")


def test_deep_files_are_read_and_freed(tmp_path):
    (tmp_path / "a.xml").write_text("<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>")
    write_picture(tmp_path / "a.jpg")
    assert len(read_annotations(tmp_path).ids) == 0
