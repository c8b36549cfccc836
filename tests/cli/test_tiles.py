"""`--tiles`: a detector trained on tiles, resumed, evaluated and used; and one of whole images that looks at tiles."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest

import detseg
from detseg.cli import main
from detseg.data.formats import read_dataset
from detseg.data.tile_sets import TileDataset
from detseg.models import load_model
from tests.cli.conftest import QUICK, trained
from tests.cli.test_train import stop_after
from tests.train.runs import differences, state_of


def on_tiles(small, folder, epochs):
    """A detector that was trained on tiles."""
    words = ["--tiles", "64", "--epochs", epochs, "--lr", "0.02", "--backbone-lr", "1"]
    return trained("detector", small, folder / "tiled", *map(str, words))


def predict(folder, *arguments):
    return main(["predict", str(folder), *map(str, arguments)])


@pytest.mark.slow
def test_what_a_run_on_tiles_knows(small, tmp_path, capsys):
    tiled = on_tiles(small, tmp_path, 1)
    objects = json.loads((tiled.folder / "model.json").read_text())["objects"]
    assert objects["tile"] == 64 and objects["overlap"] == 32 and objects["long_side"] == 64
    assert max(objects["sides"]) <= 64 and objects["sides"] == sorted(objects["sides"])
    line = next(line for line in tiled.output.splitlines() if line.startswith("training on") and "tiles" in line)
    assert "tiles of 64 px that overlap by 32 px or more" in line and line.endswith(
        "validating on whole images, in tiles"
    )
    assert (tiled.folder / "report.html").is_file()
    assert predict(tiled.folder, small / "images/val0.png", "--output", tmp_path / "out") == 0
    assert "tiles of 64 px that overlap by 32 px or more: as in training" in capsys.readouterr().out


@pytest.mark.slow
def test_the_figures_of_the_run_are_those_of_its_predictions(small, tmp_path, capsys):
    tiled = on_tiles(small, tmp_path, 14)
    assert predict(tiled.folder, "--image-ids", small / "val.json", "--output", tmp_path / "out") == 0
    capsys.readouterr()
    figures = []
    for detections in (tmp_path / "out/detections.json", tiled.folder):
        words = ["--ground-truth", str(small / "val.json"), "--detections", str(detections), "--json"]
        assert main(["evaluate", *words]) == 0
        figures.append(json.loads(capsys.readouterr().out)["figures"]["AP"])
    best = json.loads((tiled.folder / "model.json").read_text())["training"]["map"]
    assert figures == pytest.approx([best, best], abs=1e-3) and best > 0


@pytest.mark.slow
def test_stopped_and_resumed(small, tmp_path, capsys, monkeypatch):
    common = ["train", "detector", "--data", os.path.relpath(small), *QUICK, "--tiles", "48", "--epochs", "2"]
    common += ["--mosaic", "0.5", "--mixup", "0.3"]
    assert main([*common, "--output", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        stop_after(14, patch, TileDataset)
        assert main([*common, "--output", str(tmp_path / "parts")]) == 130
    capsys.readouterr()
    assert main(["train", "detector", "--resume", str(tmp_path / "parts")]) == 0
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "parts")) == []
    saved = [dict(load_model(tmp_path / name)[0].state_dict()) for name in ("whole", "parts")]
    assert differences(*saved) == []


def test_a_detector_of_whole_images_looks_at_tiles(run, small, tmp_path, capsys):
    objects = json.loads((run.folder / "model.json").read_text())["objects"]
    assert objects["long_side"] == 96 and len(objects["sides"]) == 3
    parts = [cv2.imread(str(small / f"images/val{number}.png")) for number in range(4)]
    cv2.imwrite(str(tmp_path / "large.png"), np.vstack([np.hstack(parts[:2]), np.hstack(parts[2:])]))
    counts = []
    for words in (["--tiles", "auto"], ["--tiles", "96"], []):
        assert predict(run.folder, tmp_path / "large.png", "--output", tmp_path / "out", *words) == 0
        counts.append(len(json.loads((tmp_path / "out/detections.json").read_text())))
        assert ("tiles of 96 px" in capsys.readouterr().out) == bool(words)
    assert counts[0] == counts[1] >= 4, "images as those of training, four in one"
    data = read_dataset(small)["val"]
    model = detseg.Tiled(detseg.load(run.folder), tile=96, overlap=47)
    (found,) = model.predict(tmp_path / "large.png")
    assert len(found) >= 4 and set(found.labels.tolist()) <= {0, 1} and model.names == list(data.names)


def test_an_image_as_large_as_a_tile_is_as_without(run, small, tmp_path):
    results = []
    for words in (["--tiles", "auto"], ["--tiles", "none"]):
        assert predict(run.folder, small / "images/val0.png", "--output", tmp_path / "out", *words) == 0
        results.append((tmp_path / "out/detections.json").read_text())
        shutil.rmtree(tmp_path / "out")
    assert results[0] == results[1] != "[]\n"


def test_what_does_not_go_in_tiles(run, segmenter, small, tmp_path, capsys):
    image = small / "images/val0.png"
    for arguments, message in (
        ((run.folder, image, "--tiles", 0), f"{run.folder}: tiles must be at least 1 px wide, not 0"),
        ((segmenter.folder, image, "--tiles", 64), "holds a segmenter, for which there is no --tiles; leave it out"),
    ):
        assert predict(*arguments, "--output", tmp_path / "out") == 1
        assert message in " ".join(capsys.readouterr().err.split())
    for words, message in (
        (["--tiles", "0"], "--tiles must be"),
        (["--tiles", "64", "--copy-paste", "0.5"], "--tiles and --copy-paste do not go together"),
        (["--tiles", "64", "--masks"], "--tiles is for models that find boxes of plain classes"),
    ):
        assert main(["train", "detector", "--data", str(small), "--output", str(tmp_path / "run"), *QUICK, *words]) == 1
        assert message in " ".join(capsys.readouterr().err.split()), words
