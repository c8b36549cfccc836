"""What holds for every annotation format, and for one that a test adds."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from detseg.data import raise_on_problems, read_annotations, read_dataset, read_mask_dataset, read_masks, validate
from detseg.data.annotations import AnnotationError, Category
from detseg.data.formats import (
    FORMATS,
    Format,
    NotRecognisedError,
    find_label_sources,
    find_mask_sources,
    find_sources,
    read_labels,
    titles,
    write_dataset,
    write_masks,
)
from detseg.data.masks import SemanticMasks
from detseg.data.polygons import SegmentsBuilder
from tests.data.annotation_samples import by_image, make, write_picture

FIND = {"objects": find_sources, "masks": find_mask_sources, "labels": find_label_sources}
DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = "".join((DOCS / page).read_text() for page in ("formats.md", "data.md", "classify.md"))
each = pytest.mark.parametrize("format", FORMATS, ids=lambda format: f"{format.name}-{format.gives}")
# Of instance masks an object is its pixels, and all are of one class: tests/data/formats/test_instance_masks.py
writers = pytest.mark.parametrize(
    "format",
    [f for f in FORMATS if f.write and f.gives == "objects" and f.name != "instance-masks"],
    ids=lambda format: format.name,
)
mask_writers = pytest.mark.parametrize(
    "format", [f for f in FORMATS if f.write and f.gives == "masks"], ids=lambda format: format.name
)


@pytest.fixture
def sample(tmp_path):
    paths = [str(write_picture(tmp_path / f"from/{name}.png", 97, 61, seed)) for seed, name in enumerate("abc")]
    boxes = [[1.5, 2, 30, 40.25], [10, 20, 97, 61], [0, 0, 5, 5]]
    return make(boxes, [2, 0, 1], [0, 0, 2], [(97, 61)] * 3, paths)


@each
def test_it_is_named_in_the_message_and_on_the_page(tmp_path, format):
    with pytest.raises(NotRecognisedError) as error:
        FIND[format.gives](tmp_path)
    assert f"\n  {format.title}: {format.looks_for}" in str(error.value)
    assert "\n" not in format.looks_for
    title, rows = (
        format.title.lower(),
        [cell.strip().lower() for cell in re.findall(r"^\|([^|]+)\|", PAGES, re.MULTILINE)],
    )
    assert any(row in title or title in row for row in rows), f"no row for {format.title} in the docs"


@each
def test_a_path_of_another_form_is_none_of_its_own(tmp_path, format):
    (tmp_path / "notes.md").write_text("hello")
    options = {"masks": None, "ignore_value": None} if format.gives == "masks" else {}
    for path in (tmp_path, tmp_path / "notes.md"):
        for find in filter(None, (format.find, format.guess)):
            assert not find(path, None, **options)


@writers
def test_what_is_written_is_recognised_and_read_back(tmp_path, sample, format):
    for split, part in (("train", sample.subset([0, 1])), ("val", sample.subset([2]))):
        format.write(part, tmp_path / "to", split)
    data = read_dataset(tmp_path / "to")
    assert list(data) == list(format.find(tmp_path / "to", None)) == ["train", "val"]
    assert data["train"].names == sample.names
    for split, part in (("train", sample.subset([0, 1])), ("val", sample.subset([2]))):
        assert by_image(data[split]) == by_image(part)
        raise_on_problems(validate(data[split]))


@writers
def test_what_it_holds_comes_back_and_the_rest_is_told(tmp_path, sample, format, caplog):
    builder = SegmentsBuilder()
    for x1, y1, x2, y2 in sample.boxes.tolist():
        builder.add_polygons([[x1, y1, x2, y1, x2, y2, x1, y2]])
    numbered = tuple(category._replace(id=10 * category.id) for category in sample.categories)
    iscrowd = np.array([True, False, False])
    given = replace(sample, segments=builder.build(), iscrowd=iscrowd, image_ids=sample.image_ids + 40)
    given = replace(given, categories=numbered)
    if "crowd" not in format.holds:
        with pytest.raises(AnnotationError, match="cannot mark the 1 crowd"):
            write_dataset(given, tmp_path / "none", to=format.name)
    write_dataset(given, tmp_path / "to", to=format.name, crowd="keep", images="copy")
    data = read_annotations(tmp_path / "to", "train")
    order = [Path(path).name for path in data.paths.tolist()]
    assert sorted(order) == ["a.png", "b.png", "c.png"] and validate(data) == []
    assert not any(Path(path).is_symlink() for path in data.paths.tolist())
    data = data.subset([order.index(f"{name}.png") for name in "abc"])
    assert (data.iscrowd.tolist() == iscrowd.tolist()) == ("crowd" in format.holds)
    assert (data.categories == numbered) == ("category ids" in format.holds)
    assert (data.image_ids.tolist() == given.image_ids.tolist()) == ("image ids" in format.holds)
    assert ("polygons" in caplog.text) == ("polygons" not in format.holds)
    if "polygons" in format.holds:
        assert data.drawn.all()
        for row, box in enumerate(given.boxes):
            points = data.segments.polygons(row)[0]
            np.testing.assert_allclose([*points.min(0), *points.max(0)], box, atol=1e-6)


@writers
@pytest.mark.parametrize("name", ["two\nlines", "a\u2028b", "c\x0bd", "\x1b[31mred"])
def test_odd_names_of_classes_come_back_or_are_refused(tmp_path, sample, format, name):
    given = replace(sample, categories=(Category(1, name), *sample.categories[1:]))
    try:
        write_dataset(given, tmp_path / "to", to=format.name)
    except AnnotationError as error:
        assert f"the class {name!r} has control characters or line breaks" in str(error)
        assert not (tmp_path / "to").exists()
    else:
        assert read_annotations(tmp_path / "to", "train").names == given.names


@writers
def test_a_damaged_file_is_one_clear_error(tmp_path, sample, format):
    """Every file but the images, in turn: bytes that are no text, or nothing at all."""
    format.write(sample, tmp_path / "to", "train")
    files = [
        f for f in (tmp_path / "to").rglob("*") if f.is_file() and f.suffix in (".json", ".ndjson", ".xml", ".yaml")
    ]
    tables = [f for f in (tmp_path / "to").rglob("*") if f.is_file() and f.suffix in (".csv", ".txt")]
    assert files or tables
    for file in files or tables:
        good = file.read_bytes()
        damaged = (b"\xff\xe4\xf6{[<", good[: len(good) // 2], b"[" * 5000)
        for bad in damaged if files else damaged[:1]:  # half a table is a table
            file.write_bytes(bad)
            with pytest.raises(AnnotationError, match=re.escape(str(tmp_path / "to"))):
                read_annotations(tmp_path / "to", "train")
        file.write_bytes(good)
    with pytest.raises(AnnotationError, match="does not exist"):
        read_annotations(tmp_path / "nowhere")


@mask_writers
def test_masks_that_are_written_are_read_back(tmp_path, sample, format):
    """Drawn from polygons, with objects that are ignored, and from files with values that are not 0, 1, 2."""
    builder = SegmentsBuilder()
    for x1, y1, x2, y2 in sample.boxes.tolist():
        builder.add_polygons([[x1, y1, x2, y1, x2, y2, x1, y2]])
    iscrowd = np.array([False, True, False])
    drawn = SemanticMasks.from_annotations(replace(sample, segments=builder.build(), iscrowd=iscrowd))
    for split, part in (("train", drawn.subset([0, 1])), ("val", drawn.subset([2]))):
        write_masks(part, tmp_path / "to", split, to=format.name)
    data = read_mask_dataset(tmp_path / "to")
    assert list(data) == list(format.find(tmp_path / "to", None)) == ["train", "val"]
    assert data["train"].names == drawn.names and data["train"].names[0] == "background"
    for split, rows in (("train", [0, 1]), ("val", [2])):
        assert [Path(path).name for path in data[split].paths.tolist()] == [f"{'abc'[row]}.png" for row in rows]
        for index, row in enumerate(rows):
            np.testing.assert_array_equal(data[split].mask(index), drawn.mask(row))
        assert not [problem for problem in validate(data[split]) if problem.severity == "error"]
    assert 255 in data["train"].mask(0)

    numbered = replace(data["train"], categories=tuple(Category(7 * k, n) for k, n in enumerate("abcd")))
    given = replace(numbered, ignore_values=(255, 1, 2, 3))
    write_masks(given, tmp_path / "numbered", to=format.name, images="copy")
    found = read_masks(tmp_path / "numbered", "train")
    assert found.categories == given.categories
    np.testing.assert_array_equal(found.mask(0), given.mask(0))
    assert not any(Path(path).is_symlink() for path in found.paths.tolist())


@mask_writers
def test_masks_are_not_added_to_others(tmp_path, sample, format):
    segments = SegmentsBuilder()
    for _ in sample.ids:
        segments.add_polygons([[0, 0, 5, 0, 5, 5]])
    drawn = SemanticMasks.from_annotations(replace(sample, segments=segments.build()))
    write_masks(drawn, tmp_path / "to", to=format.name)
    other = replace(drawn.objects, categories=tuple(c._replace(name=f"other {c.id}") for c in drawn.objects.categories))
    with pytest.raises(AnnotationError, match="already holds other classes"):
        write_masks(SemanticMasks.from_annotations(other), tmp_path / "to", "val", to=format.name)
    with pytest.raises(ValueError, match="'yolo' is no format that can be written; those are"):
        write_masks(drawn, tmp_path / "to", to="yolo")
    with pytest.raises(ValueError, match=f"'{format.name}' is no format that can be written"):
        write_dataset(sample, tmp_path / "to", to=format.name)


def read_toy(file):
    """Images, one a line: name, x1, y1, x2, y2."""
    rows = [line.split() for line in file.read_text().splitlines()]
    boxes = [[float(value) for value in row[1:]] for row in rows]
    paths = [str(file.parent / row[0]) for row in rows]
    return make(boxes, image_index=list(range(len(rows))), sizes=[(64, 48)] * len(rows), paths=paths, source=str(file))


def find_toy(path, images):
    files = {file.stem: file for file in sorted(path.glob("*.toy"))} if path.is_dir() else {}
    return {split: partial(read_toy, file) for split, file in files.items()} or None


def test_a_new_format_is_one_line(tmp_path):
    for seed, split in enumerate(("train", "val")):
        write_picture(tmp_path / f"{split}.jpg", seed=seed)
        (tmp_path / f"{split}.toy").write_text(f"{split}.jpg 1 2 30 40\n")
    FORMATS.append(Format("toy", "Toy", "train.toy and val.toy", find_toy))
    try:
        assert read_annotations(tmp_path, "train").boxes.tolist() == [[1, 2, 30, 40]]
        data = read_dataset(tmp_path)
        assert {split: len(part) for split, part in data.items()} == {"train": 1, "val": 1}
        assert validate(data["val"], other=data["train"]) == []
        assert titles(FORMATS).endswith(" or Toy")
        (tmp_path / "none").mkdir()
        for read in (read_annotations, read_masks):
            with pytest.raises(AnnotationError, match=r"Toy"):
                read(tmp_path / "none")
        with pytest.raises(AnnotationError, match=r"no split 'test'; found: train, val"):
            read_annotations(tmp_path, "test")
        with pytest.raises(AnnotationError, match="with boxes, not with one class each"):
            read_labels(tmp_path)
    finally:
        FORMATS.pop()
