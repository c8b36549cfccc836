"""`detseg train segmenter`: the whole command on a tiny set, what it leaves and says, its mistakes, resuming."""

import csv
import json
import os
import re
import shutil
import signal

import cv2
import numpy as np
import pytest
import torch

from detseg.cli import main
from detseg.data import write_index_png
from detseg.data.dataset import SegmentationDataset
from detseg.data.formats import read_annotations
from detseg.flowers.dataset import write_flowers
from detseg.models import load_model
from detseg.segment.decoder import PyramidDecoder
from detseg.segment.losses import segmentation_losses
from detseg.segment.upsampling import bilinear_kernel
from detseg.train import runner
from detseg.train.config import TrainSegmenter
from detseg.train.runner import train
from detseg.train.tasks.segmenter import balanced_weights
from tests.evaluating import evaluate
from tests.train.runs import differences, state_of

QUICK = (
    *("--backbone", "test_efficientnet", "--weights", "none", "--size", "64"),
    *("--batch-size", "4", "--precision", "fp32"),
)


def error_of(capsys, *arguments):
    """The one line that a mistake prints."""
    assert main(["train", "segmenter", *map(str, arguments)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    return printed.err


def test_what_a_segmenters_run_leaves(segmenter):
    files = "config.json model.safetensors model.json metrics.csv resume.pt report.html tensorboard"
    images = "worst.jpg samples.jpg class_iou.png confusion.png history.png"
    assert {path.name for path in segmenter.folder.iterdir()} == {*files.split(), *images.split()}
    page = (segmenter.folder / "report.html").read_text()
    for image in images.split():
        assert f'src="{image}"' in page
    assert cv2.imread(str(segmenter.folder / "worst.jpg")).shape[1] > 6 * 200, "two rows of three images"


def test_metrics_description_and_report_agree(segmenter):
    with (segmenter.folder / "metrics.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    best = max(reversed(rows), key=lambda row: row["miou"])  # the last of equals
    description = json.loads((segmenter.folder / "model.json").read_text())
    for name in ("epoch", "step", "miou", "pixel_accuracy"):
        assert description["training"][name] == best[name]
    assert best["miou"] > 0.6, "bright shapes on noise are easy"
    assert description["categories"] == [{"id": v, "name": n} for v, n in ((0, "background"), (4, "box"), (9, "disc"))]
    page = (segmenter.folder / "report.html").read_text()
    assert f"<b>{best['miou']:.3f}</b><span>mIoU</span>" in page
    assert re.search(r"boundary IoU</span><span class=\"range\">0\.\d{3} to [01]\.\d{3}</span>", page)


def test_what_a_segmenters_run_says(segmenter):
    lines = segmenter.output.split("\n")
    assert lines[0] == "training on 8 images with masks, validating on 5"
    assert lines[1] == "labels: 0=background (value 0), 1=box (value 4), 2=disc (value 9)"
    assert any(re.match(r"epoch +25\.0 .* mIoU 0\.\d+  pixel accuracy 0\.\d", line) for line in lines)
    description = json.loads((segmenter.folder / "model.json").read_text())
    assert f"{description['training']['miou']:.3f}" in next(line for line in lines if "│ mIoU" in line)
    assert f"report: {segmenter.folder}/report.html" in lines
    assert lines[-2] == f"use it: detseg predict '{segmenter.folder}' image.jpg"


def test_a_segmenter_stopped_and_resumed_ends_with_the_same_weights(masked, tmp_path, capsys, at_once, monkeypatch):
    common = ["train", "segmenter", "--data", str(masked), *QUICK, "--epochs", "3", "--loss", "ce+dice"]
    assert main([*common, "--output", str(tmp_path / "whole")]) == 0
    take, taken = SegmentationDataset.__getitem__, []

    def counted(self, index):
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # training has begun
            taken.append(index)
        if len(taken) == 14:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationDataset, "__getitem__", counted)
        assert main([*common, "--output", str(tmp_path / "parts")]) == 130
    assert 1 <= state_of(tmp_path / "parts")["step"] < 6
    assert (tmp_path / "parts/samples.jpg").stat().st_size > 2000
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"interrupted; go on with: detseg train segmenter --resume {tmp_path / 'parts'}"
    assert main(last.split("detseg ")[1].split()) == 0
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "parts")) == []
    assert differences(*(dict(load_model(tmp_path / name)[0].state_dict()) for name in ("whole", "parts"))) == []


def test_a_finished_segmenter_resumed_shows_its_best_model(segmenter, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(segmenter.folder, folder)
    (folder / "report.html").unlink()
    shutil.copy(folder / "history.png", folder / "learning_rate.png")
    assert main(["train", "segmenter", "--resume", str(folder)]) == 0
    assert 'src="learning_rate.png"' in (folder / "report.html").read_text()
    best = json.loads((folder / "model.json").read_text())["training"]["miou"]
    assert f"{best:.3f}" in next(line for line in capsys.readouterr().out.splitlines() if "│ mIoU" in line)


def test_a_finer_network_starts_from_a_coarser_one(masked, tmp_path, capsys, at_once):
    settings = {"data": masked, "backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 1}
    coarse, fine = tmp_path / "fcn16s", tmp_path / "fcn8s"
    train(TrainSegmenter(strides=(16, 32), output=coarse, **settings))
    train(TrainSegmenter(start_from=coarse, lr=1e-9, output=fine, **settings))
    before, after = (load_model(folder)[0].state_dict() for folder in (coarse, fine))
    name = next(n for n in before if n.startswith("backbone.") and n.endswith("conv_stem.weight"))
    assert (before[name] - after[name]).abs().max() < 1e-4, "begun where the other ended"
    assert "no trained model here" in error_of(capsys, "--data", masked, *QUICK, "--start-from", tmp_path)
    error = error_of(capsys, "--data", masked, *QUICK, "--strides", "32", "--start-from", coarse)
    assert f"--start-from {coarse}: a network of 3 classes at strides (32,) cannot start from" in error
    description = json.loads((coarse / "model.json").read_text())
    description["categories"][1:] = description["categories"][:0:-1]
    (coarse / "model.json").write_text(json.dumps(description))
    error = error_of(capsys, "--data", masked, *QUICK, "--start-from", coarse)
    assert f"--start-from {coarse}: that run has learnt the classes background, disc, box, and " in error
    assert "has background, box, disc; start from a run of the same classes in the same order" in error


@pytest.mark.parametrize("option", ["atrous", "balance", "fixed", "pyramid"])
def test_options_of_the_network_come_back_with_the_model(masked, tmp_path, at_once, option):
    chosen = {"pyramid": {"decoder": "pyramid"}, "fixed": {"learn_upsampling": False}}.get(option, {option: True})
    settings = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "batch_size": 4, "epochs": 2}
    rates = {"lr": 0.02, "weight_decay": 0.0}
    run = train(TrainSegmenter(data=masked, output=tmp_path / "run", **settings, **rates, **chosen))
    model, description = load_model(tmp_path / "run")
    again = evaluate("segmenter", model, run.val, 64)[0]
    assert again.miou == pytest.approx(description["training"]["miou"], abs=1e-6)
    assert model.backbone.strides == {"atrous": (8, 16), "pyramid": (4, 8, 16, 32)}.get(option, (8, 16, 32))
    assert isinstance(model.decoder, PyramidDecoder) == (option == "pyramid")
    kernel = model.upsample.weight
    assert (kernel is None) == (option in ("fixed", "pyramid"))
    if option == "balance":
        assert not torch.equal(kernel[:, 0], bilinear_kernel(8).repeat(3, 1, 1)), "it has learnt"
    weights = balanced_weights((run.train.masks[i] for i in range(8)), 3)
    assert description["architecture"]["class_weights"] == (weights if option == "balance" else None)


def test_class_weights_by_hand():
    masks = [np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 0, 255, 255]], np.uint8)]
    # Of class 0 there are 5 of the 6 pixels of its two images, of class 1 one of 4: the median is 13 / 24.
    assert balanced_weights(masks, 3) == [0.65, 2.167, 0.0]


def test_balance_reaches_the_loss(masked, tmp_path, at_once, monkeypatch):
    """The weights are known only once the model is made."""
    seen = []
    make = runner.make_trainer

    def untrained(this, run, model, samples, **options):
        seen.append(model)
        return make(this, run, model, samples, **options | {"head_only": True})

    monkeypatch.setattr(runner, "make_trainer", untrained)
    settings = {"data": masked, "backbone": "test_efficientnet", "weights": "none", "size": 64}
    train(TrainSegmenter(output=tmp_path / "a", balance=True, **settings))
    (model,) = seen
    weights = model.class_weights.tolist()
    assert weights[0] < 1 < max(weights), "the background is common"
    images, masks = torch.zeros(1, 3, 64, 64), torch.arange(64 * 64).view(1, 64, 64) % 3
    expected = segmentation_losses(model.eval()(images), masks, {"ce": 1.0}, torch.tensor(weights))
    assert model(images, masks) == expected


def test_balance_with_nothing_but_ignored_pixels(masked, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(masked, data)
    for path in (data / "masks").glob("train*.png"):
        write_index_png(path, np.full((72, 96), 255))
    error = error_of(capsys, "--data", data, *QUICK, "--balance")
    assert f"--balance: {data}: every pixel of the masks is ignored, so there is nothing to learn" in error


def test_mask_files_that_do_not_fit_are_named(masked, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(masked, data)
    cv2.imwrite(str(data / "masks/train3.png"), cv2.imread(str(data / "masks/train3.png"), 0)[:50])
    error = error_of(capsys, "--data", data, *QUICK)
    assert "train3.png" in error
    assert "96 x 50" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data D --loss huber", "huber"),
        ("--data D --masks depth", "has no images/ with a folder 'depth' of masks beside it"),
        ("--data D --decoder pyramid --start-from R", "--start-from is for --decoder fcn"),
        ("--data D/images", "no masks recognised"),
        ("--data D --strides 3", "'test_efficientnet' has no feature map at stride 3"),
        ("--data D --strides 32 16", "--strides are positive and rise, the finest first, not 32 16; 16 32 do"),
        ("--data D --strides 0 8", "not 0 8; 8 do"),
        ("--data D --atrous --strides 8 16 32", "which --strides has already; give --strides 8 32"),
        ("--data D --weights nowhere.pth", "no file of weights at nowhere.pth"),
        ("--data D --images D", "says itself where its images are; leave --images out"),
        ("--data D --val-share 0.2", "is divided already, into train, val; leave out --val-share"),
    ],
)
def test_mistakes_of_a_segmenters_options_are_told_before_images_are_read(
    masked, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("detseg.train.tasks.segmenter.open_images", None)
    assert message in error_of(capsys, *QUICK, *arguments.replace("D", str(masked), 1).split())
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_the_same_with_outlines_in_place_of_mask_files(tmp_path, at_once):
    """COCO's run lengths are drawn to masks; the background comes first."""
    data = write_flowers(tmp_path / "flowers", train=2, val=2, size=(64, 64))
    settings = {"data": data, "backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 1}
    run = train(TrainSegmenter(output=tmp_path / "run", **settings))
    names = [c["name"] for c in json.loads((tmp_path / "run/model.json").read_text())["categories"]]
    assert names == ["background", *read_annotations(data / "val.json").names] == list(run.metrics.names)
