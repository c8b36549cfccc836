"""`detseg train detector`: the whole command on a tiny set, its mistakes, every data format, resuming."""

import csv
import io
import json
import os
import re
import shutil
import signal

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from detseg.backbones import create_backbone
from detseg.cli import COMMANDS, main
from detseg.data.augment.mosaic import mixup
from detseg.data.formats import read_dataset, write_voc, write_yolo
from detseg.metrics.bootstrap import detection as resampling
from detseg.models import load_model
from detseg.train.config import TrainDetector, TrainLocalizer
from detseg.train.data import load_data
from detseg.train.process import process
from detseg.train.runner import train
from detseg.train.tasks.segmenter import load_mask_data
from tests.train.runs import differences, state_of

QUICK = (
    *("--backbone", "test_efficientnet", "--weights", "none", "--size", "64"),
    *("--batch-size", "4", "--precision", "fp32", "--mosaic", "0.5", "--mixup", "0.3"),
)

ARCHITECTURE = {
    "kind": "yolo",
    "backbone": "test_efficientnet",
    "strides": [8, 16, 32],
    "num_classes": 2,
    "anchors": np.ones((3, 1, 2)).tolist(),
    "folded": True,
}


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
    images = "worst.jpg samples.jpg precision_recall.png history.png anchors.png class_ap.png confusion.png"
    assert names == {*files.split(), *images.split()}
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


def test_what_a_run_says(run):
    lines = run.output.split("\n")
    assert lines[0] == "training on 8 images with 16 objects, validating on 5 with 8"
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "either as --data or as --train and --val"),
        ("--data D --train D", "either as --data or as --train and --val"),
        ("--train D", "belong together"),
        ("--data D --size 100", "--size must be a multiple of 32 and at least 64, not 100; 96 is near"),
        ("--data D --size 32", "64 is near"),
        ("--data D --epochs 2 --minutes 1", "--epochs or --minutes, not both"),
        ("--data D --epochs 0", "--epochs must be positive"),
        ("--data D --minutes nan", "--minutes must be positive"),
        ("--data D --batch-size 0", "--batch-size must be positive"),
        ("--data D --lr inf", "--lr must be positive"),
        ("--data D --mosaic 1.5", "--mosaic is a share"),
        ("--data D --mixup nan", "--mixup is a share between 0 and 1, not nan"),
        ("--data D --val-share 1", "--val-share is a share above 0 and below 1, such as 0.2, not 1"),
        ("--train D --val D --val-share 0.2", "--val-share divides --data; leave it out where --val is given"),
        ("--data D --val-share 0.2", "is divided already, into train, val; leave out --val-share"),
        ("--data D/train.json", "or let training divide one set by --val-share 0.2"),
        ("--data D --images D/nowhere", "nowhere: the folder of images (--images) does not exist"),
        ("--data D --seed -1", "--seed must not be negative"),
        ("--data D --workers -1", "--workers must not be negative"),
        ("--data D --freeze 99 --backbone test_efficientnet --weights none", "has 5 stages"),
        ("--data D --backbone resnet81 --weights none", "no backbone is named 'resnet81'; did you mean"),
        ("--data D --backbone test_efficientnet --weights none.pt", "none.pt"),
        ("--data nowhere", "nowhere"),
        ("--train D/train.json --val D/nothing.json", "nothing.json"),
        ("--train D/train.json --val D/train.json", "move it from one of the two"),
        ("--resume nowhere", "nowhere: there is no run to resume here"),
        ("--resume nowhere --epochs 3 --size 64", "leave out --size, --epochs"),
    ],
)
def test_mistakes_are_told_in_a_line(small, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    error = error_of(capsys, *arguments.replace("D", str(small)).split())
    assert message in error
    assert list(tmp_path.iterdir()) == [], "nothing is left behind that would be in the way of the next try"


@pytest.mark.parametrize(
    "arguments", [["train", "detector", "--sise", "64"], ["train", "detecter"], ["trian"], ["train"], ["--nonsense"]]
)
def test_unknown_words_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [(["train"], 2), (["train", "--help"], 0), (["train", "-h"], 0)])
def test_an_unfinished_command_lists_all_that_it_could_be(words, code, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == code
    printed = capsys.readouterr()
    lines = (printed.err if code else printed.out).splitlines()
    for name, command in COMMANDS.items():
        assert any(f"detseg {name} " in line and command.about in line for line in lines) == name.startswith("train ")


@pytest.mark.parametrize(("typed", "hint"), [("train detecter", "train detector"), ("predct", "predict"), ("xyz", "")])
def test_the_nearest_command_is_named(typed, hint, capsys):
    with pytest.raises(SystemExit):
        main(typed.split())
    error = capsys.readouterr().err
    assert (f"did you mean `detseg {hint}`" if hint else "`detseg --help` lists") in error


def test_an_existing_run_is_not_overwritten(run, small, capsys):
    before = (run.folder / "resume.pt").read_bytes()
    error = error_of(capsys, "--data", small, "--output", run.folder, *QUICK)
    assert f"{run.folder}: holds a run already; go on with it by --resume" in error
    assert (run.folder / "resume.pt").read_bytes() == before


@pytest.mark.parametrize("left", ["model.safetensors", "model.json", "metrics.csv"])
def test_what_is_left_of_a_run_is_not_overwritten(small, tmp_path, capsys, left):
    (tmp_path / left).write_text("precious")
    error = error_of(capsys, "--data", small, "--output", tmp_path, *QUICK)
    assert f"{tmp_path}: holds {left} of an earlier run, without resume.pt; give another --output" in error
    assert [path.name for path in tmp_path.iterdir()] == [left]
    assert (tmp_path / left).read_text() == "precious"


def test_settings_that_are_not_this_runs_are_not_overwritten(small, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"of": "another program"}')
    error = error_of(capsys, "--data", small, "--output", tmp_path, *QUICK)
    assert f"{tmp_path}: holds a config.json already" in error and "give another --output, or delete that file" in error
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == '{"of": "another program"}'


def test_of_two_runs_that_start_at_once_one_gets_the_folder(small, tmp_path):
    """Both have looked before either writes."""
    config = TrainDetector(data=small, output=tmp_path / "run")
    with process(config) as first, process(config) as second:
        folder = first.open_folder()
        with pytest.raises(ValueError, match=r"holds a config\.json already, of a run that has saved nothing yet"):
            second.open_folder()
        second.release()
        assert TrainDetector.load(folder).data == small, "the other's are left alone"
        (folder / "resume.pt").write_bytes(b"")
        with pytest.raises(ValueError, match="holds a run already"), process(config):
            pass


def test_a_run_that_ends_before_it_saves_anything_leaves_its_place_to_the_next(small, tmp_path, monkeypatch, at_once):
    def interrupted(*_):
        raise KeyboardInterrupt

    config = TrainDetector(
        data=small, output=tmp_path / "run", backbone="test_efficientnet", weights="none", size=64, epochs=1
    )
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("detseg.train.process.choose", interrupted)
        train(config)
    assert list((tmp_path / "run").iterdir()) == []
    train(config)
    assert TrainDetector.load(tmp_path / "run") == config


def test_a_run_is_resumed_as_what_it_is(run, capsys):
    assert json.loads((run.folder / "config.json").read_text())["task"] == "detector"
    assert main(["train", "localizer", "--resume", str(run.folder)]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert f"{run.folder}: this is the run of a detector; resume it with detseg train detector --resume" in error


def test_auto_tells_what_it_measured(small):
    console = Console(file=io.StringIO(), width=200)
    config = TrainDetector(data=small, backbone="test_efficientnet", weights="none", size=64, batch_size=2)
    assert config.precision == "auto"
    with process(config, console) as this:
        choice = this.choose_precision(ARCHITECTURE, 0)
    told = console.file.getvalue()
    assert re.fullmatch(rf"precision: {choice}, \d+\.\d images/s( \(\w.* \d\.\d\d x as fast\))?\n", told)


def test_what_a_file_of_weights_gave_is_told(small, tmp_path):
    file = tmp_path / "weights.pt"
    tensors = create_backbone("test_efficientnet").state_dict()
    torch.save(tensors | {"head.weight": torch.zeros(3)}, file)
    console = Console(file=io.StringIO(), width=60)
    config = TrainDetector(data=small, backbone="test_efficientnet", weights=str(file), size=64)
    with process(config, console) as this:
        this.build(ARCHITECTURE)
    told = console.file.getvalue()
    assert told == f"weights from {file}: {len(tensors)} tensors copied, 1 skipped (head.weight)\n"


@pytest.mark.parametrize(
    ("split", "message"),
    [("train", "no objects to learn in 8 images"), ("val", "no objects to evaluate a model on in 5")],
)
@pytest.mark.parametrize("crowds", [False, True])
def test_a_set_without_objects_is_refused(small, tmp_path, capsys, split, message, crowds):
    data = tmp_path / "data"
    shutil.copytree(small, data)
    content = json.loads((data / f"{split}.json").read_text())
    left = [annotation | {"iscrowd": 1} for annotation in content["annotations"]] if crowds else []
    (data / f"{split}.json").write_text(json.dumps(content | {"annotations": left}))
    assert f"{split}.json: there are {message}" in error_of(capsys, "--data", data, *QUICK)


def test_without_network_the_missing_weights_are_told(small, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise RuntimeError("the hub cannot be reached")

    monkeypatch.setattr("detseg.train.process.build_model", unreachable)
    error = error_of(capsys, "--data", small, "--backbone", "test_efficientnet")
    assert error == "error: test_efficientnet: the hub cannot be reached\n"


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (1.0, 12)])
def test_mixup_reaches_the_samples(share, count, small, tmp_path, at_once, monkeypatch):
    """In three of four steps of four images: it ends with the last third of the run."""
    mixed = []
    monkeypatch.setattr("detseg.train.sampler.mixup", lambda *pair: mixed.append(1) or mixup(*pair))
    words = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "batch_size": 4, "epochs": 2}
    train(TrainDetector(data=small, output=tmp_path / "run", mixup=share, **words))
    assert len(mixed) == count


def form(kind, source, folder):
    """The small set in another form, and the settings that read it."""
    splits = read_dataset(source)
    if kind == "voc":
        for split, data in splits.items():
            write_voc(data, folder, split)
        return {"data": folder}
    if kind == "yolo":
        for split, data in splits.items():
            write_yolo(data, folder, split, crowd="drop")
        return {"data": folder / "data.yaml"}
    if kind == "two folders":
        for split, data in splits.items():
            write_yolo(data, folder / split, "val", crowd="drop")
        return {"train": folder / "train", "val": folder / "val"}
    if kind == "two files":
        content = json.loads((source / "val.json").read_text())
        content["categories"].reverse()  # another order of the same categories
        (source / "reversed.json").write_text(json.dumps(content))
        return {"train": source / "train.json", "val": source / "reversed.json"}
    return {"data": source}


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "two folders", "two files"])
def test_every_form_of_data_trains(kind, small, tmp_path, at_once):
    shutil.copytree(small, tmp_path / "source")
    where = form(kind, tmp_path / "source", tmp_path / "data")
    settings = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 1, "batch_size": 8}
    run = train(TrainDetector(output=tmp_path / "run", **where, **settings))
    assert run.train.annotations.names == run.val.annotations.names == ("square", "bar")
    assert run.metrics.images == 5
    assert run.metrics.objects == 8
    assert len(run.predictions) == 5
    assert state_of(tmp_path / "run")["step"] == 1
    crowds = run.train.annotations.iscrowd.sum()
    assert crowds == (0 if kind in ("yolo", "two folders") else 1)


@pytest.mark.parametrize("divided", [True, False])
def test_images_away_from_their_annotations(divided, small, tmp_path, capsys):
    shutil.copytree(small / "images", tmp_path / "far/pics")
    (tmp_path / "ann").mkdir()
    for split in ("train", "val"):
        shutil.copy(small / f"{split}.json", tmp_path / "ann")
    files = {f"{split}": tmp_path / f"ann/{split}.json" for split in ("train", "val")}
    where = {"data": tmp_path / "ann"} if divided else files
    error = error_of(capsys, *(word for name, path in where.items() for word in (f"--{name}", path)))
    assert "name the folder (--images of detseg train and detseg pack)" in error
    assert error.endswith("--repair would leave no image: correct what is listed above.\n")
    for config in (TrainDetector, TrainLocalizer):
        given = config(**where, images=tmp_path / "far/pics")
        assert [len(data) for data in load_data(given, Console(quiet=True))] == [8, 5]


def test_an_undivided_set_is_divided_by_a_share(small):
    train, val = load_data(TrainDetector(data=small / "train.json", val_share=0.25), Console(quiet=True))
    assert (len(train), len(val)) == (6, 2)
    assert sorted([*train.image_ids, *val.image_ids]) == list(range(93, 101))
    again = load_data(TrainLocalizer(data=small / "train.json", val_share=0.25, seed=1), Console(quiet=True))
    assert again[1].image_ids.tolist() == val.image_ids.tolist(), "runs can be compared"


def stop_after(samples, monkeypatch):
    """SIGTERM when so many images were taken in training, not for the sheet that is drawn before."""
    from detseg.data.dataset import DetectionDataset

    take, taken = DetectionDataset.__getitem__, []

    def counted(self, index):
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # training has begun
            taken.append(index)
        if len(taken) == samples:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, index)

    monkeypatch.setattr(DetectionDataset, "__getitem__", counted)


def test_stopped_and_resumed_by_the_command(small, tmp_path, capsys, at_once, monkeypatch):
    common = ["train", "detector", "--data", os.path.relpath(small), *QUICK, "--epochs", "3"]
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
        raise AssertionError("the number format of the first this is kept")

    monkeypatch.setattr("detseg.train.process.choose", refuse)
    monkeypatch.chdir(tmp_path)  # relative paths of the first command must not matter
    assert main(last.split("detseg ")[1].split()) == 0
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "parts")) == []
    saved = [dict(load_model(tmp_path / name)[0].state_dict()) for name in ("whole", "parts")]
    assert differences(*saved) == []


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


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("train", move_box, "the training annotations have changed since this run was started; put them back"),
        ("val", move_box, "the validation annotations have changed"),
        ("train", change_image, "the training images have changed"),
        ("val", change_image, "the validation images have changed"),
    ],
)
def test_resuming_with_other_data_is_refused(run, small, tmp_path, capsys, split, change, message):
    data, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(small, data)
    shutil.copytree(run.folder, folder)
    change(data, split)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"data": str(data)}))
    assert message in error_of(capsys, "--resume", folder)


@pytest.mark.parametrize("content", ["{", '{"colour": 3}', "[1]"])
def test_damaged_settings_are_named(tmp_path, capsys, content):
    (tmp_path / "config.json").write_text(content)
    assert f"{tmp_path}/config.json" in error_of(capsys, "--resume", tmp_path)


def test_runs_are_numbered(small, tmp_path, monkeypatch, at_once):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "detector-1").mkdir(parents=True)
    settings = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 1, "batch_size": 8}
    assert train(TrainDetector(data=small, **settings)).folder.name == "detector-2"


def test_help_teaches_by_example(capsys):
    with pytest.raises(SystemExit):
        main(["train", "detector", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: detseg train detector [-h]")
    assert "\nTrain an object detector" in shown
    assert "    detseg train detector --data flowers/ --minutes 30" in shown


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_the_overview_lists_the_commands(arguments, capsys):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for name in ("train detector", "predict", "evaluate", "demo"):
        assert f"\n  detseg {name}  " in shown


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


def test_the_demo_checks_before_it_draws(tmp_path, capsys):
    assert main(["demo", "--output", str(tmp_path), "--minutes", "-1"]) == 1
    assert main(["demo", "--output", str(tmp_path), "--images", "0"]) == 1
    assert list(tmp_path.iterdir()) == []
