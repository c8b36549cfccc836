"""Boxes for training: from every form of data, from one set or two, away from their images, and their mistakes."""

import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from detseg.data.cache import images_of
from detseg.data.formats import read_dataset, write_voc, write_yolo
from detseg.data.pack.datasets import write_pack
from detseg.models import load_model
from detseg.train.config import TrainDetector, TrainLocalizer
from detseg.train.data import load_data
from detseg.train.runner import train
from detseg.train.tasks.detector import DetectorTask
from tests.small_set import write_small_set
from tests.train.runs import untimed

QUIET = Console(quiet=True)


def in_every_form(source, folder):
    """Name and options of the same boxes in each form, the crowds that it cannot hold left out."""
    yield "coco", {"data": source}
    splits = read_dataset(source)
    for split, data in splits.items():
        write_voc(data, folder / "voc", split)
        write_yolo(data, folder / "yolo", split, crowd="drop")
        write_yolo(data, folder / split, "val", crowd="drop")
    yield "voc", {"data": folder / "voc"}
    yield "yolo", {"data": folder / "yolo/data.yaml"}
    yield "two folders", {"train": folder / "train", "val": folder / "val"}
    content = json.loads((source / "val.json").read_text())
    content["categories"].reverse()  # another order of the same categories
    (folder / "reversed.json").write_text(json.dumps(content))
    shutil.copytree(source / "images", folder / "images")
    yield "two files", {"train": source / "train.json", "val": folder / "reversed.json"}


def test_every_form_of_data(small, tmp_path):
    whole = read_dataset(small)
    for kind, where in in_every_form(small, tmp_path):
        train, val = load_data(TrainDetector(**where), QUIET)
        assert train.names == val.names == ("square", "bar"), kind
        assert (len(train), len(val), len(val.boxes)) == (8, 5, 8), kind
        assert sorted(val.labels.tolist()) == sorted(whole["val"].labels.tolist()), kind
        assert train.iscrowd.sum() == (0 if kind in ("yolo", "two folders") else 1), kind


def test_images_away_from_their_annotations(small, tmp_path):
    shutil.copytree(small / "images", tmp_path / "far/pics")
    folder = tmp_path / "set/ann"  # what lies beside set/ is not searched
    folder.mkdir(parents=True)
    files = {split: shutil.copy(small / f"{split}.json", folder) for split in ("train", "val")}
    for where in ({"data": folder}, files):
        with pytest.raises(ValueError, match=r"name the folder \(--images of detseg train and detseg pack\)") as error:
            load_data(TrainDetector(**where), QUIET)
        assert str(error.value).endswith("--repair would leave no image: correct what is listed above.")
        for config in (TrainDetector, TrainLocalizer):
            given = config(**where, images=tmp_path / "far/pics")
            assert [len(data) for data in load_data(given, QUIET)] == [8, 5]


def test_an_undivided_set_is_divided_by_a_share(small):
    train, val = load_data(TrainDetector(data=small / "train.json", val_share=0.25), QUIET)
    assert (len(train), len(val)) == (6, 2)
    assert sorted([*train.image_ids, *val.image_ids]) == list(range(93, 101))
    again = load_data(TrainLocalizer(data=small / "train.json", val_share=0.25, seed=1), QUIET)
    assert again[1].image_ids.tolist() == val.image_ids.tolist(), "runs can be compared"


def test_mistakes(small, tmp_path):
    train = small / "train.json"
    for options, message in (
        ({"data": small, "val_share": 0.2}, "is divided already, into train, val; leave out --val-share"),
        ({"data": train}, "or let training divide one set by --val-share 0.2"),
        ({"data": small, "images": small / "nowhere"}, "nowhere: the folder of images (--images) does not exist"),
        ({"data": tmp_path / "nowhere"}, "nowhere"),
        ({"train": train, "val": small / "nothing.json"}, "nothing.json"),
        ({"train": train, "val": train}, "move it from one of the two"),
    ):
        with pytest.raises(ValueError) as error:
            load_data(TrainDetector(**options), QUIET)
        assert message in str(error.value), options


@pytest.mark.parametrize(
    ("split", "message"),
    [("train", "no objects to learn in 8 images"), ("val", "no objects to evaluate a model on in 5")],
)
def test_a_set_without_objects_is_refused(small, tmp_path, split, message):
    """Crowds are none."""
    data = shutil.copytree(small, tmp_path / "data")
    content = json.loads((data / f"{split}.json").read_text())
    for left in ([], [annotation | {"iscrowd": 1} for annotation in content["annotations"]]):
        (data / f"{split}.json").write_text(json.dumps(content | {"annotations": left}))
        with pytest.raises(ValueError, match=rf"{split}\.json: there are {message}"):
            DetectorTask(TrainDetector(data=data), QUIET).load()


@pytest.mark.parametrize("packed", [False, True])
def test_normalisation_by_the_training_images_is_trained_saved_and_loaded(tmp_path, packed):
    data = write_small_set(tmp_path / "data")
    splits = read_dataset(data)
    if packed:
        write_pack(tmp_path / "data.h5", splits, 64)
        splits = read_dataset(tmp_path / "data.h5")
    images = images_of(splits["train"], 64)
    pixels = np.concatenate([images[i].reshape(-1, 3) for i in range(len(images))]) / 255
    with untimed():
        run = train(
            TrainDetector(
                data=tmp_path / "data.h5" if packed else data,
                output=tmp_path / "run",
                backbone="test_efficientnet",
                weights="none",
                size=64,
                epochs=1,
                precision="fp32",
                normalise="dataset",
            )
        )
    model, description = load_model(run.folder)
    wanted = description["architecture"]["normalisation"]
    for name, values in (("mean", pixels.mean(0)), ("std", pixels.std(0))):
        np.testing.assert_allclose(wanted[name], values, atol=0.01)
        np.testing.assert_allclose(getattr(model, name).flatten(), wanted[name], atol=1e-6)
    with pytest.raises(ValueError, match="must be 3 numbers each, std above 0"):
        model.set_normalisation([0.5] * 3, [0.5, 0, 0.5])
