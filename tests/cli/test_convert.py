"""`detseg convert`: from format to format, with what is lost."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from detseg.cli import main
from detseg.data import read_annotations, read_dataset, read_labels, validate
from detseg.data.annotations import AnnotationError
from detseg.data.convert import format_named, own_format, read_splits, recognise, told, writable, write_splits
from detseg.data.formats import FORMATS, Format, find_sources, read_label_splits
from tests.data.annotation_samples import by_image, write_coco_dataset, write_picture
from tests.small_masks import write_small_masks
from tests.small_set import write_small_set


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp("boxes") / "set", train=4, val=3)


def convert(*words):
    return main(["convert", *map(str, words)])


# Instance masks hold objects of one class only.
@pytest.mark.parametrize(
    "to", [f.name for f in FORMATS if f.write and f.gives == "objects" and f.name != "instance-masks"]
)
def test_any_format_to_any_other_and_back(boxes, tmp_path, to, capsys):
    assert convert(boxes, "--to", to, "--output", tmp_path / "there", "--crowd", "keep") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    title, where = format_named(to).title, "inside" if format_named(to).holds_images else "linked"
    assert (
        last == f"{tmp_path / 'there'}: {title}, 4 train and 3 val images with 12 objects of 2 classes; images {where}"
    )
    assert convert(tmp_path / "there", "--to", "coco", "--output", tmp_path / "back", "--images", "copy") == 0
    before, after = read_dataset(boxes), read_dataset(tmp_path / "back")
    for split, data in after.items():
        assert data.names == before[split].names
        found, wanted = by_image(data), by_image(before[split])
        if "crowd" not in format_named(to).holds:
            wanted = {image: sorted((name, False, box) for name, _, box in held) for image, held in wanted.items()}
        assert found == wanted
        assert validate(data, other=None if split == "train" else after["train"]) == []


def test_images_are_linked_copied_or_left(boxes, tmp_path, caplog):
    for images in ("link", "copy", "keep"):
        assert convert(boxes, "--to", "coco", "--output", tmp_path / images, "--images", images) == 0
        paths = [Path(path) for path in read_annotations(tmp_path / images, "val").paths.tolist()]
        assert all(path.is_symlink() for path in paths) == (images == "link")
        assert all(path.is_relative_to(tmp_path / images) for path in paths) == (images != "keep")
    assert not (tmp_path / "keep/images").exists()
    (told,) = caplog.messages
    assert f"images lie outside of {tmp_path / 'keep'}, the first is {boxes}" in told


def test_what_cannot_be_held_is_refused_before_anything_is_written_or_told(boxes, tmp_path, capsys, caplog):
    assert convert(boxes, "--to", "yolo", "--output", tmp_path / "out") == 1
    assert "YOLO cannot mark the 1 crowd (or difficult) objects as ignored; --crowd drop" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert convert(boxes, "--to", "yolo", "--output", tmp_path / "out", "--crowd", "drop") == 0
    assert "1 crowd (or difficult) objects were left out" in caplog.text
    file = write_coco_dataset(tmp_path / "drawn")
    assert convert(file, "--to", "voc", "--output", tmp_path / "voc") == 0
    assert re.search(r"voc: VOC has no run-length masks, 1 objects keep only their boxes", caplog.text)


def test_a_set_without_splits_is_for_training_or_divided(boxes, tmp_path, capsys):
    assert convert(boxes / "train.json", "--to", "coco", "--output", tmp_path / "one") == 0
    assert list(find_sources(tmp_path / "one")) == ["train"]
    assert convert(boxes / "train.json", "--to", "coco", "--output", tmp_path / "two", "--val-share", "0.25") == 0
    again = read_dataset(boxes / "train.json", val_share=0.25)
    for split, data in read_dataset(tmp_path / "two").items():
        assert by_image(data) == by_image(again[split])
    (tmp_path / "tested").mkdir()
    for split, name in (("train", "train"), ("val", "test")):
        text = (boxes / f"{split}.json").read_text().replace('"file_name": "', f'"file_name": "{boxes}/images/')
        (tmp_path / f"tested/{name}.json").write_text(text)
    assert convert(tmp_path / "tested", "--to", "coco", "--output", tmp_path / "three", "--val-share", "0.25") == 0
    assert "3 train, 1 val and 3 test images" in capsys.readouterr().out
    for words, message in (
        (["--val-share", "0.25"], "is divided already, into train, val; leave out --val-share"),
        (["--val-share", "2"], "above 0 and below 1"),
        (["--val-share", "0.2", "--split", "val"], "leave --split out"),
        (["--split", "test"], "has no split test; found: train, val"),
    ):
        assert convert(boxes, "--to", "coco", "--output", tmp_path / "none", *words) == 1
        assert message in capsys.readouterr().err


def test_all_splits_are_kept_or_those_asked_for(boxes, tmp_path):
    folder = Path(shutil.copytree(boxes, tmp_path / "three"))
    content = json.loads((folder / "val.json").read_text())
    images = content["images"]
    content["categories"] = content["categories"][::-1]
    (folder / "test.json").write_text(json.dumps(content | {"images": images[:1], "annotations": []}))
    (folder / "val.json").write_text(json.dumps(content | {"images": images[1:], "annotations": []}))
    assert convert(folder, "--to", "voc", "--output", tmp_path / "all") == 0
    assert set(find_sources(tmp_path / "all")) == {"train", "val", "test"}
    assert read_annotations(tmp_path / "all", "test").names == ("square", "bar")  # as in training
    assert convert(folder, "--to", "voc", "--output", tmp_path / "some", "--split", "test") == 0
    assert list(find_sources(tmp_path / "some")) == ["test"]


def test_errors_of_all_splits_stop_or_are_repaired(boxes, tmp_path, capsys):
    folder = Path(shutil.copytree(boxes, tmp_path / "set"))
    for name in ("train1.png", "val0.png"):
        (folder / "images" / name).unlink()
    assert convert(folder, "--to", "coco", "--output", tmp_path / "out") == 1
    errors = capsys.readouterr().err
    assert "train1.png" in errors and "val0.png" in errors and not (tmp_path / "out").exists()
    assert convert(folder, "--to", "coco", "--output", tmp_path / "out", "--repair") == 0
    out = capsys.readouterr().out
    assert "repaired: left out 1 images that do not exist" in out and "3 train and 2 val images" in out


def test_images_from_elsewhere(boxes, tmp_path):
    (tmp_path / "annotations").mkdir()
    shutil.copy(boxes / "train.json", tmp_path / "annotations")
    words = [tmp_path / "annotations", "--to", "coco", "--output", tmp_path / "out"]
    assert convert(*words) == 1
    assert convert(*words, "--source-images", boxes / "images") == 0


def test_what_is_there_is_not_touched_and_names_are_known(boxes, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert convert(boxes, "--to", "coco", "--output", tmp_path) == 1
    assert "is there already and not empty" in capsys.readouterr().err
    assert convert(boxes, "--to", "packed", "--output", tmp_path / "new") == 1
    assert convert(boxes, "--to", "cocoa", "--output", tmp_path / "new") == 1
    assert f"--to cocoa: is none; formats that can be written are {', '.join(sorted(writable()))}" in (
        capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        convert("--help")
    assert "coco" in " ".join(capsys.readouterr().out.split("Format to write")[1].split())


# ------------------------------------------------------------------ labelled images


@pytest.fixture
def labels(tmp_path):
    for seed, name in enumerate(("train/rose/1", "train/daisy/1", "train/daisy/2", "val/rose/3", "val/daisy/4")):
        write_picture(tmp_path / f"labels/{name}.jpg", seed=seed)
    (tmp_path / "labels/classes.txt").write_text("rose\ndaisy\nlily\n")
    return tmp_path / "labels"


def pixels_by_class(data):
    return sorted((data.names[k], Path(p).read_bytes()) for k, p in zip(data.labels, data.paths, strict=True))


@pytest.mark.parametrize("to", [f.name for f in FORMATS if f.write and f.gives == "labels"])
def test_labelled_images(labels, tmp_path, to, capsys):
    assert convert(labels, "--to", to, "--output", tmp_path / "out") == 0
    assert "3 train and 2 val images of 3 classes; images linked" in capsys.readouterr().out
    before, after = read_label_splits(labels), read_label_splits(tmp_path / "out")
    assert list(before) == list(after) == ["train", "val"]
    for split, data in after.items():
        assert data.names == ("rose", "daisy", "lily")
        assert pixels_by_class(data) == pixels_by_class(before[split])


def test_a_table_leaves_images_where_they_are_class_folders_cannot(labels, tmp_path, capsys):
    assert convert(labels, "--to", "tables", "--output", tmp_path / "table", "--images", "keep") == 0
    data = read_labels(tmp_path / "table", "train")
    assert all(Path(path).is_relative_to(labels) for path in data.paths.tolist())
    assert convert(labels, "--to", "class-folders", "--output", tmp_path / "out", "--images", "keep") == 1
    assert "link or copy them" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a/b", "..", "_x", "CON:", "Rose"])
def test_classes_that_cannot_be_folders(tmp_path, name):
    rows = ["path,label"]
    for seed, label in enumerate(("rose", name)):
        rows.append(f"{write_picture(tmp_path / f'{seed}.png', seed=seed)},{label}")
    (tmp_path / "set.csv").write_text("\n".join(rows))
    data = read_labels(tmp_path / "set.csv")
    with pytest.raises(AnnotationError, match=r"classes become folders.*rename them"):
        format_named("class-folders").write(data, tmp_path / "out", "train")


# ------------------------------------------------------------------ the library


def test_kept_images_that_a_format_needs_are_told(labels, tmp_path, caplog):
    toy = Format("toy", "Toy", "", lambda *_: None, write=lambda *_, **__: None, gives="labels")
    (tmp_path / "out").mkdir()
    write_splits(read_splits(labels, "labels"), tmp_path / "out", toy, images="keep")
    assert "out: Toy is read with its images in the folder only: put them there" in caplog.text


def test_kinds_of_data_are_told_apart(boxes, labels, tmp_path):
    assert recognise(boxes).gives == "objects" and recognise(boxes).format.name == "coco"
    assert recognise(labels).gives == "labels" and recognise(labels).format.name == "class-folders"
    assert own_format(recognise(boxes)).name == "coco"
    (tmp_path / "none").mkdir()
    with pytest.raises(AnnotationError, match=r"no annotations recognised. Looked for:(.|\n)*COCO(.|\n)*class folders"):
        recognise(tmp_path / "none")


def test_counts_in_words(boxes):
    splits = read_splits(boxes, "objects")
    assert told(splits) == "4 train and 3 val images with 12 objects of 2 classes"
    three = splits | {"test": splits["val"].subset(np.zeros(0, int))}
    assert told(three) == "4 train, 3 val and 0 test images with 12 objects of 2 classes"
    assert told({"train": splits["train"]}) == "4 train images with 8 objects of 2 classes"


def test_a_format_of_another_kind_is_refused(boxes, tmp_path, capsys):
    assert convert(boxes, "--to", "tables", "--output", tmp_path / "out") == 1
    assert "Cut its objects out first: detseg crops" in capsys.readouterr().err
    masked = write_small_masks(tmp_path / "masked")
    assert convert(masked, "--to", "coco", "--output", tmp_path / "out") == 1
    message = "holds masks, --to coco is for objects. Masks do not tell where one object ends and the next begins."
    error = capsys.readouterr().err
    assert message in error and "formats for masks are mask-folders" in error


@pytest.mark.parametrize("begun", [False, True])
def test_half_a_set_is_not_left(boxes, tmp_path, monkeypatch, capsys, begun):
    """Labels of the later images would be missing, as if these showed nothing."""
    done = []

    def stop(source, target):
        done.append(Path(target).write_bytes(b""))
        if len(done) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("detseg.data.formats.locate.shutil.copyfile", stop)
    if begun:
        (tmp_path / "out").mkdir()
    assert convert(boxes, "--to", "voc", "--output", tmp_path / "out", "--images", "copy") == 130
    assert "interrupted" in capsys.readouterr().err and len(done) == 3
    assert (tmp_path / "out").exists() == begun and not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("to", ["coco", "csv", "via", "voc"])
def test_images_that_are_kept_are_found_from_anywhere(boxes, tmp_path, to, monkeypatch):
    """Also by a set that is moved, and is read from another working directory."""
    (tmp_path / "work").mkdir()
    shutil.copytree(boxes, tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    assert convert("source", "--to", to, "--output", "work/out", "--images", "keep", "--crowd", "keep") == 0
    (tmp_path / "far/away").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "far")
    shutil.move(tmp_path / "work/out", "away/out")
    data = read_annotations("away/out", "val")
    assert validate(data) == [] and all(Path(path).is_relative_to(tmp_path / "source") for path in data.paths.tolist())


def test_a_class_with_blanks_at_its_end_goes_into_lists_of_several_splits(boxes, tmp_path):
    shutil.copytree(boxes, tmp_path / "set")
    for file in ("train.json", "val.json"):
        text = json.loads((tmp_path / "set" / file).read_text())
        text["categories"][0]["name"] += " "
        (tmp_path / "set" / file).write_text(json.dumps(text))
    assert convert(tmp_path / "set", "--to", "voc", "--output", tmp_path / "out", "--crowd", "keep") == 0
    assert read_annotations(tmp_path / "out", "val").names == read_annotations(boxes, "val").names


def test_nothing_is_written_into_the_source(boxes, tmp_path, capsys):
    for k, name in enumerate(("daisy", "rose")):
        write_picture(tmp_path / f"species/{name}/a.png", seed=k)
    assert convert(tmp_path / "species", "--to", "tables", "--output", tmp_path / "species/out") == 1
    assert "species/out: lies in " in capsys.readouterr().err
    assert main(["split", str(boxes), "--output", str(boxes / "parts")]) == 1
    assert "where it could be read as part of it" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "species").iterdir()) == ["daisy", "rose"]
