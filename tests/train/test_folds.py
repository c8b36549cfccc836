"""Cross-validation: every image is judged by the run that has not seen it."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from detseg.cli import main
from detseg.data import read_annotations
from detseg.data.formats import read_dataset
from detseg.metrics.detection.inputs import Detections
from detseg.train import folds as folding
from detseg.train.config import TrainDetector
from detseg.train.folds import train_folds
from tests.cli.conftest import QUICK
from tests.small_set import write_small_set
from tests.train.runs import untimed


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp("boxes") / "set", train=6, val=3)


def command(*words):
    with untimed():
        return main(["train", "detector", *QUICK, "--epochs", "1", *map(str, words)])


@pytest.fixture(scope="module")
def trained(boxes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "folds"
    assert command("--data", boxes, "--folds", "2", "--output", folder) == 0
    return folder


@pytest.mark.slow
def test_all_images_are_evaluated_by_a_run_that_has_not_seen_them(trained, boxes):
    whole = read_annotations(trained / "annotations.json")
    assert len(whole) == 9 and whole.names == ("square", "bar")
    sources = {Path(path) for part in read_dataset(boxes).values() for path in part.paths.tolist()}
    assert {Path(path).resolve() for path in whole.paths.tolist()} == sources  # where they are
    results = json.loads((trained / "detections.json").read_text())
    assert {result["image_id"] for result in results} == set(whole.image_ids.tolist())
    seen = []
    for number in (1, 2):
        parts = read_dataset(trained / f"folds/fold-{number}")
        assert not set(parts["train"].image_ids.tolist()) & set(parts["val"].image_ids.tolist())
        seen += parts["val"].image_ids.tolist()
        config = json.loads((trained / f"fold-{number}/config.json").read_text())
        assert "folds" not in config and config["data"] == str(trained / f"folds/fold-{number}")
        assert (trained / f"fold-{number}/report.html").exists()
    assert sorted(seen) == sorted(whole.image_ids.tolist())


@pytest.mark.slow
def test_the_figures_are_those_of_all_images_with_intervals(trained, capsys):
    with (trained / "metrics.csv").open() as file:
        first, *classes = csv.DictReader(file)
    assert first["images"] == "9" and first["objects"] == "15" and "AP_low" in first
    assert [row["class"] for row in classes] == ["square", "bar"]
    files = ["--ground-truth", str(trained / "annotations.json"), "--detections", str(trained / "detections.json")]
    assert main(["evaluate", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["AP"] == pytest.approx(float(first["AP"]))


@pytest.mark.slow
def test_the_same_command_goes_on_and_finished_folds_stay(trained, boxes, capsys, monkeypatch):
    before = (trained / "detections.json").read_bytes()
    weights = (trained / "fold-1/model.safetensors").stat().st_mtime_ns
    assert command("--data", boxes, "--folds", "2", "--output", trained) == 0
    assert (trained / "detections.json").read_bytes() == before
    assert (trained / "fold-1/model.safetensors").stat().st_mtime_ns == weights
    lines = capsys.readouterr().out.splitlines()
    assert f"{boxes}: its splits (6 train, 3 val images) are taken as one set" in lines
    assert lines[-1].startswith(f"{trained}: 2 runs; what they detect in images they were not trained on")
    assert command("--data", boxes, "--folds", "2", "--output", trained, "--lr", "0.1") == 1
    assert "fold-1: was trained with --lr None, not 0.1; give another --output" in capsys.readouterr().err


def test_an_interrupted_fold_ends_it(boxes, tmp_path, capsys, monkeypatch):
    class Stopped:
        interrupted = True

    monkeypatch.setattr(folding, "train", lambda config, console, draw: Stopped())
    assert command("--data", boxes, "--folds", "2", "--output", tmp_path / "out") == 130
    assert "interrupted; the same command goes on, with --output" in capsys.readouterr().out
    assert not (tmp_path / "out/detections.json").exists()


def test_folds_that_were_split_before_are_taken(boxes, tmp_path, monkeypatch):
    assert main(["split", str(boxes), "--output", str(tmp_path / "folds"), "--folds", "3", "--seed", "5"]) == 0
    given = []

    def ended(config, console, draw):
        given.append((config.data, config.size))
        return SimpleNamespace(interrupted=False, config=replace(config, size=384))

    nothing = Detections(np.zeros(0), np.zeros(0), np.zeros((0, 4)), np.zeros(0))
    monkeypatch.setattr(folding, "train", ended)
    monkeypatch.setattr(folding, "_detections", lambda run: nothing)
    config = TrainDetector(data=tmp_path / "folds", output=tmp_path / "out")
    result = train_folds(config, 3)
    folds = [tmp_path / f"folds/fold-{number}" for number in (1, 2, 3)]
    assert given == list(zip(folds, (None, 384, 384), strict=True)), "the size that the first chose is that of all"
    assert len(read_annotations(result.annotations)) == 9 and json.loads(result.detections.read_text()) == []
    assert not (tmp_path / "out/folds").exists()
    with pytest.raises(ValueError, match="holds 3 folds; train with --folds 3"):
        train_folds(config, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", "1"], "2 folds at least"),
        (["--folds", "2", "--val-share", "0.2"], "leave out --val-share"),
        (["--folds", "99"], "its 9 images are too few for 99 folds"),
    ],
)
def test_wrong_options(boxes, tmp_path, capsys, words, message):
    assert command("--data", boxes, "--output", tmp_path / "out", *words) == 1
    assert message in capsys.readouterr().err


def test_options_that_make_no_folds(boxes, tmp_path, capsys, monkeypatch):
    assert main(["train", "detector", "--resume", str(tmp_path), "--folds", "2"]) == 1
    assert "leave out --resume" in capsys.readouterr().err
    assert main(["train", "detector", "--train", "a", "--val", "b", "--folds", "2"]) == 1
    assert "leave out --train and --val" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process"):
        train_folds(TrainDetector(data=boxes), 2)
