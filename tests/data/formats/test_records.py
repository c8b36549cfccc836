"""What all readers that give records share: names, shares, measured boxes, problems, and the layout of files."""

import numpy as np
import pytest
from pycocotools import mask as coco

from detseg.data import validate
from detseg.data.formats.layout import files_by_split, split_of
from detseg.data.formats.records import Fault, Item, Record, RunLengths, read_records, record_sources
from tests.data.annotation_samples import write_picture


def read(tmp_path, records, **options):
    return read_records(records, tmp_path / "set.json", [tmp_path], **options)


def test_names_are_sorted_unless_they_are_given(tmp_path):
    write_picture(tmp_path / "a.png", 40, 20)
    records = [Record("a.png", [Item("rose", (1, 2, 3, 4)), Item("daisy", (0, 0, 5, 6), iscrowd=True)])]
    data = read(tmp_path, records)
    assert data.names == ("daisy", "rose") and data.labels.tolist() == [1, 0]
    assert data.iscrowd.tolist() == [False, True] and data.sizes.tolist() == [[40, 20]]
    data = read(tmp_path, records, names=["rose", "tulip", "daisy"])
    assert data.names == ("rose", "tulip", "daisy") and data.labels.tolist() == [0, 2]
    data = read(tmp_path, records, names=["rose"])
    assert [p.kind for p in validate(data)] == ["unknown-category"] and data.labels.tolist() == [0, -1]


def test_shares_become_pixels_and_boxes_are_measured(tmp_path):
    for seed, name in enumerate("ab"):
        write_picture(tmp_path / f"{name}.png", 40, 20, seed)
    triangle, mask = [0.25, 0.5, 0.5, 0.5, 0.5, 1.0], np.zeros((20, 40), np.uint8, order="F")
    mask[3:9, 10:30] = 1
    runs = coco.encode(mask)
    records = [
        Record("a.png", [Item("x", polygons=[triangle]), Item("x", (0, 0, 1, 1))], shares=True),
        Record("b.png", [Item("x", mask=RunLengths(20, 40, runs["counts"])), Item("x", (1, 2, 3, 4))]),
    ]
    data = read(tmp_path, records)
    assert data.boxes.tolist() == [[10, 10, 20, 20], [0, 0, 40, 20], [10, 3, 30, 9], [1, 2, 3, 4]]
    assert data.segments.polygons(0)[0].tolist() == [[10, 10], [20, 10], [20, 20]]
    assert (coco.decode(data.segments.rle(2, 20, 40)) == mask).all()
    assert validate(data) == []


def test_what_cannot_be_used_is_a_problem_of_its_image(tmp_path):
    write_picture(tmp_path / "a.png")
    flat, endless = [1, 2, 3, 4], [0, 0, float("nan"), 1, 2, 2]
    items = [Fault("a circle of no radius"), Item("x"), Item("x", (1, 2, 9, 9), polygons=[flat, endless])]
    data = read(tmp_path, [Record("a.png", items)])
    problems = validate(data)
    assert [p.kind for p in problems] == ["malformed-object", "malformed-object", "malformed-outline"]
    assert {p.image for p in problems} == {str(tmp_path / "a.png")} and len(data.ids) == 1
    assert "2 of 2 polygons" in problems[2].what


def test_splits_share_their_classes(tmp_path):
    for name in "ab":
        write_picture(tmp_path / f"{name}.png")
    splits = {
        "train": lambda: [Record("a.png", [Item("rose", (1, 2, 3, 4))])],
        "val": lambda: [Record("b.png", [Item("daisy", (1, 2, 3, 4))])],
    }
    sources = record_sources(splits, tmp_path, lambda split: [tmp_path])
    train, val = sources["train"](), sources["val"]()
    assert train.categories == val.categories and train.names == ("daisy", "rose")
    assert train.labels.tolist() == [1] and val.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["train.json", "val.json"], {"train": ["train.json"], "val": ["val.json"]}),
        (["via_train2017.json", "via_valid.json"], {"train": ["via_train2017.json"], "val": ["via_valid.json"]}),
        (["Train/x.json", "test/y.json"], {"train": ["Train/x.json"], "test": ["test/y.json"]}),
        (["train/annotations/x.json"], {"train": ["train/annotations/x.json"]}),
        (["annotations/1.json", "annotations/2.json"], {"": ["annotations/1.json", "annotations/2.json"]}),
        (["train_000.json", "train_001.json"], {"": ["train_000.json", "train_001.json"]}),
        (["a.json", "my_train.json", "b.json"], {"": ["a.json", "b.json", "my_train.json"]}),
        ([".hidden.json", "other.txt"], {}),
    ],
)
def test_files_by_split(tmp_path, files, expected):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("ours")
    found = files_by_split(tmp_path, [".json"], lambda file: file.read_text() == "ours")
    assert {s: [f.relative_to(tmp_path).as_posix() for f in group] for s, group in found.items()} == expected
    assert files_by_split(tmp_path, [".json"], lambda file: False) == {}


def test_the_split_in_a_name():
    assert [split_of(name) for name in ("Training", "val-2", "trainval", "test_of_train", "x")] == [
        "train", "val", None, None, None,
    ]  # fmt: skip
