"""`detseg train localizer`: the whole command on a tiny set, objectness, predicting, stopping and resuming."""

import csv
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest

import detseg
from detseg.cli import main
from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_dataset
from detseg.predict import Detector
from detseg.train.config import TrainLocalizer
from detseg.train.runner import train
from tests.cli.conftest import QUICK
from tests.evaluating import evaluate
from tests.train.runs import differences, state_of
from tests.train.tasks.test_localizer import half, single  # noqa: F401


def rows_of(folder):
    """What is logged in `metrics.csv`, and of the best model in `model.json`."""
    with (folder / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return rows, json.loads((folder / "model.json").read_text())["training"]


def test_the_whole_command(single, tmp_path, capsys):  # noqa: F811
    folder = tmp_path / "run"
    words = ["--data", str(single), *QUICK, "--epochs", "10", "--lr", "0.01", "--backbone-lr", "1"]
    assert main(["train", "localizer", *words, "--objects", "single", "--output", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{single}/train.json: 1 images without exactly one object are left out" in lines
    assert f"{single}/val.json: 2 images without exactly one object are left out" in lines
    assert "training on 7 images with 7 objects, validating on 3 images with 3 objects" in lines
    assert lines[-1] == f"use it: detseg predict {folder} image.jpg"
    page = (folder / "report.html").read_text()
    assert all(f'src="{image}"' in page for image in ("worst.jpg", "samples.jpg", "history.png"))
    rows, best = rows_of(folder)
    chosen = max(reversed(rows), key=lambda row: row["mean_iou"])  # the last of equals
    assert best["mean_iou"] == chosen["mean_iou"] >= rows[0]["mean_iou"]
    assert best["accuracy"] == chosen["accuracy"]
    assert any(f"{best['mean_iou']:.3f}" in line for line in lines)


def test_it_predicts_like_a_detector(localizer, small):
    model = detseg.load(localizer.folder)
    assert isinstance(model, Detector)
    data = read_dataset(small)["val"]
    found = model.predict([str(path) for path in data.paths], score_threshold=0)
    seen = evaluate("localizer", model.model, DetectionDataset(data, 64), 64)[1]
    for one, other, (width, height) in zip(found, seen, data.sizes, strict=True):
        assert one["boxes"].shape == (1, 4)
        assert np.allclose(one["boxes"], other["boxes"], atol=1.0)  # the cache has the images shrunk
        x1, y1, x2, y2 = one["boxes"][0]
        assert 0 <= x1 <= x2 <= width
        assert 0 <= y1 <= y2 <= height


@pytest.mark.slow
def test_objectness_decides_on_the_best_model(half, tmp_path, capsys, caplog):  # noqa: F811
    folder = tmp_path / "run"
    words = ["--data", str(half), *QUICK, "--epochs", "8", "--lr", "0.01", "--backbone-lr", "1", "--objectness"]
    words += ["--loss", "mse", "--no-square-root"]
    assert main(["train", "localizer", *words, "--output", str(folder)]) == 0
    rows, best = rows_of(folder)
    for row in rows:
        assert row["quality"] == pytest.approx((row["mean_iou"] + row["objectness"]) / 2)
    assert best["quality"] == max(row["quality"] for row in rows)
    assert best["objectness"] in [row["objectness"] for row in rows] and 0 <= best["objectness"] <= 1
    architecture = json.loads((folder / "model.json").read_text())["architecture"]
    assert (architecture["objectness"], architecture["loss"], architecture["square_root"]) == (True, "mse", False)
    out = capsys.readouterr().out
    assert "images with an object: 3, without: 2" in " ".join(out.split())
    assert f"objectness {best['objectness']:.3f}" in " ".join(re.sub("[│┃]", " ", out).split())
    assert "objectness" in (folder / "report.html").read_text()
    assert "--objectness" not in caplog.text, "there is nothing to warn of"


def test_objectness_is_that_of_the_scores(half, tmp_path):  # noqa: F811
    settings = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "batch_size": 4, "epochs": 2}
    run = train(TrainLocalizer(data=half, output=tmp_path / "run", objectness=True, **settings))
    scores = [float(found["scores"][0]) for found in run.predictions]
    pairs = [(a > b) + (a == b) / 2 for a in scores[:3] for b in scores[3:]]
    assert run.metrics.objectness == pytest.approx(np.mean(pairs))
    assert run.metrics.quality == pytest.approx((run.metrics.mean_iou + run.metrics.objectness) / 2)


def test_objectness_that_cannot_be_measured_is_not_logged(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "all")
    content = json.loads((folder / "val.json").read_text())
    (folder / "val.json").write_text(json.dumps(content | {"images": content["images"][:4]}))
    settings = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 1, "objectness": True}
    run = train(TrainLocalizer(data=folder, output=tmp_path / "run", **settings))
    assert "objectness" not in run.metrics.figures() and run.metrics.mean_iou > 0
    row = (run.folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "mean_iou" in row and "objectness" not in row and "loss_objectness" in row


def test_samples_are_drawn_as_they_are_trained_on(small, tmp_path, monkeypatch):
    from detseg.report.pages.localizer import LocalizerPage
    from detseg.report.pictures import some_of
    from detseg.train import runner
    from detseg.train.sampler import Request

    given, drawn, make = [], [], runner.make_trainer
    monkeypatch.setattr(runner, "make_trainer", lambda *args, **names: (given.append(args[3]), make(*args, **names))[1])
    monkeypatch.setattr("detseg.report.pages.boxes.draw_boxes", lambda image, *_, **__: drawn.append(image) or image)
    settings = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 1, "zoom": (2.0, 3.0)}
    config = TrainLocalizer(data=small, output=tmp_path / "run", **settings)
    run = train(config, draw=lambda run: LocalizerPage(run).draw_training())
    assert len(drawn) == len(run.train) == 8
    for position, (index, image) in enumerate(zip(some_of(8, run.config.seed), drawn, strict=True)):
        sample, _ = given[0][Request(0, position, index, 64, False)]
        np.testing.assert_array_equal(image, sample.image)


@pytest.mark.slow
def test_stopped_and_resumed_is_the_same(small, tmp_path, monkeypatch):
    def words(name):
        return ["--data", str(small), *QUICK, "--epochs", "3", "--output", str(tmp_path / name)]

    assert main(["train", "localizer", *words("whole")]) == 0
    take, taken = DetectionDataset.__getitem__, []

    def counted(self, index):
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # training has begun
            taken.append(index)
        if len(taken) == 14:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionDataset, "__getitem__", counted)
        assert main(["train", "localizer", *words("parts")]) == 130
    assert 1 <= state_of(tmp_path / "parts")["step"] < 6
    assert (tmp_path / "parts/samples.jpg").stat().st_size > 2000
    assert main(["train", "localizer", "--resume", str(tmp_path / "parts")]) == 0
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "parts")) == []
