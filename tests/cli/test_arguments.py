"""Options under the names that other toolkits give them, files of options, several GPUs."""

import json
from dataclasses import asdict, fields
from inspect import isfunction
from pathlib import Path

import pytest

from detseg.cli import COMMANDS, _command, _find, _options, main
from detseg.cli.arguments import KNOWN_ELSEWHERE, as_typed, option_names
from detseg.cli.config_file import split_words
from detseg.cli.evaluate import Evaluate, _named
from detseg.cli.predict import Predict
from detseg.train.config import TrainDetector, config_for


def options(command, *words):
    return _options(command, [str(word) for word in words])


def refusal(command, *words):
    """What a mistake in the words prints."""
    with pytest.raises(SystemExit) as end:
        options(command, *words)
    return str(end.value)


@pytest.fixture
def file(tmp_path):
    """Writes a file of options, and gives its path."""

    def write(text, name="options.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


# ------------------------------------------------------------------ names


@pytest.mark.parametrize("command", COMMANDS)
def test_no_name_means_two_things(command):
    kind = _find(COMMANDS[command].config)
    kind = kind(command, []) if isfunction(kind) else kind
    names = [field.name for field in fields(kind)]
    assert not {name[2:].replace("-", "_") for name in KNOWN_ELSEWHERE.values()} & {*names, "config"}
    assert [field.name for field in fields(as_typed(kind))] == [*names, "config"]
    assert set(option_names(kind).values()) <= set(names)


def test_names_known_from_elsewhere():
    words = ["r", "a.jpg", "--imgsz", 64, "--conf=0.5", "--iou", 0.6, "--max-det", 7]
    expected = Predict(Path("r"), ("a.jpg",), size=64, score_threshold=0.5, iou_threshold=0.6, max_detections=7)
    assert options("predict", *words) == expected
    own = ["--size", 64, "--score-threshold", 0.5, "--iou-threshold", 0.6, "--max_detections", 7]
    assert options("predict", *words[:2], *own) == expected
    trained = options("train detector", "--data", "d", "--imgsz", 96, "--batch", 4)
    assert (trained.size, trained.batch_size) == (96, 4)
    assert options("train classifier", "--data", "d", "--batch", 4).batch_size == 4


def test_help_has_both_names(capsys):
    with pytest.raises(SystemExit):
        options("predict", "--help")
    printed = capsys.readouterr().out
    assert all(f"--{own.replace('_', '-')}" in printed for own in KNOWN_ELSEWHERE if own != "batch_size")
    assert "--conf " in printed and "--iou " in printed and "--config " in printed


def test_val_is_evaluate_and_takes_what_is_evaluated_without_a_name():
    assert _command(["val", "runs/a"]) == "evaluate"
    for words in (["runs/a"], ["--detections", "runs/a"], ["--predictions", "runs/a"]):
        assert _named(options("evaluate", *words)).detections == Path("runs/a")
    assert _named(options("evaluate", ".", "--conf", 0.2)) == Evaluate(detections=Path(), score_threshold=0.2)
    with pytest.raises(ValueError, match="name what to evaluate"):
        _named(options("evaluate"))
    with pytest.raises(ValueError, match="a and --detections b: one is evaluated; leave one out"):
        _named(options("evaluate", "a", "--detections", "b"))


def test_several_gpus_need_several_processes(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    message = refusal("train detector", "--data", "my flowers", "--device", "0,1", "--epochs", 3)
    line = "accelerate launch --multi_gpu --num_processes 2 --gpu_ids 0,1 --no_python detseg train detector"
    assert message.endswith(f"{line} --data 'my flowers' --epochs 3")
    assert refusal("train detector", "--device=2,3,4").endswith("3 --gpu_ids 2,3,4 --no_python detseg train detector ")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert options("train detector", "--data", "d", "--device", "0,1").device == "0,1", "told by the run itself"


# ------------------------------------------------------------------ files


def test_a_file_says_what_would_be_typed(file):
    text = "data: flowers\nbatch-size: 4\nimgsz: 96\nmasks: yes\nmulti_scale: false\nlr: 1e-3\nflip: none\n"
    text += "strides: [16, 32]\naugment: rotate=10 zoom=1.1\nfreeze: all\nminutes: null\nweights: none\n"
    given = options("train detector", "--config", file(text))
    expected = TrainDetector(
        **{"data": Path("flowers"), "batch_size": 4, "size": 96, "masks": True, "multi_scale": False, "lr": 0.001},
        **{"flip": "none", "strides": (16, 32), "augment": ("rotate=10", "zoom=1.1"), "freeze": "all"},
        weights="none",
    )
    assert asdict(given) == asdict(expected) | {"folds": None}
    assert options("predict", f"--config={file('classes: [rose]')}", "r", "a.jpg", "b.jpg") == Predict(
        Path("r"), ("a.jpg", "b.jpg"), classes=("rose",)
    )
    assert asdict(options("train detector", "--config", file(""))) == asdict(TrainDetector()) | {"folds": None}


def test_the_command_line_wins(file):
    path = file("size: 96\nbatch: 4\nmosaic: 0.5\nmulti-scale: true\nstrides: 16 32\n")
    words = ["--config", path, "--imgsz", 64, "--batch-size=2", "--no-multi-scale", "--strides", 8]
    given = options("train detector", *words)
    assert (given.size, given.batch_size, given.mosaic, given.multi_scale, given.strides) == (64, 2, 0.5, False, (8,))


def test_a_model_in_a_file_brings_its_options(file):
    path = file("model: ssd\nboxes: paper\nlite: true\n")
    given = options("train detector", "--config", path)
    assert (given.model, given.boxes, given.lite) == ("ssd", "paper", True)
    assert "no option 'boxes'" in refusal("train detector", "--model", "yolo", "--config", path)


def test_the_settings_of_a_run_start_another(tmp_path):
    kind = config_for("detector", "ssd")
    config = kind(data=tmp_path, epochs=3, output=tmp_path, boxes="paper", augment=(), size=64, log=("mlflow",))
    config.save(tmp_path)
    again = options("train detector", "--config", tmp_path / "config.json", "--epochs", 5)
    expected = kind(data=tmp_path, epochs=5, boxes="paper", augment=(), size=64, log=("mlflow",))
    assert asdict(again) == asdict(expected) | {"folds": None}
    told = refusal("train segmenter", "--config", tmp_path / "config.json")
    assert "holds the options of `detseg train detector`, not of `detseg train segmenter`" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bach-size: 4", "no option 'bach-size'; did you mean batch-size"),
        ("xyzzy: 4", "no option 'xyzzy'; --help lists the options"),
        ("size: 64\nimgsz: 96", "size and imgsz are the same option"),
        ("masks: perhaps", "masks is true or false, not perhaps"),
        ("size: [1, 2]", "size has one value, not a list"),
        ("size: {a: 1}", "size: Expected `bool | int | float | str | array | null`, got `object`"),
        ('weights: "a\\0b"', "weights: has a zero character"),
        ("- size", "must hold names and values"),
        ("size: [", "is not readable"),
    ],
)
def test_mistakes_in_a_file_name_it(file, text, message):
    path = file(text)
    printed = refusal("train detector", "--config", path)
    assert printed.startswith(f"error: --config {path}: ") and message in printed and "\n" not in printed


def test_files_that_are_not_there_or_two(file, tmp_path):
    assert "none.yaml: cannot be read: No such file" in refusal("predict", "--config", tmp_path / "none.yaml")
    assert "read from one file" in refusal("predict", "--config", "a", "--config=b")
    assert "run is named on the command line itself" in refusal("predict", "--config", file("run: r"))
    assert "options.json: line 1, column 2: no JSON" in refusal("predict", "--config", file("{", "options.json"))
    assert split_words(["a", "--config"]) == (["a", "--config"], None), "which the parser refuses"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"size": "large"}, "size: Expected `int | null`, got `str`"),
        ({"size": 1e400}, "size: Expected `int | null`, got `float`"),
        ({"strides": [8, "x"]}, "strides: [1]: Expected `int`, got `str`"),
        ({"strides": [8, [16]]}, "strides: [1]: Expected `bool | int | float | str | null`, got `array`"),
        ({"freeze": "some"}, "freeze: Invalid enum value 'some'"),
        ({"strides": "8 " * 6000}, "strides: has 12000 letters, and no value has more than 10000"),
        ({"data": "a\0b"}, "data: a path has no zero bytes"),
        ({"task": ["detector"]}, "holds the options of"),
        ({"task": "detector", "model": ["yolo"]}, "model: Expected `str | null`"),
    ],
)
def test_a_value_of_the_wrong_kind_names_the_file(content, message, file):
    path = file(json.dumps(content), "options.json")
    printed = refusal("train detector", "--config", path)
    assert printed.startswith(f"error: --config {path}: ") and message in printed


def test_numbers_are_read_as_on_the_command_line(file):
    given = options("train detector", "--config", file("lr: .5\nseed: 007\nminutes: 1.\n"))
    assert (given.lr, given.seed, given.minutes) == (0.5, 7, 1)


def test_a_file_is_named_where_its_option_makes_no_sense(file, capsys):
    path = file("batch-size: -3\n")
    assert main(["train", "detector", "--data", "flowers", "--config", str(path)]) == 1
    assert f"--batch-size must be positive, not -3 (--batch-size: see {path})" in capsys.readouterr().err
    assert main(["train", "detector", "--data", "flowers", "--config", str(path), "--batch-size", "0"]) == 1
    assert "see" not in capsys.readouterr().err


def test_aliases_that_stand_for_millions_of_values_are_not_written_out(file):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    path = file("augment: *a11\n".join(["\n".join(lines) + "\n", ""]))
    assert f"--config {path}: " in refusal("train detector", "--config", path)
