"""`detseg predict`: classes, non-max suppression, and what is written of the objects beside the drawings."""

import json
import shutil
from types import SimpleNamespace

import cv2
import pytest
import torch

import detseg
from detseg.boxes import box_iou
from detseg.cli import main
from detseg.cli.predict import Predict, _check_options
from detseg.results import labels_named
from detseg.runtime import ExportedDetector

LOW = ("--conf", "0.01")


def predict(run, *arguments):
    return main(["predict", str(run.folder), *map(str, arguments)])


def results_of(folder):
    return json.loads((folder / "detections.json").read_text())


def test_only_some_classes_are_kept(run, small, tmp_path, capsys):
    image = small / "images/val0.png"
    for name, words in {"all": [], "bars": ["--classes", "bar"], "both": ["--classes", "bar", "square"]}.items():
        assert predict(run, image, *LOW, "--output", tmp_path / name, *words) == 0
    every, bars, both = (results_of(tmp_path / name) for name in ("all", "bars", "both"))
    assert bars == [result for result in every if result["category_id"] == 3]
    assert 0 < len(bars) < len(every) and both == every
    capsys.readouterr()
    assert predict(run, image, "--classes", "squar", "--output", tmp_path / "none") == 1
    assert "knows no class 'squar'; it knows square, bar; did you mean square" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="no class 'xyz'; it knows rose, tulip"):
        labels_named(["xyz"], ["rose", "tulip"])


def test_what_is_written_beside_the_drawing(run, small, tmp_path, capsys):
    images = [small / "images/val0.png", small / "images/val4.png"]
    words = [*images, "--conf", 0.3, "--output", tmp_path / "out", "--save-txt", "--save-crops", "--save-json"]
    assert predict(run, *words) == 0
    assert "images with boxes, labels/, crops/, json/ and detections.json are in" in capsys.readouterr().out
    results = [r for r in results_of(tmp_path / "out") if r["image_id"] == 1]
    assert results
    rows = [line.split() for line in (tmp_path / "out/labels/val0.txt").read_text().splitlines()]
    assert [[7, 3][int(row[0])] for row in rows] == [r["category_id"] for r in results]
    for row, (x, y, w, h) in zip(rows, (r["bbox"] for r in results), strict=True):
        shares = (x + w / 2) / 96, (y + h / 2) / 72, w / 96, h / 72
        assert [float(n) for n in row[1:]] == pytest.approx(shares, abs=2e-3)
    content = json.loads((tmp_path / "out/json/val0.json").read_text())
    assert [entry["name"] for entry in content] == [{7: "square", 3: "bar"}[r["category_id"]] for r in results]
    for number, entry in enumerate(content):
        x1, y1, x2, y2 = entry["box"]
        crop = cv2.imread(str(tmp_path / f"out/crops/{entry['name']}/val0_{number}.jpg"))
        assert abs(crop.shape[0] - (y2 - y1)) < 2 and abs(crop.shape[1] - (x2 - x1)) < 2
    crops = [path for path in (tmp_path / "out/crops").rglob("*.jpg") if path.name.startswith("val0_")]
    assert len(crops) == len(results)
    assert {path.name for path in (tmp_path / "out/labels").iterdir()} == {"val0.txt", "val4.txt"}, "empty ones too"
    assert predict(run, *words) == 0, "over those of an earlier prediction"


def test_folders_of_others_are_left_alone(run, small, tmp_path, capsys):
    (tmp_path / "labels").mkdir()
    assert predict(run, small / "images/val0.png", "--save-txt", "--output", tmp_path) == 1
    assert "labels: is there already, and not from an earlier prediction" in capsys.readouterr().err


def test_one_class_at_a_place_and_another_threshold(run, small, tmp_path):
    image = small / "images/val0.png"
    for name, words in {"usual": [], "agnostic": ["--agnostic", "--iou", 0.3], "low": ["--iou", 0.05]}.items():
        assert predict(run, image, "--conf", 0.05, "--output", tmp_path / name, *words) == 0
    usual, agnostic, low = (results_of(tmp_path / name) for name in ("usual", "agnostic", "low"))
    assert 0 < len(agnostic) < len(usual) and 0 < len(low) < len(usual)
    assert agnostic[0]["score"] == usual[0]["score"]


def test_the_same_in_python(run, small):
    detector, image = detseg.load(run.folder), small / "images/val0.png"
    usual = detector.predict(image, score_threshold=0.05)[0]
    assert (detector.iou_threshold, detector.agnostic) == (0.5, False)
    detector.iou_threshold, detector.agnostic = 0.3, True
    assert 0 < len(detector.predict(image, score_threshold=0.05)[0]) < len(usual)
    for value in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="the IoU threshold is a share between 0 and 1"):
            detector.iou_threshold = value


def test_several_views_or_runs_are_agnostic_too(run, small):
    detector = detseg.load(run.folder, run.folder)
    detector.agnostic = True
    assert detector.agnostic and all(network.agnostic for network in detector.networks)
    for tta in (False, True):
        found = detector.predict(small / "images/val0.png", score_threshold=0, tta=tta)[0]
        overlaps = box_iou(torch.from_numpy(found.boxes), torch.from_numpy(found.boxes)).fill_diagonal_(0)
        assert len(found) > 1 and overlaps.max() <= 0.6 and len(set(found.labels.tolist())) == 2


def test_what_has_no_suppression_says_so(localizer, segmenter, small, masked, tmp_path, capsys):
    image = small / "images/val0.png"
    for words in (["--iou", 0.4], ["--agnostic"]):
        assert predict(localizer, image, *words, "--output", tmp_path / "out") == 1
        assert "for which there is no non-max suppression" in capsys.readouterr().err
    assert predict(segmenter, image, "--save-txt", "--classes", "a", "--output", tmp_path / "out") == 1
    assert "a segmenter, for which there is no --classes, --save-txt" in capsys.readouterr().err


def test_an_exported_model_keeps_its_selection(tmp_path):
    known = {"task": "detect", "channels": 3, "size": 64, "max_detections": 9, "masks": False, "any_size": False}
    engine = SimpleNamespace(description=known | {"categories": [{"id": 1, "name": "rose"}]})
    file = tmp_path / "model.onnx"
    file.touch()
    for options, told in (({"iou_threshold": 0.4}, "--iou-threshold"), ({"agnostic": True}, "--agnostic")):
        with pytest.raises(ValueError, match=f"is an exported model, for which there is no {told}; give the run"):
            _check_options(Predict(file, **options), ExportedDetector(engine))
    _check_options(Predict(file, classes=("rose",), save_crops=True), ExportedDetector(engine))


def test_classes_that_would_share_a_folder(run, small, tmp_path, capsys):
    copied = shutil.copytree(run.folder, tmp_path / "run")
    description = json.loads((copied / "model.json").read_text())
    description["categories"] = [{"id": 1, "name": "a/b"}, {"id": 2, "name": "A:b"}]
    (copied / "model.json").write_text(json.dumps(description))
    words = [str(copied), str(small / "images/val0.png"), "--save-crops", "--output", str(tmp_path / "out")]
    assert main(["predict", *words]) == 1
    assert "the classes 'a/b' and 'A:b' would share a folder" in capsys.readouterr().err
