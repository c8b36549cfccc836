"""`detseg train classifier`: the whole command on a tiny set, each strategy, every form of data, resuming."""

import csv
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from rich.console import Console

import detseg
from detseg.cli import main
from detseg.data.augment.classification_transforms import ClassificationEval
from detseg.data.crops import crops_of
from detseg.data.dataset import ClassificationDataset
from detseg.data.formats import read_dataset, read_labelled_dataset, read_labels
from detseg.data.images import read_image
from detseg.data.pack.datasets import write_pack
from detseg.models import build_model, load_model
from detseg.predict import ImageClassifier
from detseg.predict.classifier import classify
from detseg.train.config import TrainClassifier
from detseg.train.runner import train
from detseg.train.sampler import TrainingSamples
from detseg.train.tasks.classifier import open_labelled
from detseg.train.tasks.transfer import extract
from tests.data.annotation_samples import write_picture
from tests.evaluating import evaluate
from tests.small_set import write_small_set
from tests.train.runs import differences, state_of

QUICK = (
    "--backbone",
    "test_efficientnet",
    "--weights",
    "none",
    "--size",
    "64",
    "--batch-size",
    "4",
    "--precision",
    "fp32",
)


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Class folders: rectangles of two kinds, each with a bit of its surroundings."""
    folder = tmp_path_factory.mktemp("crops")
    boxes = write_small_set(folder / "boxes", train=10, val=5)
    for split, data in read_dataset(boxes).items():
        crops_of(data, folder / "crops" / split, margin=0.3, min_side=4)
    return folder / "crops"


@pytest.fixture
def weights(tmp_path):
    """A file of weights for the backbone: as good as trained ones, to the code."""
    torch.manual_seed(0)
    model = build_model({"kind": "classifier", "backbone": "test_efficientnet", "num_classes": 2})
    model.train()
    with torch.no_grad():
        for _ in range(20):  # norms that remember
            model.features(torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8))
    path = tmp_path / "weights.pt"
    torch.save({n.removeprefix("net."): t for n, t in model.backbone.state_dict().items()}, path)
    return path


def error_of(capsys, *arguments):
    assert main(["train", "classifier", *map(str, arguments)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    return printed.err


def test_the_whole_command(crops, tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["--data", str(crops), *QUICK, "--epochs", "12", "--lr", "0.02", "--accumulate", "2", "--find-lr"]
    assert main(["train", "classifier", *words, "--output", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training on 19 images of 2 classes, validating on 8"
    assert lines[1] == "labels: 0=bar, 1=square"
    assert "strategy: scratch; there are no trained weights to build on" in lines
    assert any("batches of 4 x 2, 0 of 5 backbone stages frozen" in line for line in lines)
    assert any(line.startswith("learning rate: ") for line in lines)
    assert lines[-1] == f"use it: detseg predict {folder} image.jpg"
    images = {"worst.jpg", "samples.jpg", "confusion.png", "class_accuracy.png", "history.png", "learning_rate.png"}
    assert images < {path.name for path in folder.iterdir()}
    page = (folder / "report.html").read_text()
    assert all(f'src="{image}"' in page for image in images)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    description = json.loads((folder / "model.json").read_text())
    assert description["training"]["top1"] == max(float(row["top1"]) for row in rows) == 1.0
    assert [c["name"] for c in description["categories"]] == ["bar", "square"]


def test_a_trained_classifier_predicts(crops, tmp_path, at_once):
    run = train(config(crops, tmp_path, epochs=10, lr=0.02))
    model = detseg.load(run.folder)
    assert isinstance(model, ImageClassifier)
    val = read_labelled_dataset(crops)["val"]
    found = model.predict([str(path) for path in val.paths])
    assert [model.names[one.labels[0]] for one in found] == [val.names[label] for label in val.labels]
    for one in found:
        assert sorted(one.labels.tolist()) == [0, 1]
        assert (np.diff(one.scores) <= 0).all()
        assert one.scores.sum() == pytest.approx(1, abs=1e-5)
    ten = model.predict([str(path) for path in val.paths], ten_crop=True, batch_size=20)
    assert [one.scores[0] for one in ten] != [one.scores[0] for one in found]
    # The same as the mean by hand.
    from detseg.data.augment.classification_transforms import TenCrop

    crops_by_hand = TenCrop(model.size)(read_image(str(val.paths[0])))
    with torch.no_grad():
        images = torch.from_numpy(crops_by_hand).permute(0, 3, 1, 2)
        wanted = model.model(images).softmax(1).mean(0)
    assert torch.allclose(torch.from_numpy(ten[0].scores), wanted[ten[0].labels.tolist()], atol=1e-5)


def config(data, tmp_path, **settings):
    given = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "batch_size": 4, "epochs": 1}
    return TrainClassifier(data=data, output=tmp_path / "run", **(given | settings))


def test_a_probe_changes_nothing_but_the_head(crops, weights, tmp_path, capsys):
    words = ["--data", str(crops), "--backbone", "test_efficientnet", "--weights", str(weights), "--size", "64"]
    folder = tmp_path / "run"
    assert main(["train", "classifier", *words, "--strategy", "probe", "--output", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "strategy: probe; as asked for" in lines
    assert any(line.startswith("head: solved on 64 features of 2 x 19 views") for line in lines)
    assert "only the head learns, and it is solved at once" in lines
    assert not any(line.startswith("precision") for line in lines)
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["strategy"], settings["freeze"], settings["head"]) == ("probe", 5, "first")
    architecture = json.loads((folder / "model.json").read_text())["architecture"]
    before = build_model(architecture, pretrained=weights).eval().backbone
    after = load_model(folder)[0].backbone
    assert differences(dict(before.state_dict()), dict(after.state_dict())) == []
    assert json.loads((folder / "model.json").read_text())["training"]["step"] == 0
    # Resuming a finished run shows it again.
    assert main(["train", "classifier", "--resume", str(folder)]) == 0
    again = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("head: solved") for line in again)
    assert any("accuracy" in line for line in again)


def test_settings_without_effect_are_named(crops, weights, tmp_path, capsys):
    words = ["--data", str(crops), "--backbone", "test_efficientnet", "--weights", str(weights), "--size", "64"]
    words += ["--freeze", "all", "--output", str(tmp_path / "run"), "--lr", "0.1", "--find-lr", "--precision", "fp32"]
    assert main(["train", "classifier", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "only the head learns, and it is solved at once; without effect: --lr, --find-lr, --precision" in lines


@pytest.mark.parametrize(
    ("strategy", "frozen", "head", "backbone_lr", "stage_decay"),
    [("partial", 2, "first", 0.3, 0.7), ("finetune", 0, "first", 0.3, 0.5), ("full", 0, "first", 1.0, 1.0)],
)
def test_strategies_fill_in_what_was_not_given(
    crops, weights, tmp_path, at_once, strategy, frozen, head, backbone_lr, stage_decay
):
    run = train(config(crops, tmp_path, weights=str(weights), strategy=strategy))
    filled = run.config
    assert (filled.freeze, filled.head) == (frozen, head)
    assert (filled.lr, filled.backbone_lr, filled.stage_decay) == (3e-4, backbone_lr, stage_decay)
    assert TrainClassifier.load(run.folder) == filled
    shutil.rmtree(run.folder)
    given = config(
        crops, tmp_path, weights=str(weights), strategy=strategy, freeze="none", head="together", backbone_lr=0.5
    )
    kept = train(given).config
    assert (kept.freeze, kept.head, kept.backbone_lr, kept.stage_decay) == ("none", "together", 0.5, stage_decay)


def test_auto_looks_at_the_images_and_says_why(crops, weights, tmp_path, capsys, at_once):
    words = ["--data", str(crops), "--backbone", "test_efficientnet", "--weights", str(weights), "--size", "64"]
    assert main(["train", "classifier", *words, "--epochs", "1", "--output", str(tmp_path / "run")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("strategy: ")]
    # 10 flat images a class are few, and unlike the noise that the norms have seen.
    assert line.startswith("strategy: partial; 10 images a class are few")
    assert "they are unlike those of the pretraining" in line


def test_frozen_stages_stay_and_early_ones_learn_slowly(crops, weights, tmp_path, at_once):
    settings = {"weights": str(weights), "strategy": "finetune", "freeze": 2, "stage_decay": 0.1, "lr": 1e-3}
    run = train(config(crops, tmp_path, epochs=2, **settings))
    architecture = json.loads((run.folder / "model.json").read_text())["architecture"]
    before, after = build_model(architecture, pretrained=weights).backbone, load_model(run.folder)[0].backbone
    moved = []
    for old, new in zip(before.stages, after.stages, strict=True):
        pairs = [
            (a, b) for m, n in zip(old, new, strict=True) for a, b in zip(m.parameters(), n.parameters(), strict=True)
        ]
        moved.append(max(float((a - b).abs().max()) for a, b in pairs))
    assert moved[:2] == [0, 0]
    assert 0 < moved[2] < moved[3] < moved[4]


def test_stopped_and_resumed_is_the_same(crops, weights, tmp_path, at_once, monkeypatch, capsys):
    def words(name):
        given = ["--data", str(crops), "--backbone", "test_efficientnet", "--weights", str(weights), "--size", "64"]
        return [
            *given,
            "--strategy",
            "finetune",
            "--epochs",
            "3",
            "--batch-size",
            "4",
            "--output",
            str(tmp_path / name),
        ]

    assert main(["train", "classifier", *words("whole")]) == 0
    take, taken = ClassificationDataset.__getitem__, []

    def counted(self, index):
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # training has begun: head and sheet are done
            taken.append(index)
        if len(taken) == 22:  # in the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationDataset, "__getitem__", counted)
        assert main(["train", "classifier", *words("parts")]) == 130
    assert 1 <= state_of(tmp_path / "parts")["step"] < 12
    assert (tmp_path / "parts/samples.jpg").stat().st_size > 2000
    assert main(["train", "classifier", "--resume", str(tmp_path / "parts")]) == 0
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "parts")) == []


def form(kind, crops, folder):
    if kind == "two folders":
        return {"train": crops / "train", "val": crops / "val"}
    splits = read_labelled_dataset(crops)
    if kind == "packed":
        write_pack(folder / "pack.h5", splits, size=96)
        return {"data": folder / "pack.h5"}
    if kind == "table":
        rows = [
            f"{path},{data.names[label]},{split}"
            for split, data in splits.items()
            for path, label in zip(data.paths, data.labels, strict=True)
        ]
        (folder / "table.csv").write_text("path,class,split\n" + "\n".join(rows) + "\n")
        return {"data": folder / "table.csv"}
    if kind == "undivided":
        return {"data": crops / "train", "split": (0.6, 0.4), "split_seed": 3}
    return {"data": crops}


@pytest.mark.parametrize("kind", ["folders", "two folders", "table", "packed", "undivided"])
def test_every_form_of_data_trains(kind, crops, tmp_path, at_once):
    settings = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 1, "batch_size": 8}
    run = train(TrainClassifier(output=tmp_path / "run", **form(kind, crops, tmp_path), **settings))
    assert run.data.names == ("bar", "square")
    assert len(run.train) == (11 if kind == "undivided" else 19)
    assert run.predictions.shape == (8, 2)
    assert evaluate("classifier", load_model(run.folder)[0], run.val, 64)[0].top1 == run.metrics.top1


def test_ten_crops_judge(crops, tmp_path, at_once):
    run = train(config(crops, tmp_path, ten_crop=True))
    model = load_model(run.folder)[0]
    assert np.allclose(run.predictions, evaluate("classifier", model, run.val, 64, ten_crop=True)[1], atol=1e-5)
    assert not np.allclose(run.predictions, evaluate("classifier", model, run.val, 64)[1], atol=1e-5)


def test_lenet5_is_trained_at_its_own_size(crops, tmp_path, at_once, monkeypatch):
    sizes, take = set(), TrainingSamples.__getitem__
    monkeypatch.setattr(
        TrainingSamples, "__getitem__", lambda self, request: (sizes.add(request.size), take(self, request))[1]
    )
    run = train(config(crops, tmp_path, backbone="lenet5", size=32))
    assert sizes == {32}
    assert detseg.load(run.folder).size == 32


def test_augmentations_by_name(crops, tmp_path, at_once):
    assert train(config(crops, tmp_path, augment=("warp", "patch"))).config.augment == ("warp", "patch")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "either as --data or as --train and --val"),
        ("--data D --size 100", "multiple of 32"),
        ("--data D --size 16", "at least 32, not 16; 32 is near"),
        ("--data D --accumulate 0", "--accumulate must be positive"),
        ("--data D --stage-decay 0", "--stage-decay must be positive"),
        ("--data D --views 0", "--views must be positive"),
        ("--data D --dropout 1", "--dropout is a share"),
        ("--data D --label-smoothing -1", "--label-smoothing is a share"),
        ("--data D --weights none --strategy probe", "leave out --weights none"),
        ("--data D --weights none --augment rotat", "no augmentation 'rotat'; did you mean rotate"),
        ("--data D --weights none --backbone test_efficientnet --freeze 9", "has 5 stages"),
        ("--data nowhere", "nowhere: does not exist"),
        ("--data D/train/bar", "no labelled images"),
        ("--train D/train --val D/train", "move it from one of the two"),
        ("--data D --split 0.5 0.2", "together 1"),
    ],
)
def test_mistakes_are_told_in_a_line(crops, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    if "--split" in arguments:
        arguments = arguments.replace("D", "D/train")
    assert message in error_of(capsys, *arguments.replace("D", str(crops)).split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("--data D --split 0.5 0.5", "D: is divided already, into train, val; leave out --split"),
        ("--train D/train --val D/val --split-seed 3", "--split-seed: for --data that are not divided; leave it out"),
        ("--data FEW", "FEW: the val split has no images to evaluate a model on"),
    ],
)
def test_divisions_that_come_to_nothing_are_told(crops, tmp_path, capsys, data, message):
    for kind in ("bar", "square"):
        shutil.copytree(crops / "train" / kind, tmp_path / kind)
        for path in sorted((tmp_path / kind).iterdir())[1:]:
            path.unlink()
    places = {"D": str(crops), "FEW": str(tmp_path)}
    words = [re.sub("FEW|^D(?=$|/|:)", lambda match: places[match[0]], word) for word in data.split()]
    message = re.sub("FEW|^D(?=:)", lambda match: places[match[0]], message)
    assert message in error_of(capsys, *words, *QUICK, "--output", tmp_path / "run")


def test_a_process_without_images_has_nothing_to_give(crops):
    model = build_model({"kind": "classifier", "backbone": "test_efficientnet", "num_classes": 2}).eval()
    assert list(classify(model, [], 64)) == []
    assert extract(model, [], None).shape == (0, model.classifier.in_features)


def test_images_with_errors_are_left_out_if_asked_for(crops, tmp_path, capsys, at_once):
    data = tmp_path / "data"
    shutil.copytree(crops, data)
    broken = next((data / "train" / "bar").iterdir())
    broken.write_bytes(b"no image")
    words = ["--data", data, *QUICK, "--epochs", "1"]
    assert str(broken) in error_of(capsys, *words)
    assert main(["train", "classifier", *map(str, words), "--repair", "--output", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"repaired: {data}/train: 1 of 19 images, which have errors, left out" in lines
    assert lines[1] == "training on 18 images of 2 classes, validating on 8"


def test_classes_that_training_does_not_have_are_refused(crops, tmp_path, capsys):
    shutil.copytree(crops / "val", tmp_path / "val")
    (tmp_path / "val" / "bar").rename(tmp_path / "val" / "zebra")
    error = error_of(capsys, "--train", crops / "train", "--val", tmp_path / "val")
    assert "zebra" in error


def test_validation_folders_without_some_class_are_matched_by_name(crops, tmp_path, at_once):
    shutil.copytree(crops / "train", tmp_path / "train")
    shutil.copytree(crops / "train" / "bar", tmp_path / "train" / "aaa")
    for path in (tmp_path / "train" / "aaa").iterdir():  # other images, or they would be there twice
        path.write_bytes(path.read_bytes() + b"\0")
    settings = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 1, "batch_size": 8}
    run = train(TrainClassifier(train=tmp_path / "train", val=crops / "val", output=tmp_path / "run", **settings))
    assert run.val.labelled.names == ("aaa", "bar", "square")
    assert sorted(set(run.val.labelled.labels.tolist())) == [1, 2]


@pytest.mark.parametrize(("width", "height"), [(256, 128), (110, 260), (200, 150)])
def test_long_images_are_judged_as_they_are_predicted(tmp_path, width, height):
    """What is cut from the kept image is what is cut from its file."""
    path, _ = (write_picture(tmp_path / "data" / name / "long.png", width, height) for name in ("bar", "square"))
    data = open_labelled(read_labels(tmp_path / "data"), 64, "images", Console(quiet=True))
    seen, wanted = (ClassificationEval(64)(image) for image in (data[0][0], read_image(str(path))))
    np.testing.assert_array_equal(seen, wanted)
