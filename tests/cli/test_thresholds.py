"""Shares that are none, such as NaN, are refused by their option's name before anything is read."""

from math import inf, nan

import pytest

from detseg.cli import main
from detseg.options import require_share

PREDICT = ("predict", "no-run", "no-image.jpg")
COMMANDS = [
    (PREDICT, "--score-threshold"),
    (PREDICT, "--iou-threshold"),
    (PREDICT, "--tree-threshold"),
    ((*PREDICT[:2], "no-video.mp4", "--track"), "--score-threshold"),
    ((*PREDICT, "--engine", "ray"), "--score-threshold"),
    (("explain", "no-run", "no-image.jpg"), "--score-threshold"),
    (("evaluate", "no-run"), "--score-threshold"),
    (("label", "no-run", "no-image.jpg", "--output", "new"), "--score-threshold"),
    (("serve", "no-run"), "--score-threshold"),
    (("convert", "no-set", "--to", "coco", "--output", "new"), "--val-share"),
    (("train", "detector", "--data", "no-set"), "--val-share"),
    (("train", "detector", "--data", "no-set"), "--mosaic"),
    (("train", "classifier", "--data", "no-set"), "--dropout"),
]


@pytest.mark.parametrize("value", ["nan", "2", "-1", "inf"])
@pytest.mark.parametrize(("words", "option"), COMMANDS, ids=lambda part: part if isinstance(part, str) else part[0])
def test_shares_of_commands(words, option, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = main([*words, f"{option}={value}"])
    except SystemExit as end:  # where the options are checked before the command begins
        code, told = 1, str(end.value)
    else:
        told = capsys.readouterr().err
    named = option in told or option[2:].replace("-", " ") in told
    assert code == 1 and named and value in told.replace(".0", ""), told
    assert list(tmp_path.iterdir()) == []


def test_shares():
    class Config:
        none, low, high = None, 0.0, 1.0
        odd, negative, large = nan, -0.1, inf

    require_share(Config, "none", "low", "high")
    for name in ("odd", "negative", "large"):
        with pytest.raises(ValueError, match=f"--{name} is a share between 0 and 1, not"):
            require_share(Config, "none", name)
    with pytest.raises(ValueError, match=r"below 1, not 1\.0"):
        require_share(Config, "high", below=True)


@pytest.mark.parametrize("value", ["nan", "-1"])
def test_the_tolerance_of_an_export(value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "no-run", "--format", "onnx", f"--tolerance={value}"]) == 1
    assert "--tolerance and --images must not be negative" in capsys.readouterr().err
