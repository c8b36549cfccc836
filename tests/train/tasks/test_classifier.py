"""The classifier's data in every form and what is wrong with them, its strategies of transfer, its augmentations."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from detseg.data.augment.classification_transforms import ClassificationEval
from detseg.data.formats import read_labelled_dataset, read_labels
from detseg.data.images import read_image
from detseg.data.pack.datasets import write_pack
from detseg.models import build_model
from detseg.predict.classifier import classify
from detseg.train.config import TrainClassifier
from detseg.train.process import process
from detseg.train.runner import describe
from detseg.train.tasks.classifier import ClassifierTask, augmentation_of, load_labelled_data, open_labelled
from detseg.train.tasks.transfer import extract, resolve
from tests.data.annotation_samples import write_picture
from tests.evaluating import evaluate

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights for the backbone: as good as trained ones, to the code."""
    return write_weights(tmp_path_factory.mktemp("weights") / "weights.pt")


def write_weights(path):
    """Random weights, with norms that remember noise."""
    torch.manual_seed(0)
    model = build_model({"kind": "classifier", "backbone": "test_efficientnet", "num_classes": 2})
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model.features(torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8))
    torch.save({n.removeprefix("net."): t for n, t in model.backbone.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def opened(crops):
    """The training images, read."""
    return open_labelled(read_labelled_dataset(crops)["train"], 64, "images", QUIET)


def config(**settings):
    given = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "batch_size": 4, "epochs": 1}
    return TrainClassifier(**(given | settings))


# ------------------------------------------------------------------ data


def in_every_form(crops, folder):
    """Name and options of the same images in each form."""
    yield "folders", {"data": crops}
    yield "two folders", {"train": crops / "train", "val": crops / "val"}
    splits = read_labelled_dataset(crops)
    write_pack(folder / "pack.h5", splits, size=96)
    yield "packed", {"data": folder / "pack.h5"}
    rows = [
        f"{path},{data.names[label]},{split}"
        for split, data in splits.items()
        for path, label in zip(data.paths, data.labels, strict=True)
    ]
    (folder / "table.csv").write_text("path,class,split\n" + "\n".join(rows) + "\n")
    yield "table", {"data": folder / "table.csv"}


def test_every_form_of_data(crops, tmp_path):
    for kind, where in in_every_form(crops, tmp_path):
        train, val = ClassifierTask(TrainClassifier(**where), QUIET).load()
        assert train.names == val.names == ("bar", "square"), kind
        assert (train.counts.tolist(), val.counts.tolist()) == ([9, 10], [4, 4]), kind
    train, val = ClassifierTask(config(data=crops / "train", split=(0.6, 0.4), split_seed=3), QUIET).load()
    assert (len(train), len(val)) == (11, 8)


def test_mistakes(crops, tmp_path):
    for kind in ("bar", "square"):
        (tmp_path / "few" / kind).mkdir(parents=True)
        shutil.copy(min((crops / "train" / kind).iterdir()), tmp_path / "few" / kind)
    shutil.copytree(crops / "val", tmp_path / "other")
    (tmp_path / "other/bar").rename(tmp_path / "other/zebra")
    for options, message in (
        ({"data": tmp_path / "nowhere"}, "nowhere: does not exist"),
        ({"data": crops / "train/bar"}, "no labelled images"),
        ({"train": crops / "train", "val": crops / "train"}, "move it from one of the two"),
        ({"train": crops / "train", "val": tmp_path / "other"}, "zebra"),
        ({"data": crops / "train", "split": (0.5, 0.2)}, "together 1"),
        ({"data": crops, "split": (0.5, 0.5)}, f"{crops}: is divided already, into train, val; leave out --split"),
        ({"data": tmp_path / "few"}, f"{tmp_path / 'few'}: the val split has no images to evaluate a model on"),
        ({"data": crops, "augment": ("rotat",)}, "no augmentation 'rotat'; did you mean rotate"),
    ):
        with pytest.raises(ValueError) as error:
            ClassifierTask(TrainClassifier(**options), QUIET).load()
        assert message in str(error.value), options


def test_validation_folders_without_some_class_are_matched_by_name(crops, tmp_path):
    shutil.copytree(crops / "train", tmp_path / "train")
    shutil.copytree(crops / "train" / "bar", tmp_path / "train" / "aaa")
    for path in (tmp_path / "train" / "aaa").iterdir():  # other images, or they would be there twice
        path.write_bytes(path.read_bytes() + b"\0")
    val = load_labelled_data(TrainClassifier(train=tmp_path / "train", val=crops / "val"), QUIET)["val"]
    assert val.names == ("aaa", "bar", "square")
    assert sorted(set(val.labels.tolist())) == [1, 2]


def test_images_with_errors_are_left_out_if_asked_for(crops, tmp_path):
    data = shutil.copytree(crops, tmp_path / "data")
    broken = next((data / "train" / "bar").iterdir())
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=str(broken)):
        ClassifierTask(TrainClassifier(data=data), QUIET).load()
    console = Console(file=io.StringIO(), width=200)
    ClassifierTask(TrainClassifier(data=data, repair=True), console).load()
    lines = console.file.getvalue().splitlines()
    assert f"repaired: {data}/train: 1 of 19 images, which have errors, left out" in lines
    assert "training on 18 images of 2 classes, validating on 8" in lines


def test_long_images_are_evaluated_as_they_are_predicted(tmp_path):
    """What is cut from the kept image is what is cut from its file."""
    for width, height in ((256, 128), (110, 260), (200, 150)):
        folder = tmp_path / f"{width}"
        path, _ = (write_picture(folder / name / "long.png", width, height) for name in ("bar", "square"))
        data = open_labelled(read_labels(folder), 64, "images", QUIET)
        seen, wanted = (ClassificationEval(64)(image) for image in (data[0][0], read_image(str(path))))
        np.testing.assert_array_equal(seen, wanted, err_msg=f"{width} x {height}")


def test_evaluation_on_ten_crops(opened):
    model = build_model({"kind": "classifier", "backbone": "test_efficientnet", "num_classes": 2}).eval()
    task = ClassifierTask(config(ten_crop=True), QUIET)
    found = task.joined(list(task.predict(model, opened, range(len(opened)))))
    assert np.allclose(found, evaluate("classifier", model, opened, 64, ten_crop=True)[1], atol=1e-5)
    assert not np.allclose(found, evaluate("classifier", model, opened, 64)[1], atol=1e-5)


def test_a_process_without_images_has_nothing_to_give():
    model = build_model({"kind": "classifier", "backbone": "test_efficientnet", "num_classes": 2}).eval()
    assert list(classify(model, [], 64)) == []
    assert extract(model, [], None).shape == (0, model.classifier.in_features)


def test_augmentations_by_name():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    plain, named = (augmentation_of(config(augment=names, flip="none"))(64) for names in (("none",), ("warp", "patch")))
    (same, label), (other, _) = (a((image, 1), np.random.default_rng(2)) for a in (plain, named))
    assert label == 1 and other.shape == same.shape and not np.array_equal(other, same)


# ------------------------------------------------------------------ strategies


def resolved(given, opened):
    """The options with what the strategy decides filled in, and the line that says why."""
    console = Console(file=io.StringIO(), width=200)
    with process(given, console) as this:
        return resolve(this, opened, describe(given, opened.labelled)), console.file.getvalue().splitlines()[-1]


def test_strategies_fill_in_what_was_not_given(crops, opened, weights):
    for strategy, frozen, backbone_lr, stage_decay in (
        ("probe", 5, 0.1, 1.0),
        ("partial", 2, 0.3, 0.7),
        ("finetune", 0, 0.3, 0.5),
        ("full", 0, 1.0, 1.0),
    ):
        asked = config(data=crops, weights=str(weights), strategy=strategy)
        filled, printed = resolved(asked, opened)
        assert printed == f"strategy: {strategy}; as asked for"
        lr = 1e-3 if strategy == "probe" else 3e-4
        wanted = {
            "freeze": frozen,
            "fit_head": "first",
            "lr": lr,
            "backbone_lr": backbone_lr,
            "stage_decay": stage_decay,
        }
        assert filled == replace(asked, **wanted), strategy
        own = replace(asked, freeze="none", fit_head="together", backbone_lr=0.5)
        assert resolved(own, opened)[0] == replace(own, lr=lr, stage_decay=stage_decay), strategy


def test_auto_looks_at_the_images_and_prints_why(crops, opened, weights):
    # 10 flat images a class are few, and unlike the noise that the norms have seen.
    filled, line = resolved(config(data=crops, weights=str(weights)), opened)
    assert filled.strategy == "partial"
    assert line.startswith("strategy: partial; 10 images a class are few")
    assert "they are unlike those of the pretraining" in line
    filled, line = resolved(config(data=crops), opened)
    assert (filled.strategy, filled.freeze, filled.fit_head) == ("scratch", 0, "together")
    assert line == "strategy: scratch; there are no trained weights to build on"
