"""`detseg train segmenter`: the whole command on a tiny set, what it leaves and prints, its mistakes, resuming."""

import csv
import json
import os
import re
import shutil
import signal

import cv2
import pytest
import torch

from detseg.cli import main
from detseg.data.dataset import SegmentationDataset
from detseg.models import load_model
from detseg.segment.upsampling import bilinear_kernel
from detseg.train.config import TrainSegmenter
from detseg.train.runner import train
from detseg.train.tasks.segmenter import balanced_weights
from tests.cli.conftest import QUICK
from tests.evaluating import evaluate
from tests.train.runs import differences, state_of


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


def test_what_a_segmenters_run_prints(segmenter):
    lines = segmenter.output.split("\n")
    assert lines[0] == "training on 8 images with masks, validating on 5 images"
    assert lines[1] == "labels: 0=background (value 0), 1=box (value 4), 2=disc (value 9)"
    assert any(re.match(r"epoch +25\.0 .* mIoU 0\.\d+  pixel accuracy 0\.\d", line) for line in lines)
    description = json.loads((segmenter.folder / "model.json").read_text())
    assert f"{description['training']['miou']:.3f}" in next(line for line in lines if "│ mIoU" in line)
    assert f"report: {segmenter.folder}/report.html" in lines
    assert lines[-2] == f"use it: detseg predict '{segmenter.folder}' image.jpg"


@pytest.mark.slow
def test_a_segmenter_stopped_and_resumed_ends_with_the_same_weights(masked, tmp_path, capsys, monkeypatch):
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


@pytest.mark.slow
def test_a_finished_segmenter_resumed_shows_its_best_model(segmenter, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(segmenter.folder, folder)
    (folder / "report.html").unlink()
    shutil.copy(folder / "history.png", folder / "learning_rate.png")
    assert main(["train", "segmenter", "--resume", str(folder)]) == 0
    assert 'src="learning_rate.png"' in (folder / "report.html").read_text()
    best = json.loads((folder / "model.json").read_text())["training"]["miou"]
    assert f"{best:.3f}" in next(line for line in capsys.readouterr().out.splitlines() if "│ mIoU" in line)


def test_balanced_classes_and_learnt_kernels_come_back_with_the_model(masked, segmenter, tmp_path):
    settings = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "batch_size": 4, "epochs": 2}
    rates = {"lr": 0.02, "weight_decay": 0.0}
    run = train(TrainSegmenter(data=masked, output=tmp_path / "run", balance=True, **settings, **rates))
    model, description = load_model(tmp_path / "run")
    again = evaluate("segmenter", model, run.val, 64)[0]
    assert again.miou == pytest.approx(description["training"]["miou"], abs=1e-6)
    kernel = model.upsample.weight
    assert not torch.equal(kernel[:, 0], bilinear_kernel(8).repeat(3, 1, 1)), "it has learnt"
    weights = balanced_weights((run.train.masks[i] for i in range(8)), 3)
    assert description["architecture"]["class_weights"] == weights
    assert json.loads((segmenter.folder / "model.json").read_text())["architecture"]["class_weights"] is None


def test_a_coarser_network_is_where_training_begins(masked, tmp_path):
    settings = {"data": masked, "backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 1}
    coarse, fine = tmp_path / "fcn16s", tmp_path / "fcn8s"
    train(TrainSegmenter(strides=(16, 32), output=coarse, **settings))
    train(TrainSegmenter(start_from=coarse, lr=1e-9, output=fine, **settings))
    before, after = (load_model(folder)[0].state_dict() for folder in (coarse, fine))
    name = next(n for n in before if n.startswith("backbone.") and n.endswith("conv_stem.weight"))
    assert (before[name] - after[name]).abs().max() < 1e-4, "begun where the other ended"


def test_a_mistake_is_one_line(masked, tmp_path, monkeypatch, capsys):
    """Found before images are read; nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("detseg.train.tasks.segmenter.open_images", None)
    for arguments, message in (
        ("--data D --loss huber", "huber"),
        ("--data D --masks depth", "has no images/ with a folder 'depth' of masks beside it"),
        ("--data D --strides 3", "'test_efficientnet' has no feature map at stride 3"),
        ("--data D --weights nowhere.pth", "no file of weights at nowhere.pth"),
        ("--data D --start-from .", "no trained model here"),
    ):
        assert message in error_of(capsys, *QUICK, *arguments.replace("D", str(masked), 1).split()), arguments
        assert list(tmp_path.iterdir()) == [], arguments
