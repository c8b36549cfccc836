"""`detseg crops` and `detseg pack`: from boxes to crops to a packed file."""

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from detseg.cli import main
from detseg.cli.crops import Crops
from detseg.cli.crops import run as run_crops
from detseg.cli.pack import Pack
from detseg.cli.pack import run as run_pack
from detseg.data.annotations import AnnotationError
from detseg.data.checks.validate import validate
from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_annotations, read_dataset, read_labelled_dataset, read_labels, read_masks
from detseg.data.pack.file import read_pack_info
from detseg.flowers.dataset import write_flowers
from detseg.train.config import TrainClassifier
from detseg.train.tasks.classifier import load_labelled_data
from tests.small_masks import write_small_masks
from tests.small_set import write_small_set


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp("boxes"), train=4, val=3)


@pytest.fixture(scope="module")
def crops(boxes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops") / "out"
    assert run_crops(Crops(data=boxes, output=folder, min_side=8)) == 0
    return folder


def test_crops_are_a_classification_set(crops, boxes):
    splits = read_labelled_dataset(crops)
    annotations = read_dataset(boxes)
    # The order of the classes is the data set's own, not the alphabet's; the crowd of the first image is left out.
    assert splits["train"].names == annotations["train"].names == ("square", "bar")
    assert splits["train"].counts.tolist() == [4, 3] and splits["val"].counts.tolist() == [2, 2]
    assert validate(splits["train"]) == []
    assert validate(splits["val"], other=splits["train"]) == []


def test_crops_print_what_they_did(boxes, tmp_path, capsys):
    assert run_crops(Crops(data=boxes, output=tmp_path / "out", min_side=17)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"train: \d+ crops of 4 images; left out \d+ small and 1 crowd or difficult objects", lines[0])
    assert lines[1].startswith("val: ")
    with pytest.raises(ValueError, match="is there already and not empty"):
        run_crops(Crops(data=boxes, output=tmp_path / "out"))


@pytest.mark.parametrize("command", ["crops", "windows"])
def test_cut_from_images_elsewhere(boxes, tmp_path, command):
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        shutil.copy(boxes / f"{split}.json", tmp_path / "annotations")
    words = [command, "--data", str(tmp_path / "annotations"), "--output", str(tmp_path / "out"), "--min-side", "8"]
    assert main(words) == 1
    assert main([*words, "--images", str(boxes / "images")]) == 0


def test_errors_in_the_annotations_stop_or_are_repaired(tmp_path, capsys):
    folder = write_small_set(tmp_path / "data", train=2, val=2)
    (folder / "images/train1.png").unlink()
    with pytest.raises(AnnotationError, match=r"train1\.png.*does not exist"):
        run_crops(Crops(data=folder, output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert run_crops(Crops(data=folder, output=tmp_path / "out", repair=True)) == 0
    assert "repaired: left out 1 images that do not exist" in capsys.readouterr().out


def test_labels_are_packed(crops, tmp_path, capsys):
    file = tmp_path / "set.h5"
    assert run_pack(Pack(data=crops, output=file, size=32, chunk=2)) == 0
    out = capsys.readouterr().out
    assert "classification, 7 train, 4 val images of 2 classes, long side 32 px" in out
    assert "means of the channels 0." in out
    packed = read_labelled_dataset(file)
    assert packed["train"].counts.tolist() == [4, 3]
    with pytest.raises(ValueError, match="is there already; name another file"):
        run_pack(Pack(data=crops, output=file))


def test_one_split_of_labels_is_not_divided(crops, tmp_path, capsys):
    for split in ("train", "val"):
        assert run_pack(Pack(data=crops / split, output=tmp_path / f"{split}.h5", size=32)) == 0
    assert read_pack_info(tmp_path / "train.h5").splits == {"all": 7}
    assert read_pack_info(tmp_path / "val.h5").splits == {"all": 4}
    assert len(read_labels(tmp_path / "val.h5")) == 4
    both = TrainClassifier(train=tmp_path / "train.h5", val=tmp_path / "val.h5")
    assert [len(data) for data in load_labelled_data(both, Console(quiet=True)).values()] == [7, 4]


def test_a_packed_file_is_divided_as_the_folder_it_was_made_of(crops, tmp_path, monkeypatch):
    file = tmp_path / "set.h5"
    assert run_pack(Pack(data=crops / "train", output=file, size=32)) == 0
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        folder, packed = (read_labelled_dataset(p, split=(0.6, 0.4), seed=seed) for p in (crops / "train", file))
        assert list(folder) == list(packed) == ["train", "val"]
        for split, data in folder.items():
            names = {str(Path(path).relative_to(crops / "train")) for path in data.paths.tolist()}
            assert set(packed[split].paths.tolist()) == names


def test_of_several_splits_of_labels_each_side_takes_its_own(crops, tmp_path):
    file = tmp_path / "set.h5"
    assert run_pack(Pack(data=crops, output=file, size=32)) == 0
    splits = load_labelled_data(TrainClassifier(train=file, val=crops), Console(quiet=True))
    assert [len(data) for data in splits.values()] == [7, 4]
    rows = [f"{path},{path.parent.name},{path.parents[1].name}" for path in sorted(crops.glob("*/*/*.jpg"))]
    table = tmp_path / "set.csv"
    table.write_text("\n".join(["path,class,split", *rows]).replace(",train", ",test"))
    with pytest.raises(AnnotationError, match=r"holds the splits val, test, but no train; name"):
        load_labelled_data(TrainClassifier(train=table, val=crops), Console(quiet=True))


def test_a_table_is_packed_with_images_from_elsewhere(crops, tmp_path):
    images = sorted((crops / "train").glob("*/*.jpg"))
    for path in images:
        shutil.copy(path, tmp_path / f"{path.parent.name}-{path.name}")
    rows = [f"{path.parent.name}-{path.name},{path.parent.name}" for path in images]
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/birds.csv").write_text("\n".join(["id,species", *rows]))
    words = ["--data", str(tmp_path / "tables/birds.csv"), "--images", str(tmp_path), "--size", "32"]
    assert main(["pack", *words, "--output", str(tmp_path / "set.h5")]) == 0
    assert read_labels(tmp_path / "set.h5").counts.tolist() == [3, 4]


def test_boxes_are_packed(boxes, tmp_path):
    file = tmp_path / "set.h5"
    assert run_pack(Pack(data=boxes, output=file, size=48)) == 0
    assert read_pack_info(file).task == "detection"
    plain, packed = (
        DetectionDataset(read_dataset(boxes)["train"], 48),
        DetectionDataset(read_annotations(file, "train"), 999),
    )
    assert len(plain) == len(packed) == 4
    ids = plain.annotations.image_ids.tolist()
    for i in range(4):
        a, b = plain[ids.index(int(packed.annotations.image_ids[i]))], packed[i]
        for name in ("image", "boxes", "labels", "iscrowd"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    with pytest.raises(AnnotationError, match="has no split 'test'; found: train, val"):
        read_annotations(file, "test")


def test_masks_are_packed(tmp_path):
    folder = write_flowers(tmp_path / "flowers", train=2, val=1, size=(64, 64))
    assert run_pack(Pack(data=folder, output=tmp_path / "a.h5", size=32)) == 0
    assert run_pack(Pack(data=folder, output=tmp_path / "b.h5", size=32, task="segmentation")) == 0
    tasks = [read_pack_info(tmp_path / f"{name}.h5").task for name in "ab"]
    assert tasks[1] == "segmentation" and tasks[0] in ("detection", "segmentation")


@pytest.mark.parametrize(
    ("task", "kind", "size"),
    [("classification", "classifier", 288), ("detection", "detector", 400), ("segmentation", "segmenter", 320)],
)
def test_by_default_images_are_as_large_as_training_wants_them(
    task, kind, size, boxes, crops, tmp_path, caplog, capsys, monkeypatch
):
    data = {"detection": boxes, "classification": crops}.get(task) or write_small_masks(tmp_path / "m", train=4, val=3)
    file = tmp_path / "set.h5"
    assert main(["pack", "--data", str(data), "--output", str(file)]) == 0
    assert (read_pack_info(file).task, read_pack_info(file).size) == (task, size)

    def enough(*_):
        raise ValueError("the images are opened, enough of it")

    monkeypatch.setattr("detseg.train.process.Process.open_folder", enough)
    with caplog.at_level(logging.WARNING, "detseg"):
        words = ("--backbone", "test_efficientnet", "--weights", "none", "--output", str(tmp_path / "run"))
        assert main(["train", kind, "--data", str(file), *words]) == 1
    assert "enough of it" in capsys.readouterr().err
    assert "long side" not in caplog.text, "a warning that they are too small"


def test_sets_without_splits_and_sets_with_a_test_split(boxes, tmp_path, capsys):
    assert run_pack(Pack(data=boxes / "train.json", output=tmp_path / "one.h5", size=32)) == 0
    assert read_pack_info(tmp_path / "one.h5").splits == {"all": 4}
    folder = shutil.copytree(boxes, tmp_path / "three")
    content = json.loads((folder / "val.json").read_text())
    content["categories"].reverse()
    content["images"], left = content["images"][:2], content["images"][2:]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in {i["id"] for i in left}]
    (folder / "val.json").write_text(json.dumps(content))
    (folder / "test.json").write_text(json.dumps(content | {"images": left, "annotations": []}))
    assert run_pack(Pack(data=folder, output=tmp_path / "three.h5", size=32)) == 0
    assert "detection, 4 train, 2 val, 1 test images of 2 classes" in capsys.readouterr().out
    packed, plain = read_dataset(tmp_path / "three.h5")["val"], read_dataset(folder)["val"]
    assert packed.categories == plain.categories == read_dataset(folder)["train"].categories
    assert sorted(zip(packed.ids, packed.labels, strict=True)) == sorted(zip(plain.ids, plain.labels, strict=True))


def test_errors_are_repaired_if_asked_for(tmp_path, capsys):
    folder = write_small_set(tmp_path / "data", train=3, val=2)
    (folder / "images/train1.png").unlink()
    with pytest.raises(AnnotationError, match=r"train1\.png.*does not exist"):
        run_pack(Pack(data=folder, output=tmp_path / "x.h5"))
    assert run_pack(Pack(data=folder, output=tmp_path / "x.h5", size=16, repair=True)) == 0
    assert "repaired: left out 1 images that do not exist" in capsys.readouterr().out
    assert read_pack_info(tmp_path / "x.h5").splits == {"train": 2, "val": 2}


def test_another_folder_of_masks(tmp_path):
    folder = write_small_masks(tmp_path / "set", train=2, val=1)
    (folder / "masks").rename(folder / "masks_shapes")
    (folder / "classes.txt").rename(folder / "classes_shapes.txt")
    packed = Pack(data=folder, output=tmp_path / "x.h5", size=32, masks="masks_shapes", ignore_value=254)
    with pytest.raises(AnnotationError, match="255"):
        run_pack(packed)  # the value 255 is no class, and not ignored any more
    assert run_pack(replace(packed, ignore_value=None)) == 0
    assert read_pack_info(tmp_path / "x.h5").task == "segmentation"
    assert set(np.unique(read_masks(tmp_path / "x.h5", "val").mask(0)).tolist()) == {0, 1, 2, 255}


def test_a_folder_of_masks_that_is_not_there_does_not_pack_the_boxes(boxes, tmp_path):
    for asked, words in (
        ({"masks": "nonsense"}, "a folder 'nonsense' of masks"),
        ({"ignore_value": 0}, "drawn from polygons"),
    ):
        with pytest.raises(AnnotationError, match=words):
            run_pack(Pack(data=boxes, output=tmp_path / "x.h5", **asked))


def test_outputs_and_inputs_that_make_no_sense(boxes, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.h5"):
        run_pack(Pack(data=boxes, output=tmp_path / "x.zip"))
    run_pack(Pack(data=boxes, output=tmp_path / "x.h5", size=16))
    with pytest.raises(ValueError, match=r"x\.h5: is packed already"):
        run_pack(Pack(data=tmp_path / "x.h5", output=tmp_path / "y.h5"))


def test_nothing_to_pack(tmp_path):
    with pytest.raises(AnnotationError, match="Looked for"):
        run_pack(Pack(data=tmp_path, output=tmp_path / "x.h5"))


def test_errors_in_the_data_stop(crops, tmp_path):
    copy = shutil.copytree(crops, tmp_path / "copy")
    first = next((copy / "train/square").glob("*.jpg"))
    shutil.copy(first, copy / "val/square/again.jpg")
    with pytest.raises(AnnotationError, match=r"the image is in .*train too"):
        run_pack(Pack(data=copy, output=tmp_path / "x.h5"))
    assert not (tmp_path / "x.h5").exists()
