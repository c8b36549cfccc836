"""Damaged files of formats that are read as text: whatever stands in them, the error is ours and names the file."""

import random

import pytest

from detseg.data import read_annotations, validate
from detseg.data.annotations import AnnotationError
from detseg.data.formats import FORMATS
from tests.data.annotation_samples import make, write_picture

NAMES = ("cvat", "dlib", "datumaro", "openimages", "csv", "kitti", "visdrone")
BITS = [
    b"\0",
    b"\xff",
    b'"',
    b"<",
    b">",
    b"{",
    b"]",
    b",",
    b";",
    b"\n",
    b"\r",
    b"-",
    b"1e999",
    b"nan",
    b"&x;",
    b"9" * 5000,
]


def damaged(content, draw):
    """The same with a few bytes cut out, put in or doubled."""
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(content) + 1)
        stop = min(len(content), start + draw.choice((0, 1, 1, 2, 10, 100)))
        piece = draw.choice((b"", draw.choice(BITS), content[start:stop] * 2, bytes([draw.randrange(256)])))
        content = content[:start] + piece + content[stop:]
    return content


@pytest.mark.parametrize("name", NAMES)
def test_any_damage_is_an_error_of_ours_or_none(tmp_path, name):
    format = next(format for format in FORMATS if format.name == name)
    write_picture(tmp_path / "a.png")
    boxes, labels = [[1, 2, 30, 40], [10.5, 20, 60, 41], [0, 0, 5, 5]], [2, 0, 1]
    format.write(
        make(boxes, labels, [0, 0, 0], paths=[str(tmp_path / "a.png")]), tmp_path / "to", "train", images="link"
    )
    files = [file for file in (tmp_path / "to").rglob("*") if file.suffix in (".xml", ".json", ".csv", ".txt")]
    draw, errors = random.Random(name), 0
    for _ in range(120):
        file = draw.choice(files)
        good = file.read_bytes()
        file.write_bytes(damaged(good, draw))
        try:
            validate(read_annotations(tmp_path / "to"))
        except AnnotationError as error:
            assert str(tmp_path / "to") in str(error)
            errors += 1
        file.write_bytes(good)
    assert errors > 5
    assert len(read_annotations(tmp_path / "to").ids) == 3
