"""`detseg train classifier`: the whole command on a tiny set, a probe, its mistakes, stopping and resuming."""

import csv
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch

import detseg
from detseg.cli import main
from detseg.data.augment.classification_transforms import TenCrop
from detseg.data.dataset import ClassificationDataset
from detseg.data.formats import read_labelled_dataset
from detseg.data.images import read_image
from detseg.models import build_model, load_model
from detseg.predict import ImageClassifier
from detseg.train.config import TrainClassifier
from detseg.train.runner import train
from detseg.train.sampler import TrainingSamples
from tests.cli.conftest import QUICK
from tests.train.runs import differences, state_of
from tests.train.tasks.test_classifier import write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights for the backbone."""
    return write_weights(tmp_path_factory.mktemp("weights") / "weights.pt")


def test_the_whole_command(classifier):
    folder, lines = classifier.folder, classifier.output.splitlines()
    assert lines[0] == "training on 19 images of 2 classes, validating on 8"
    assert lines[1] == "labels: 0=bar, 1=square"
    assert "strategy: scratch; there are no trained weights to build on" in lines
    assert any("batches of 4 x 2, 0 of 5 backbone stages frozen" in line for line in lines)
    assert any(line.startswith("learning rate: ") for line in lines)
    assert lines[-1] == f"use it: detseg predict '{folder}' image.jpg"
    images = {"worst.jpg", "samples.jpg", "confusion.png", "class_accuracy.png", "history.png", "learning_rate.png"}
    assert images < {path.name for path in folder.iterdir()}
    page = (folder / "report.html").read_text()
    assert all(f'src="{image}"' in page for image in images)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    description = json.loads((folder / "model.json").read_text())
    assert description["training"]["top1"] == max(float(row["top1"]) for row in rows) == 1.0
    assert [c["name"] for c in description["categories"]] == ["bar", "square"]


def test_a_trained_classifier_predicts(classifier, crops):
    model = detseg.load(classifier.folder)
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
    crops_by_hand = TenCrop(model.size)(read_image(str(val.paths[0])))
    with torch.no_grad():
        images = torch.from_numpy(crops_by_hand).permute(0, 3, 1, 2)
        wanted = model.model(images).softmax(1).mean(0)
    assert torch.allclose(torch.from_numpy(ten[0].scores), wanted[ten[0].labels.tolist()], atol=1e-5)


@pytest.mark.slow
def test_a_probe_changes_nothing_but_the_head(crops, weights, tmp_path, capsys):
    words = ["--data", str(crops), *QUICK, "--weights", str(weights)]
    folder = tmp_path / "run"
    assert main(["train", "classifier", *words, "--strategy", "probe", "--lr", "0.1", "--output", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "strategy: probe; as asked for" in lines
    assert any(line.startswith("head: solved on 64 features of 2 x 19 views") for line in lines)
    without = "only the head learns, and it is solved at once; without effect: --batch-size, --lr, --precision"
    assert without in lines, "settings that mean nothing then are named"
    assert not any(line.startswith("precision") for line in lines)
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["strategy"], settings["freeze"], settings["fit_head"]) == ("probe", 5, "first")
    description = json.loads((folder / "model.json").read_text())
    before = build_model(description["architecture"], pretrained=weights).eval().backbone
    after = load_model(folder)[0].backbone
    assert differences(dict(before.state_dict()), dict(after.state_dict())) == []
    assert description["training"]["step"] == 0
    # Resuming a finished run shows it again.
    assert main(["train", "classifier", "--resume", str(folder)]) == 0
    again = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("head: solved") for line in again)
    assert any("accuracy" in line for line in again)


@pytest.mark.slow
def test_stopped_and_resumed_is_the_same(crops, weights, tmp_path, monkeypatch):
    """Stages that are frozen stay, and early ones learn slowly."""

    def words(name):
        given = ["--data", str(crops), *QUICK, "--weights", str(weights), "--strategy", "finetune", "--epochs", "3"]
        return [*given, "--freeze", "2", "--stage-decay", "0.1", "--lr", "1e-3", "--output", str(tmp_path / name)]

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
    architecture = json.loads((tmp_path / "whole/model.json").read_text())["architecture"]
    before, after = build_model(architecture, pretrained=weights).backbone, load_model(tmp_path / "whole")[0].backbone
    moved = []
    for old, new in zip(before.stages, after.stages, strict=True):
        modules = zip(old, new, strict=True)
        pairs = [pair for m, n in modules for pair in zip(m.parameters(), n.parameters(), strict=True)]
        moved.append(max(float((a - b).detach().abs().max()) for a, b in pairs))
    assert moved[:2] == [0, 0]
    assert 0 < moved[2] < moved[3] < moved[4]


def test_lenet5_is_trained_at_its_own_size(crops, tmp_path, monkeypatch):
    sizes, take = set(), TrainingSamples.__getitem__
    monkeypatch.setattr(
        TrainingSamples, "__getitem__", lambda self, request: (sizes.add(request.size), take(self, request))[1]
    )
    config = TrainClassifier(
        data=crops, output=tmp_path / "run", backbone="lenet5", weights="none", size=32, epochs=1, batch_size=8
    )
    run = train(config)
    assert sizes == {32}
    assert detseg.load(run.folder).size == 32


def test_a_mistake_is_one_line(crops, tmp_path, monkeypatch, capsys):
    """Of options, of data, of the network: nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    network = "--data D --weights none --backbone test_efficientnet"
    for arguments, message in (
        ("--data D --size 16", "at least 32, not 16; 32 is near"),
        ("--data nowhere", "nowhere: does not exist"),
        ("--data D/train --split 0.5 0.2", "together 1"),
        (f"{network} --augment rotat", "no augmentation 'rotat'; did you mean rotate"),
        (f"{network} --freeze 9", "has 5 stages"),
    ):
        assert main(["train", "classifier", *arguments.replace("D", str(crops)).split()]) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error, arguments
        assert list(tmp_path.iterdir()) == [], arguments


@pytest.mark.slow
def test_images_with_errors_are_left_out_if_asked_for(crops, tmp_path, capsys):
    data = shutil.copytree(crops, tmp_path / "data")
    next((data / "train" / "bar").iterdir()).write_bytes(b"no image")
    words = ["--data", str(data), *QUICK, "--epochs", "1", "--repair", "--output", str(tmp_path / "run")]
    assert main(["train", "classifier", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"repaired: {data}/train: 1 of 19 images, which have errors, left out" in lines
    assert lines[1] == "training on 18 images of 2 classes, validating on 8"
