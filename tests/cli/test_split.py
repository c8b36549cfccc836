"""`detseg split`: train, val and test by share, and folds."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from detseg.cli import main
from detseg.data import read_dataset, read_labelled_dataset, validate
from detseg.data.formats import find_sources
from detseg.data.splits import class_counts
from tests.data.annotation_samples import by_image, write_picture
from tests.small_set import write_small_set


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp("boxes") / "set", train=16, val=5)


def split(*words):
    return main(["split", *map(str, words)])


def names(data):
    return {Path(path).name for path in data.paths.tolist()}


def test_a_set_is_split_by_share_in_its_own_format(boxes, tmp_path, capsys):
    assert split(boxes, "--output", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{boxes}: its splits (16 train, 5 val images) are taken as one set"
    assert lines[1].startswith(f"{tmp_path / 'out'}: COCO, 17 train, 2 val and 2 test images with 40 objects of 2 cl")
    assert lines[1].endswith("images linked") and lines[2].startswith("farthest from its share: ")
    data = {name: read() for name, read in find_sources(tmp_path / "out").items()}
    assert set(data) == {"train", "val", "test"}
    assert [validate(part, other=data["train"] if name != "train" else None) for name, part in data.items()] == [[]] * 3
    before = {}
    for part in read_dataset(boxes).values():
        before |= by_image(part)
    found = {}
    for part in data.values():
        found |= by_image(part)
    assert found == before


def test_shares_seed_and_format(boxes, tmp_path):
    words = ["--shares", "0.7", "0.3", "--to", "yolo", "--crowd", "drop", "--images", "copy"]
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert split(boxes, "--output", tmp_path / folder, *words, "--seed", seed) == 0
    parts = {folder: read_dataset(tmp_path / folder) for folder in "abc"}
    assert [len(part) for part in parts["a"].values()] == [15, 6]
    assert names(parts["a"]["val"]) == names(parts["b"]["val"]) != names(parts["c"]["val"])
    assert np.abs(class_counts(parts["a"]["val"]) - 6).max() <= 1
    assert not any(Path(path).is_symlink() for path in parts["a"]["val"].paths.tolist())


def test_groups_by_a_table(boxes, tmp_path, capsys):
    images = sorted(path.name for path in (boxes / "images").iterdir())
    with (tmp_path / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "day"), *((name, k // 3) for k, name in enumerate(images))])
    words = ["--by", f"{tmp_path / 'images.csv'}:day", "--shares", "0.7", "0.3"]
    assert split(boxes, "--output", tmp_path / "out", *words) == 0
    day = {name: k // 3 for k, name in enumerate(images)}
    parts = read_dataset(tmp_path / "out")
    days = {name: {day[image] for image in names(part)} for name, part in parts.items()}
    assert not days["train"] & days["val"] and len(names(parts["val"])) == 6
    capsys.readouterr()
    assert split(boxes, "--output", tmp_path / "none", "--by", "prefix") == 1
    assert "its 21 images in 2 groups by prefix are too few for 3 splits" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_folds_are_small_files_that_name_the_images_where_they_are(boxes, tmp_path, capsys):
    assert split(boxes, "--output", tmp_path / "folds", "--folds", "3") == 0
    assert capsys.readouterr().out.count("images kept where they are") == 3
    files = sorted(path.relative_to(tmp_path / "folds").as_posix() for path in (tmp_path / "folds").rglob("*.json"))
    assert files == [f"fold-{k}/{name}.json" for k in (1, 2, 3) for name in ("train", "val")]
    seen = []
    for k in (1, 2, 3):
        fold = read_dataset(tmp_path / f"folds/fold-{k}")
        assert len(fold["train"]) == 14 and validate(fold["val"], other=fold["train"]) == []
        seen += names(fold["val"])
    assert sorted(seen) == sorted(path.name for path in (boxes / "images").iterdir())


def test_a_test_split_is_left_out_of_the_folds(boxes, tmp_path, capsys):
    assert split(boxes, "--output", tmp_path / "three") == 0
    assert split(tmp_path / "three", "--output", tmp_path / "folds", "--folds", "2") == 0
    assert "test: 2 images, left out of the folds" in capsys.readouterr().out
    fold = read_dataset(tmp_path / "folds/fold-1")
    assert len(fold["train"]) + len(fold["val"]) == 19


def test_labelled_images(tmp_path, capsys):
    for seed, name in enumerate([f"rose/{i}" for i in range(10)] + [f"daisy/{i}" for i in range(20)]):
        write_picture(tmp_path / f"set/{name}.png", seed=seed)
    assert split(tmp_path / "set", "--output", tmp_path / "out") == 0
    assert "class folders, 24 train, 3 val and 3 test images of 2 classes" in capsys.readouterr().out
    parts = read_labelled_dataset(tmp_path / "out")
    assert {name: part.counts.tolist() for name, part in parts.items()} == {
        "train": [16, 8],
        "val": [2, 1],
        "test": [2, 1],
    }
    assert split(tmp_path / "set", "--output", tmp_path / "folds", "--folds", "2") == 0
    assert [len(part) for part in read_labelled_dataset(tmp_path / "folds/fold-2").values()] == [15, 15]
    assert split(tmp_path / "set", "--output", tmp_path / "coco", "--to", "coco") == 1
    assert "holds images with one class each, --to coco is for objects" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shares", "0.5", "0.6"], "above 0 and together 1"),
        (["--shares", "1"], "2 or 3"),
        (["--shares", "0.8", "0.2", "--folds", "2"], "not both"),
        (["--folds", "1"], "2 folds at least"),
        (["--by", "colour"], "grouped by prefix, near-duplicates, or FILE.csv:COLUMN"),
        (["--to", "cocoa"], "formats that can be written are"),
    ],
)
def test_wrong_options(boxes, tmp_path, capsys, words, message):
    assert split(boxes, "--output", tmp_path / "out", *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_without_classes(tmp_path, capsys):
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(4)]
    for i in range(4):
        write_picture(tmp_path / f"set/{i}.png", seed=i)
    content = {"images": images, "annotations": [], "categories": []}
    (tmp_path / "set/train.json").write_text(json.dumps(content))
    assert split(tmp_path / "set", "--output", tmp_path / "out", "--shares", "0.5", "0.5") == 0
    out = capsys.readouterr().out
    assert "2 train and 2 val images with 0 objects of 0 classes" in out and "there are no classes" in out
