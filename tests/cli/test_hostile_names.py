"""Names of files and classes from anywhere: text that harms neither a terminal nor what lies beside the output."""

import csv
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from threading import Lock

import pytest

from detseg.cli import main
from detseg.csv_text import read_cell
from detseg.data.annotations import Category
from detseg.data.formats import read_annotations, read_label_splits, write_dataset
from tests.data.annotation_samples import make, write_json, write_picture

CAFE = os.fsdecode(b"caf\xe9")
ORDERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def latin(tmp_path):
    """A folder whose name is not UTF-8, where the file system takes such names."""
    try:
        (tmp_path / CAFE).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    return tmp_path / CAFE


def named(run, folder, *names):
    """A copy of a run whose classes are called otherwise."""
    shutil.copytree(run.folder, folder)
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    for entry, name in zip(content["categories"], names, strict=True):
        entry["name"] = name
    (folder / "model.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_predict_of_names_that_are_not_utf8(run, small, latin, capsys):
    shutil.copy(small / "images/val0.png", latin / f"{CAFE}.png")
    shutil.copy(small / "images/val1.png", latin / "caf_xe9.png")
    words = ["--output", str(latin / "out"), "--save-txt", "--save-json", "--score-threshold", "0.05"]
    assert main(["predict", str(run.folder), str(latin), *words]) == 0
    assert r"/caf\xe9/caf\xe9.png: " in capsys.readouterr().out
    names = [
        f"{folder}{name}{ending}"
        for folder, ending in (("", ".jpg"), ("labels/", ".txt"), ("json/", ".json"))
        for name in ("caf_xe9", "caf_xe9-2")
    ]
    assert set(names) < set(below(latin / "out"))
    results = json.loads((latin / "out/detections.json").read_text(encoding="utf-8"))
    assert {entry["file_name"].rpartition("/")[2] for entry in results} == {r"caf\xe9.png", "caf_xe9.png"}


def test_classes_of_names_that_are_not_utf8(classifier, small, latin, tmp_path):
    shutil.copy(small / "images/val0.png", latin / f"{CAFE}.png")
    assert main(["predict", str(classifier.folder), str(latin), "--output", str(latin / "out")]) == 0
    with (latin / "out/classes.csv").open(encoding="utf-8", newline="") as file:
        assert {row["image"].rpartition("/")[2] for row in csv.DictReader(file)} == {r"caf\xe9.png"}


def test_class_folders_that_are_not_utf8(latin, tmp_path):
    for seed, place in enumerate(("train", "val")):
        for folder in (CAFE, "tea"):
            write_picture(latin / place / folder / f"{CAFE}.png", seed=10 * seed + len(folder))
    read = read_label_splits(latin)
    assert list(read["train"].names) == [r"caf\xe9", "tea"]
    assert main(["pack", "--data", str(latin), "--output", str(latin / "a.h5"), "--size", "32"]) == 0
    assert list(read_label_splits(latin / "a.h5")["val"].names) == [r"caf\xe9", "tea"]
    assert main(["convert", str(latin), "--to", "tables", "--output", str(tmp_path / "out")]) == 0
    assert below(tmp_path / "out/images/val") == ["caf_xe9_0.png", "caf_xe9_1.png"]


@pytest.mark.parametrize("to", ["coco", "voc", "yolo", "csv", "openimages", "labelme"])
def test_data_sets_of_names_that_are_not_utf8(latin, tmp_path, to):
    image = str(write_picture(latin / f"{CAFE}.png"))
    write_dataset(make([[10, 5, 30, 35]], paths=[image]), tmp_path / "out", to=to)
    (path,) = read_annotations(tmp_path / "out", "train").paths
    assert path.endswith("caf_xe9.png") and Path(path).samefile(image)
    with pytest.raises(ValueError, match=r"out2.*: not written, .*caf\\xe9"):
        write_dataset(make([[10, 5, 30, 35]], paths=[image]), tmp_path / "out2", to=to, images="keep")


def test_a_name_that_must_be_text_is_told(capsys):
    assert main(["show", "none", "--output", "a\udce9/b"]) == 1
    with pytest.raises(SystemExit):
        main(["caf\udce9"])
    assert r"there is no command 'caf\xe9'" in capsys.readouterr().err


@pytest.mark.parametrize("there", [True, False])
def test_predictions_go_through_no_link(run, small, tmp_path, there, capsys):
    out, secret = tmp_path / "out", tmp_path / "secret"
    out.mkdir()
    secret.mkdir()
    if there:
        (secret / "a").write_text("mine")
        (out / "detections.json").write_text("[]")
    (out / "val0.jpg").symlink_to(secret / "a")
    words = ["predict", str(run.folder), str(small / "images/val0.png"), "--output", str(out)]
    assert main(words) == 0
    assert (out / "val0.jpg").read_bytes()[:2] == b"\xff\xd8" and not (out / "val0.jpg").is_symlink()
    (out / "crops").symlink_to(secret)
    assert main([*words, "--save-crops"]) == 1
    assert "crops: is a link, and nothing is written through links" in capsys.readouterr().err
    assert below(secret) == ["a"] * there and (not there or (secret / "a").read_text() == "mine")


@pytest.mark.parametrize(
    "names", [("../../x", "/abs"), ("\x1b[31mred", "a\u202eb\n"), ("..", "L" * 3000), ("=1+1", "@a")]
)
def test_classes_stay_in_their_folder(run, small, tmp_path, names, capsys):
    model = named(run, tmp_path / "run", *names)
    words = ["--save-crops", "--save-json", "--score-threshold", "0.01", "--output", str(tmp_path / "deep/er/out")]
    assert main(["predict", str(model), str(small / "images/val0.png"), *words]) == 0
    assert not ORDERS.search(capsys.readouterr().out.replace("\n", ""))
    written = below(tmp_path / "deep")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "run"]
    assert all(path in ("er", "er/out") or path.startswith("er/out/") for path in written)
    assert len([path for path in written if path.count("/") == 3 and path.startswith("er/out/crops/")]) == 2
    assert {entry["name"] for entry in json.loads((tmp_path / "deep/er/out/json/val0.json").read_text())} == set(names)


def test_classes_that_share_a_folder_are_told(run, small, tmp_path, capsys):
    model = named(run, tmp_path / "run", "L" * 300, "L" * 301)
    words = ["--save-crops", "--output", str(tmp_path / "out")]
    assert main(["predict", str(model), str(small / "images/val0.png"), *words]) == 1
    assert "would share a folder; rename one" in capsys.readouterr().err


def test_names_in_tables_are_no_formulas(classifier, small, tmp_path, capsys):
    names = ["=cmd|' /C calc'!A0", "\x1b[31m\tred\n"]
    model = named(classifier, tmp_path / "run", *names)
    image = shutil.copy(small / "images/val0.png", tmp_path / "-a\x07.png")
    assert main(["predict", str(model), str(image), "--output", str(tmp_path / "out")]) == 0
    with (tmp_path / "out/classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {"'" + names[0], r"\x1b[31m\tred\n"}
    assert read_cell("'" + names[0]) == names[0]
    assert {row["image"] for row in rows} == {f"{tmp_path}/-a\\x07.png"}
    assert not ORDERS.search(capsys.readouterr().out.replace("\n", ""))


@pytest.mark.parametrize("to", ["csv", "openimages"])
def test_names_read_back_from_tables(tmp_path, to):
    names = ("=1+1", "+a", "-b", "@c", "'=d", "-1.5")
    image = str(write_picture(tmp_path / "a.png"))
    data = make([[k, k, k + 9, k + 9] for k in range(6)], list(range(6)), paths=[image])
    data = replace(data, categories=tuple(Category(k, name) for k, name in enumerate(names)))
    write_dataset(data, tmp_path / "out", to=to)
    back = read_annotations(tmp_path / "out", "train")
    assert back.names == names and back.labels.tolist() == list(range(6))
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").rglob("*train*.csv")]
    assert texts and not re.search(r"(^|,)[=+@]", "".join(texts), re.MULTILINE)


def test_special_files_are_refused(run, small, tmp_path, capsys):
    for name in ("a.jpg", "b.mp4", "c.txt", "d.json", "e.csv", "f.h5", "noext"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    shutil.copy(small / "images/val0.png", tmp_path)
    assert main(["predict", str(run.folder), str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert f"{tmp_path}/a.jpg: is a pipe and no file" in told.out and "zero.jpg: is a device" in told.out
    assert "2 of 3 images cannot be read" in told.err and (tmp_path / "out/val0.jpg").is_file()
    for name in ("b.mp4", "c.txt"):
        assert main(["predict", str(run.folder), str(tmp_path / name), "--output", str(tmp_path / "out2")]) == 1
        assert f"{name}: is a pipe" in capsys.readouterr().err
    for name in ("d.json", "e.csv"):
        assert main(["show", str(tmp_path / name), "--output", str(tmp_path / "out3")]) == 1
        assert f"{name}: is a pipe" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "d.json"), "--ground-truth", str(small / "val.json")]) == 1
    assert "d.json: is a pipe" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file", "file/x", "a" * 300])
def test_outputs_that_cannot_be_are_named(run, small, tmp_path, place, capsys):
    (tmp_path / "file").write_text("mine")
    out = str(tmp_path / place)
    for words in (
        ["predict", str(run.folder), str(small / "images/val0.png"), "--output", out],
        ["show", str(small), "--output", out],
        ["crops", "--data", str(small), "--output", out],
        ["convert", str(small), "--to", "coco", "--output", out],
        ["evaluate", str(run.folder), "--resamples", "0", "--csv", f"{out}/x.csv"],
    ):
        assert main(words) == 1, words
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and str(tmp_path) in error and "Errno" not in error
    assert (tmp_path / "file").read_text() == "mine"


def test_a_device_is_not_replaced(tmp_path, small, run, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert main(["evaluate", str(run.folder), "--resamples", "0", "--csv", str(tmp_path / "pipe")]) == 1
    assert "pipe: is a pipe, which is not written to" in capsys.readouterr().err and (tmp_path / "pipe").is_fifo()


@pytest.fixture
def outside(tmp_path):
    """A COCO set with an image of its own, one above and one at a full path."""
    names = ["images/a.png", "../b.png", str(tmp_path / "far/c.png")]
    for seed, name in enumerate(names):
        write_picture(tmp_path / "set" / name, seed=seed)
    images = [{"id": k, "file_name": name, "width": 64, "height": 48} for k, name in enumerate(names)]
    write_json(tmp_path / "set/train.json", {"images": images, "annotations": [], "categories": []})
    return tmp_path / "set"


def test_images_outside_of_a_set_are_told_once_and_refused_with_a_limit(outside, caplog):
    assert len(read_annotations(outside, "train")) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"2 of 3 images lie outside of {outside}, the first is ../b.png; --images FOLDER refuses images that lie "
        "elsewhere"
    ]
    with pytest.raises(ValueError, match=r"1 of 3 images lie outside of .*/set/images, the first is .*/far/c\.png"):
        read_annotations(outside, "train", outside / "images")
    caplog.clear()
    (outside / "inner").mkdir()
    write_picture(outside / "inner/../d.png")
    content = {"id": 1, "file_name": "images/../d.png", "width": 64, "height": 48}
    write_json(outside / "train.json", {"images": [content], "annotations": [], "categories": []})
    assert len(read_annotations(outside, "train")) == 1 and not caplog.records


def test_a_folder_that_is_removed_is_told(run, small, tmp_path, monkeypatch, capsys):
    from detseg.cli import predict_images

    write, lock, written = predict_images.write_found, Lock(), []

    def write_and_remove(found, target):
        write(found, target)
        with lock:
            written.append(target)
            if len(written) == 3:
                target.parent.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(predict_images, "write_found", write_and_remove)
    words = [str(small / f"images/val{k}.png") for k in range(3)]
    assert main(["predict", str(run.folder), *words, "--output", str(tmp_path / "out")]) == 1
    assert "3 of 3 images are not there any more, the first is" in capsys.readouterr().err
