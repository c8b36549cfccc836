"""`detseg train segmenter`: the whole command on a tiny set, what it leaves and says, its mistakes, resuming."""

import csv
import json
import os
import re
import shutil
import signal

import cv2
import pytest

from detseg.cli import main
from detseg.data.flowers import write_flowers
from detseg.data.mask_dataset import SegmentationDataset
from detseg.data.readers import read_annotations
from detseg.train.checkpoint import load_model
from detseg.train.config import TrainSegmenter
from detseg.train.segmenter import train_segmenter
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
    pictures = "worst.jpg samples.jpg class_iou.png confusion.png history.png"
    assert {path.name for path in segmenter.folder.iterdir()} == {*files.split(), *pictures.split()}
    page = (segmenter.folder / "report.html").read_text()
    for picture in pictures.split():
        assert f'src="{picture}"' in page
    assert cv2.imread(str(segmenter.folder / "worst.jpg")).shape[1] > 6 * 200, "two rows of three pictures"


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
    assert lines[0] == "training on 8 pictures with masks, validating on 5"
    assert lines[1] == "labels: 0=background (value 0), 1=box (value 4), 2=disc (value 9)"
    assert any(re.match(r"epoch +25\.0 .* mIoU 0\.\d+  pixel accuracy 0\.\d", line) for line in lines)
    description = json.loads((segmenter.folder / "model.json").read_text())
    assert f"{description['training']['miou']:.3f}" in next(line for line in lines if "│ mIoU" in line)
    assert f"report: {segmenter.folder}/report.html" in lines
    assert lines[-2] == f"use it: detseg predict '{segmenter.folder}' picture.jpg"


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
    assert main(["train", "segmenter", "--resume", str(folder)]) == 0
    assert (folder / "report.html").is_file()
    best = json.loads((folder / "model.json").read_text())["training"]["miou"]
    assert f"{best:.3f}" in next(line for line in capsys.readouterr().out.splitlines() if "│ mIoU" in line)


def test_a_finer_network_starts_from_a_coarser_one(masked, tmp_path, capsys, at_once):
    settings = {"data": masked, "backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 1}
    coarse, fine = tmp_path / "fcn16s", tmp_path / "fcn8s"
    train_segmenter(TrainSegmenter(strides=(16, 32), output=coarse, **settings))
    train_segmenter(TrainSegmenter(start_from=coarse, lr=1e-9, output=fine, **settings))
    before, after = (load_model(folder)[0].state_dict() for folder in (coarse, fine))
    name = next(n for n in before if n.startswith("backbone.") and n.endswith("conv_stem.weight"))
    assert (before[name] - after[name]).abs().max() < 1e-4, "begun where the other ended"
    assert "no trained model here" in error_of(capsys, "--data", masked, *QUICK, "--start-from", tmp_path)
    error = error_of(capsys, "--data", masked, *QUICK, "--strides", "32", "--start-from", coarse)
    assert f"--start-from {coarse}: a network of 3 classes at strides (32,) cannot start from" in error


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
        ("--data D --images D", "says itself where its pictures are; --images is for COCO and VOC"),
        ("--data D --val-share 0.2", "is divided already, into train, val; leave out --val-share"),
    ],
)
def test_mistakes_of_a_segmenters_options(masked, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(capsys, *arguments.replace("D", str(masked), 1).split(), *QUICK)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_the_same_with_outlines_in_place_of_mask_files(tmp_path, at_once):
    """COCO's run lengths are drawn to masks; the background comes first."""
    data = write_flowers(tmp_path / "flowers", train=2, val=2, size=(64, 64))
    settings = {"data": data, "backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 1}
    run = train_segmenter(TrainSegmenter(output=tmp_path / "run", **settings))
    names = [c["name"] for c in json.loads((tmp_path / "run/model.json").read_text())["categories"]]
    assert names == ["background", *read_annotations(data / "val.json").names] == list(run.metrics.names)
