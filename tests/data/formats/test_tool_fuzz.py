"""Damaged files of annotation tools: whatever is in them, the readers raise AnnotationError that names the file."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco

from detseg.data import validate, write_dataset
from detseg.data.annotations import AnnotationError
from detseg.data.formats import createml, label_studio, labelbox, labelme, supervisely, via
from detseg.data.polygons import SegmentsBuilder
from tests.data.annotation_samples import make, write_picture

FORMATS = {
    module.FORMAT.name: module.FORMAT for module in (createml, label_studio, labelbox, labelme, supervisely, via)
}
ODDITIES = (
    None,
    True,
    -1,
    0,
    1.5,
    1e400,
    10**30,
    "",
    "x",
    "\0",
    "é" * 40,
    [],
    {},
    [None],
    [[]],
    {"x": 1},
    [1, 2, 3],
    -(2**70),
)


def written(folder, format):
    """A set with a box, a polygon, an object of two polygons and a mask, and its text files."""
    paths = [str(write_picture(folder / f"from/{name}.png", 64, 48, seed)) for seed, name in enumerate("ab")]
    builder = SegmentsBuilder()
    builder.add_nothing()
    builder.add_polygons([[0, 0, 20, 0, 20, 20]])
    builder.add_polygons([[0, 0, 4, 0, 4, 4], [5, 5, 9, 5, 9, 9]])
    builder.add_rle(48, 64, coco.encode(np.ones((48, 64), np.uint8, order="F"))["counts"])
    boxes = [[1, 2, 30, 40], [0, 0, 20, 20], [0, 0, 9, 9], [0, 0, 64, 48]]
    data = make(boxes, [0, 1, 2, 0], [0, 0, 0, 1], [(64, 48)] * 2, paths)
    write_dataset(replace(data, segments=builder.build()), folder / "to", to=format)
    return [file for file in sorted((folder / "to").rglob("*")) if file.suffix in (".json", ".ndjson", ".xml")]


def places(value, path=()):
    """The way to everything within parsed JSON."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        if not (isinstance(child, int) and isinstance(key, int) and key > 9):  # a brush's thousands of numbers
            yield from places(child, (*path, key))


def changed(content, path, chance):
    """The content with what is at a path replaced by something odd, left out or given twice."""
    if not path:
        return chance.choice(ODDITIES)
    content = json.loads(json.dumps(content))
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    what = chance.random()
    if what < 0.2:
        del parent[path[-1]]
    elif what < 0.3 and isinstance(parent, list):
        parent.append(parent[path[-1]])
    else:
        parent[path[-1]] = chance.choice(ODDITIES)
    return content


def read(format, folder, file):
    """Read what is there; damage may also hide that the set is of the format, or have no effect."""
    try:
        sources = format.find(folder, None)
        for source in (sources or {}).values():
            validate(source())
    except AnnotationError as error:
        assert str(folder) in str(error), f"{file}: {error}"


@pytest.mark.parametrize("name", FORMATS)
def test_odd_values_anywhere(tmp_path, name):
    chance = random.Random(f"values of {name}")
    for file in written(tmp_path, name):
        if file.suffix == ".xml":
            continue
        good = file.read_text()
        lines = [json.loads(line) for line in good.splitlines()] if file.suffix == ".ndjson" else [json.loads(good)]
        for number, content in enumerate(lines):
            ways = list(places(content))
            for way in chance.sample(ways, min(80, len(ways))):
                parts = [changed(content, way, chance) if n == number else other for n, other in enumerate(lines)]
                file.write_text("\n".join(map(json.dumps, parts)))
                read(FORMATS[name], tmp_path / "to", file)
        file.write_text(good)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_bytes(tmp_path, name):
    chance = random.Random(f"bytes of {name}")
    for file in written(tmp_path, name):
        good = file.read_bytes()
        for _ in range(40):
            text = bytearray(good)
            for _ in range(chance.choice([1, 1, 3, 20])):
                text[chance.randrange(len(text))] = chance.choice([*b'{}[]",:0-e\\ ', 0, 255, chance.randrange(256)])
            start = chance.randrange(len(text))
            del text[start : start + chance.choice([0, 0, 1, 100, len(text)])]
            file.write_bytes(text)
            read(FORMATS[name], tmp_path / "to", file)
        file.write_bytes(good)
