"""`detseg train detector`: the whole command on a tiny set, its mistakes, resuming; the command line as a whole."""

import csv
import json
import os
import re
import shutil
import signal

import cv2
import numpy as np
import pytest
from rich.console import Console

from detseg.cli import COMMANDS, main
from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_dataset
from detseg.metrics.bootstrap import detection as resampling
from detseg.models import load_model
from detseg.predict import Detector
from detseg.train.tasks.segmenter import load_mask_data
from tests.cli.conftest import QUICK
from tests.train.runs import differences, state_of


def error_of(capsys, *arguments):
    """The one line that a mistake prints."""
    assert main(["train", "detector", *map(str, arguments)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert "Traceback" not in printed.err + printed.out
    return printed.err


def test_what_a_run_leaves(run, small):
    names = {path.name for path in run.folder.iterdir()}
    files = "config.json model.safetensors model.json metrics.csv resume.pt report.html tensorboard"
    images = (
        "worst.jpg samples.jpg precision_recall.png reliability.png history.png anchors.png class_ap.png confusion.png"
    )
    assert names - {"mistakes.jpg"} == {*files.split(), *images.split()}, "that one where detections are wrong"
    config = json.loads((run.folder / "config.json").read_text())
    assert config["data"] == str(small)
    assert config["epochs"] == 40
    assert list((run.folder / "tensorboard").iterdir())
    page = (run.folder / "report.html").read_text()
    for image in images.split():
        assert f'src="{image}"' in page


def test_metrics_and_description_agree(run):
    with (run.folder / "metrics.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    best = max(reversed(rows), key=lambda row: row["map"])  # the last of equals
    description = json.loads((run.folder / "model.json").read_text())
    for name in ("epoch", "step", "map", "map50"):
        assert description["training"][name] == best[name]
    assert rows[-1]["epoch"] == 40
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert description["categories"] == [{"id": 7, "name": "square"}, {"id": 3, "name": "bar"}]
    assert description["size"] == 96
    assert {"detseg", "torch", "timm"} <= description["versions"].keys()


def test_what_a_run_prints(run):
    lines = run.output.split("\n")
    ignored, empty = "1 object ignored (crowd or difficult)", "1 image without objects"
    counts = f"8 images with 15 objects, {ignored}, validating on 5 images with 8 objects, {empty}"
    assert lines[0] == f"training on {counts}"
    assert lines[1] == "labels: 0=square (id 7), 1=bar (id 3)"
    assert any(line.startswith("precision: ") for line in lines)
    assert any(re.match(r"epoch +40\.0 .* mAP@\[\.5:\.95\] 0\.\d", line) for line in lines)
    description = json.loads((run.folder / "model.json").read_text())
    assert f"{description['training']['map']:.3f}" in next(line for line in lines if "│ all" in line)
    assert f"report: {run.folder}/report.html" in lines
    assert lines[-2] == f"use it: detseg predict '{run.folder}' image.jpg"
    # Not a terminal: no bars, no cursor movements, no blank lines but the one between the two tables.
    assert "\x1b" not in run.output
    assert "\r" not in run.output
    assert [line for line in lines[:-1] if not line.strip()] == [""]


def test_a_mistake_is_one_line(small, tmp_path, monkeypatch, capsys):
    """Of options, of data, of the backbone, of the run to resume: nothing is left that the next try would meet."""
    monkeypatch.chdir(tmp_path)
    network = "--data D --backbone test_efficientnet --weights"
    for arguments, message in (
        ("--data D --size 100", "--size must be a multiple of 32 and at least 64, not 100; 96 is near"),
        ("--train D/train.json --val D/train.json", "move it from one of the two"),
        (f"{network} none --freeze 99", "has 5 stages"),
        ("--data D --backbone resnet81 --weights none", "no backbone is named 'resnet81'; did you mean"),
        (f"{network} none.pt", "none.pt"),
        ("--resume nowhere", "nowhere: there is no run to resume here"),
    ):
        assert message in error_of(capsys, *arguments.replace("D", str(small)).split()), arguments
        assert list(tmp_path.iterdir()) == [], arguments


def test_unknown_words_exit_with_2(capsys):
    for arguments in ("train detector --sise 64", "train detecter", "trian", "train", "--nonsense"):
        with pytest.raises(SystemExit) as stopped:
            main(arguments.split())
        assert stopped.value.code == 2, arguments
        assert "Traceback" not in capsys.readouterr().err, arguments


def test_an_unfinished_command_lists_all_that_it_could_be(capsys):
    for words, code in (("train", 2), ("train --help", 0), ("train -h", 0)):
        with pytest.raises(SystemExit) as stopped:
            main(words.split())
        assert stopped.value.code == code, words
        printed = capsys.readouterr()
        lines = (printed.err if code else printed.out).splitlines()
        for name, command in COMMANDS.items():
            listed = any(f"detseg {name} " in line and command.about in line for line in lines)
            assert listed == name.startswith("train "), (words, name)


def test_the_nearest_command_is_named(capsys):
    for typed, hint in (("train detecter", "train detector"), ("predct", "predict"), ("xyz", "")):
        with pytest.raises(SystemExit):
            main(typed.split())
        error = capsys.readouterr().err
        assert (f"did you mean `detseg {hint}`" if hint else "`detseg --help` lists") in error, typed


def test_an_existing_run_is_not_overwritten(run, small, capsys):
    before = (run.folder / "resume.pt").read_bytes()
    error = error_of(capsys, "--data", small, "--output", run.folder, *QUICK)
    assert f"{run.folder}: holds a run already; go on with it by --resume" in error
    assert (run.folder / "resume.pt").read_bytes() == before


def test_a_run_is_resumed_as_what_it_is(run, capsys):
    assert json.loads((run.folder / "config.json").read_text())["task"] == "detector"
    assert main(["train", "localizer", "--resume", str(run.folder)]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert f"{run.folder}: this is the run of a detector; resume it with detseg train detector --resume" in error


def stop_after(samples, monkeypatch, dataset=DetectionDataset):
    """SIGTERM when so many images were taken in training, not for the sheet that is drawn before."""
    take, taken = dataset.__getitem__, []

    def counted(self, index):
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # training has begun
            taken.append(index)
        if len(taken) == samples:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, index)

    monkeypatch.setattr(dataset, "__getitem__", counted)


@pytest.mark.slow
def test_stopped_and_resumed_by_the_command(small, tmp_path, capsys, monkeypatch):
    common = ["train", "detector", "--data", os.path.relpath(small), *QUICK, "--epochs", "3"]
    common += ["--mosaic", "0.5", "--mixup", "0.3"]
    assert main([*common, "--output", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        stop_after(14, patch)
        assert main([*common, "--output", str(tmp_path / "parts")]) == 130
    stopped_at = state_of(tmp_path / "parts")["step"]
    assert 1 <= stopped_at < 6
    lines = capsys.readouterr().out.splitlines()
    last, drawn = lines[-1], [tmp_path / "parts" / name for name in ("samples.jpg", "anchors.png")]
    assert f"training samples as the network sees them: {drawn[0]}; anchors among the box sizes: {drawn[1]}" in lines
    assert all(path.stat().st_size > 2000 for path in drawn), "to look at before training ends, whatever becomes of it"
    assert last == f"interrupted; go on with: detseg train detector --resume {tmp_path / 'parts'}"

    def refuse(*_):
        raise AssertionError("the number format of the first process is kept")

    monkeypatch.setattr("detseg.train.process.choose", refuse)
    monkeypatch.chdir(tmp_path)  # relative paths of the first command must not matter
    assert main(last.split("detseg ")[1].split()) == 0
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "parts")) == []
    saved = [dict(load_model(tmp_path / name)[0].state_dict()) for name in ("whole", "parts")]
    assert differences(*saved) == []


@pytest.mark.slow
def test_resuming_a_finished_run_shows_its_best_model(run, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    (folder / "report.html").unlink()
    shutil.copy(folder / "history.png", folder / "learning_rate.png")
    weights = (folder / "model.safetensors").read_bytes()
    resample, calls = resampling._sample, []
    monkeypatch.setattr(resampling, "_sample", lambda *given: calls.append(given) or resample(*given))
    assert main(["train", "detector", "--resume", str(folder)]) == 0
    assert len(calls) == 1, "one analysis for the table and the report"
    assert (folder / "model.safetensors").read_bytes() == weights
    assert 'src="learning_rate.png"' in (folder / "report.html").read_text()
    best = json.loads((folder / "model.json").read_text())["training"]["map"]
    assert f"{best:.3f}" in next(line for line in capsys.readouterr().out.splitlines() if "│ all" in line)
    assert (folder / "metrics.csv").read_text() == (run.folder / "metrics.csv").read_text()


def move_box(folder, split):
    content = json.loads((folder / f"{split}.json").read_text())
    content["annotations"][0]["bbox"][0] += 1
    (folder / f"{split}.json").write_text(json.dumps(content))


def change_image(folder, split):
    """Another image, drawn into the file of the first."""
    path = folder / "images" / f"{split}0.png"
    cv2.imwrite(str(path), cv2.imread(str(path))[::-1])


@pytest.mark.slow
def test_resuming_with_other_data_is_refused(run, small, tmp_path, capsys):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    for number, (split, change, message) in enumerate(
        (
            ("train", move_box, "the training annotations have changed since this run was started; put them back"),
            ("val", move_box, "the validation annotations have changed"),
            ("train", change_image, "the training images have changed"),
            ("val", change_image, "the validation images have changed"),
        )
    ):
        data = shutil.copytree(small, tmp_path / f"data {number}")
        change(data, split)
        (folder / "config.json").write_text(json.dumps(config | {"data": str(data)}))
        assert message in error_of(capsys, "--resume", folder)


def test_help_teaches_by_example(capsys):
    with pytest.raises(SystemExit):
        main(["train", "detector", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: detseg train detector [-h]")
    assert "\nTrain an object detector" in shown
    assert "    detseg train detector --data flowers/ --minutes 30" in shown


def test_the_overview_lists_the_commands(capsys):
    for arguments in ([], ["--help"], ["help"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        for name in ("train detector", "predict", "evaluate", "demo"):
            assert f"\n  detseg {name}  " in shown, arguments


def test_the_version(capsys):
    import detseg

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"detseg {detseg.__version__}\n"


def test_ctrl_c_before_training_prints_no_traceback(monkeypatch, capsys):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr("detseg.cli.train.run", interrupted)
    assert main(["train", "detector", "--data", "x"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_our_own_faults_keep_their_traceback(monkeypatch):
    def broken(config):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr("detseg.cli.train.run", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        main(["train", "detector", "--data", "x"])


def test_the_demo_draws_and_trains(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("detseg.cli.train.run", lambda config: seen.append(config) or 0)
    (tmp_path / "detector-1").mkdir()
    words = ["demo", "--output", str(tmp_path), "--images", "2", "--minutes", "0.1", "--seed", "3"]
    assert main(words) == 0
    (config,) = seen
    assert config.output == tmp_path / "detector-2"
    assert (config.minutes, config.seed) == (0.1, 3)
    sizes = {split: len(data) for split, data in read_dataset(config.data).items()}
    assert sizes == {"train": 2, "val": 1}
    assert capsys.readouterr().out == f"flower images, drawn and annotated, are in {tmp_path}/data\n"


def test_the_demo_of_a_segmenter_draws_masks(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("detseg.cli.train.run", lambda config: seen.append(config) or 0)
    assert main(["demo", "--task", "segmenter", "--output", str(tmp_path), "--images", "1"]) == 0
    (config,) = seen
    assert config.output == tmp_path / "segmenter-1"
    train, val = load_mask_data(config, Console(quiet=True))
    assert train.names == ("background", *read_dataset(config.data)["train"].names)
    assert {0} < set(np.unique(val.mask(0)).tolist())


def test_the_demo_of_instances_ends_in_a_sheet_of_coloured_ones(tmp_path, monkeypatch, capsys):
    found = {"boxes": np.array([[5.0, 5, 200, 300]]), "scores": np.ones(1), "labels": np.zeros(1, int)}
    masks = np.zeros((1, 320, 320), bool)
    masks[0, 5:300, 5:200] = True

    class Finder(Detector):
        def __init__(self):
            self.description, self.categories = {}, [(1, "daisy")]

        def stream(self, images, **options):
            return (found | {"masks": masks} for _ in images)

    seen = []
    monkeypatch.setattr("detseg.cli.train.run", lambda config: seen.append(config) or config.output.mkdir() or 0)
    monkeypatch.setattr("detseg.predict.load", lambda run: Finder())
    assert main(["demo", "--task", "instances", "--output", str(tmp_path), "--images", "4"]) == 0
    assert seen[0].masks and seen[0].model == "yolo" and seen[0].output == tmp_path / "instances-1"
    assert capsys.readouterr().out.endswith(f"images: {tmp_path / 'instances-1' / 'instances.jpg'}\n")
    assert (tmp_path / "instances-1/instances.jpg").stat().st_size > 5000


def test_the_demo_checks_before_it_draws(tmp_path, capsys):
    assert main(["demo", "--output", str(tmp_path), "--minutes", "-1"]) == 1
    assert main(["demo", "--output", str(tmp_path), "--images", "0"]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_finished_run_goes_on_for_more_epochs(run, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "detector", "--resume", str(folder), "--more-epochs", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(", 2 more epochs, batches of 4" in line for line in lines)
    tables = [list(csv.DictReader((place / "metrics.csv").open())) for place in (run.folder, folder)]
    before, rows = tables[0], tables[1][len(tables[0]) :]
    assert tables[1][: len(before)] == before
    assert 40 < float(rows[0]["epoch"]) <= 41 and float(rows[-1]["epoch"]) == 42
    assert float(rows[-1]["seconds"]) > float(before[-1]["seconds"])
    assert json.loads((folder / "config.json").read_text())["extensions"][0]["step"] == int(before[-1]["step"])
    assert (folder / "report.html").is_file() and state_of(folder)["step"] == int(rows[-1]["step"])


@pytest.mark.slow
def test_data_that_have_changed_are_gone_on_with_by_a_new_run(run, small, tmp_path, capsys):
    """With --more-epochs as without, and nothing is noted; from its weights a new run knows the classes it keeps."""
    folder = shutil.copytree(run.folder, tmp_path / "run")
    data = shutil.copytree(small, tmp_path / "data")
    move_box(data, "train")
    config = json.loads((folder / "config.json").read_text()) | {"data": str(data)}
    (folder / "config.json").write_text(json.dumps(config))
    error = error_of(capsys, "--resume", folder, "--more-epochs", 2)
    assert f"or start a new run from what this one has learnt: --weights {folder}" in error
    assert "extensions" not in json.loads((folder / "config.json").read_text())
    for split in ("train", "val"):
        content = json.loads((data / f"{split}.json").read_text())
        content["categories"][1]["name"] = "beam"
        (data / f"{split}.json").write_text(json.dumps(content))
    words = ["--data", str(data), "--epochs", "1", "--batch-size", "4", "--precision", "fp32"]
    assert main(["train", "detector", *words, "--weights", str(folder), "--output", str(tmp_path / "next")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == f"as in {folder}: --backbone test_efficientnet, --size 96, anchors, width, sharpness, vote_iou; "
        "--lr 0.0001, for the head is trained"
    )
    kept = "1 class kept by name, 1 new: beam; dropped: bar"
    assert f"weights: all of {folder} (yolo, 2 classes): {kept}" in lines
    anchors = [load_model(place)[1]["architecture"]["anchors"] for place in (run.folder, tmp_path / "next")]
    assert anchors[0] == anchors[1]
