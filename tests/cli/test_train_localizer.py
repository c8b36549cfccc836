"""`detseg train localizer`: the whole command on a tiny set, which objects count, resuming, predicting."""

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
from detseg.predict import Detector
from detseg.train.config import TrainLocalizer
from detseg.train.runner import train
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
def boxes(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp("data") / "small", train=8, val=5)


@pytest.fixture
def single(boxes, tmp_path):
    """The same with one object in every image but the first of each split, and none in the last of validation."""
    folder = tmp_path / "single"
    shutil.copytree(boxes, folder)
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        first = content["images"][0]["id"]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 7 or a["image_id"] == first]
        for annotation in content["annotations"]:
            annotation["iscrowd"] = 0
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def config(data, tmp_path, **settings):
    given = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "batch_size": 4, "epochs": 1}
    return TrainLocalizer(data=data, output=tmp_path / "run", **(given | settings))


def test_the_whole_command(single, tmp_path, capsys):
    folder = tmp_path / "run"
    words = [
        "--data",
        str(single),
        *QUICK,
        "--epochs",
        "40",
        "--lr",
        "0.01",
        "--backbone-lr",
        "1",
        "--objects",
        "single",
    ]
    assert main(["train", "localizer", *words, "--output", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{single}/train.json: 1 images without exactly one object are left out" in lines
    assert f"{single}/val.json: 2 images without exactly one object are left out" in lines
    assert "training on 7 images with 7 objects, validating on 3 with 3" in lines
    assert lines[-1] == f"use it: detseg predict {folder} image.jpg"
    page = (folder / "report.html").read_text()
    assert all(f'src="{image}"' in page for image in ("worst.jpg", "samples.jpg", "history.png"))
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = json.loads((folder / "model.json").read_text())["training"]
    chosen = max(reversed(rows), key=lambda row: float(row["mean_iou"]))  # the last of equals
    assert best["mean_iou"] == float(chosen["mean_iou"]) >= float(rows[0]["mean_iou"])
    assert best["accuracy"] == float(chosen["accuracy"])
    assert any(f"{best['mean_iou']:.3f}" in line for line in lines)


def test_it_predicts_like_a_detector(boxes, tmp_path, at_once):
    run = train(config(boxes, tmp_path))
    model = detseg.load(run.folder)
    assert isinstance(model, Detector)
    data = run.val.annotations
    found = model.predict([str(path) for path in data.paths], score_threshold=0)
    for one, seen, (width, height) in zip(found, run.predictions, data.sizes, strict=True):
        assert one["boxes"].shape == (1, 4)
        assert np.allclose(one["boxes"], seen["boxes"], atol=1.0)  # the cache has the images shrunk
        x1, y1, x2, y2 = one["boxes"][0]
        assert 0 <= x1 <= x2 <= width
        assert 0 <= y1 <= y2 <= height


def without_objects_from(folder, split, first):
    """Take all objects of the images of a split from the one at position `first` on."""
    path = folder / f"{split}.json"
    content = json.loads(path.read_text())
    kept = {image["id"] for image in content["images"][:first]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    path.write_text(json.dumps(content))


@pytest.fixture
def half(boxes, tmp_path):
    """The set with objects in the first four training and the first three of five validation images only."""
    folder = shutil.copytree(boxes, tmp_path / "half")
    without_objects_from(folder, "train", 4)
    without_objects_from(folder, "val", 3)
    return folder


def test_objectness_keeps_images_without_objects(boxes, tmp_path, at_once):
    run = train(config(boxes, tmp_path, objectness=True, loss="mse", square_root=False))
    assert len(run.val) == len(run.predictions) == 5
    assert (run.metrics.images, run.metrics.without) == (4, 1)
    architecture = json.loads((run.folder / "model.json").read_text())["architecture"]
    assert (architecture["objectness"], architecture["loss"], architecture["square_root"]) == (True, "mse", False)


def test_objectness_with_single_objects_keeps_images_without(single, tmp_path, at_once):
    without_objects_from(single, "train", 6)
    run = train(config(single, tmp_path, objectness=True, objects="single"))
    counts = [np.diff(data.annotations.offsets) for data in (run.train, run.val)]
    # The first image of each has two objects.
    assert [sorted(count.tolist()) for count in counts] == [[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1]]


def test_objectness_is_judged_and_decides_on_the_best_model(half, tmp_path, at_once, capsys, caplog):
    folder = tmp_path / "run"
    words = ["--data", str(half), *QUICK, "--epochs", "20", "--lr", "0.01", "--backbone-lr", "1", "--objectness"]
    assert main(["train", "localizer", *words, "--output", str(folder)]) == 0
    with (folder / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    for row in rows:
        assert row["quality"] == pytest.approx((row["mean_iou"] + row["objectness"]) / 2)
    best = json.loads((folder / "model.json").read_text())["training"]
    assert best["quality"] == max(row["quality"] for row in rows)
    assert best["objectness"] in [row["objectness"] for row in rows] and 0 <= best["objectness"] <= 1
    out = capsys.readouterr().out
    assert "images with an object: 3, without: 2" in " ".join(out.split())
    assert f"objectness {best['objectness']:.3f}" in " ".join(re.sub("[│┃]", " ", out).split())
    assert "objectness" in (folder / "report.html").read_text()
    assert "--objectness" not in caplog.text, "there is nothing to warn of"


def test_objectness_is_that_of_the_scores(half, tmp_path, at_once):
    run = train(config(half, tmp_path, objectness=True, epochs=2))
    scores = [float(found["scores"][0]) for found in run.predictions]
    pairs = [(a > b) + (a == b) / 2 for a in scores[:3] for b in scores[3:]]
    assert run.metrics.objectness == pytest.approx(np.mean(pairs))
    assert run.metrics.quality == pytest.approx((run.metrics.mean_iou + run.metrics.objectness) / 2)


def test_crowds_alone_are_not_judged_as_none(half, tmp_path, at_once):
    content = json.loads((half / "val.json").read_text())
    crowd = content["annotations"][0] | {"id": 99, "image_id": content["images"][4]["id"], "iscrowd": 1}
    (half / "val.json").write_text(json.dumps(content | {"annotations": [*content["annotations"], crowd]}))
    run = train(config(half, tmp_path, objectness=True))
    assert (len(run.val), run.metrics.images, run.metrics.without) == (5, 3, 1)


def test_objects_everywhere_leave_nothing_to_learn_of_objectness(boxes, tmp_path, at_once, caplog):
    folder = shutil.copytree(boxes, tmp_path / "all")
    content = json.loads((folder / "val.json").read_text())
    (folder / "val.json").write_text(json.dumps(content | {"images": content["images"][:4]}))
    run = train(config(folder, tmp_path, objectness=True))
    learnt, judged = [record.getMessage() for record in caplog.records if "in every image" in record.getMessage()]
    assert learnt.startswith(f"{folder}/train.json: ") and "learns nothing" in learnt and "detseg windows" in learnt
    assert judged.startswith(f"{folder}/val.json: ") and "cannot be measured" in judged and "mean IoU" in judged
    assert "objectness" not in run.metrics.figures() and run.metrics.mean_iou > 0
    row = (run.folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "mean_iou" in row and "objectness" not in row and "loss_objectness" in row


@pytest.mark.parametrize("objectness", [False, True])
def test_a_validation_without_objects_is_told(half, tmp_path, objectness):
    without_objects_from(half, "val", 0)
    with pytest.raises(ValueError, match=r"val\.json: there is no image with an object"):
        train(config(half, tmp_path, objectness=objectness))


@pytest.mark.parametrize("zoom", [(1.0, 1.0), (2.0, 3.0)])
def test_samples_are_drawn_as_they_are_trained_on(boxes, tmp_path, at_once, monkeypatch, zoom):
    from detseg.report.pages.localizer import LocalizerPage
    from detseg.report.pictures import some_of
    from detseg.train import runner
    from detseg.train.sampler import Request

    given, drawn, make = [], [], runner.make_trainer
    monkeypatch.setattr(runner, "make_trainer", lambda *args, **names: (given.append(args[3]), make(*args, **names))[1])
    monkeypatch.setattr("detseg.report.pages.boxes.draw_boxes", lambda image, *_, **__: drawn.append(image) or image)
    run = train(config(boxes, tmp_path, zoom=zoom), draw=lambda run: LocalizerPage(run).draw_training())
    assert len(drawn) == len(run.train) == 8
    for position, (index, image) in enumerate(zip(some_of(8, run.config.seed), drawn, strict=True)):
        sample, _ = given[0][Request(0, position, index, 64, False)]
        np.testing.assert_array_equal(image, sample.image)


def test_stopped_and_resumed_is_the_same(boxes, tmp_path, at_once, monkeypatch):
    def words(name):
        return ["--data", str(boxes), *QUICK, "--epochs", "3", "--output", str(tmp_path / name)]

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


def test_no_image_that_fits_is_told(boxes, tmp_path, capsys):
    assert main(["train", "localizer", "--data", str(boxes), *QUICK, "--objects", "single"]) == 1
    error = capsys.readouterr().err
    # The crowd beside it does not count: one training image has a single object, no validation image has.
    assert error == f"error: {boxes}/val.json: there is no image with exactly one object\n"
