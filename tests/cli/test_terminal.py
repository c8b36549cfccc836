"""What is printed: plain text, whatever a data set calls its classes; readers that have enough end no command badly."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detseg.cli import main
from detseg.files import WriteError
from detseg.train.config import TrainDetector
from tests.data.annotation_samples import write_picture

NAMES = ["\x1b[31mred\x9b0m", "[bold]rich[/bold]", "Gänseblümchen", "two\nlines", "<script>alert(1)</script>"]


@pytest.fixture
def named(tmp_path):
    write_picture(tmp_path / "set/a.png", 60, 50)
    images = [{"id": 1, "file_name": "a.png", "width": 60, "height": 50}]
    boxes = [
        {"id": k, "image_id": 1, "category_id": k, "bbox": [5 * k, 5, 20, 20], "area": 400, "iscrowd": 0}
        for k in range(1, 6)
    ]
    content = {
        "images": images,
        "annotations": boxes,
        "categories": [{"id": k, "name": n} for k, n in enumerate(NAMES, 1)],
    }
    (tmp_path / "set/train.json").write_text(json.dumps(content))
    return tmp_path / "set"


@pytest.mark.parametrize("command", ["show", "doctor"])
def test_names_of_classes_are_text(named, tmp_path, capsys, command):
    assert main([command, str(named), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert r"\x1b[31mred\x9b0m" in printed and "\x1b" not in printed and "\x9b" not in printed
    assert "[bold]rich[/bold]" in printed and "Gänseblümchen" in printed
    page = (tmp_path / "out/index.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert r"\x1b[31mred\x9b0m" in page and "\x1b" not in page and "\x9b" not in page


def test_messages_are_text(named, capsys):
    (named / "train.json").write_text('{"images": [{"id": 1, "file_name": "\\u001b[2Ja.png"}], "annotations": 3}')
    assert main(["convert", str(named), "--to", "voc", "--output", "out\x1b[31m"]) == 1
    assert "\x1b" not in capsys.readouterr().err


def run(*words, **environment):
    command = [sys.executable, "-m", "detseg", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | environment)


@pytest.mark.slow
def test_a_terminal_without_the_letters_of_a_name(named, tmp_path):
    process = run("show", named, "--output", tmp_path / "out", PYTHONIOENCODING="ascii")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert b"G\\xe4nsebl\\xfcmchen" in out


@pytest.mark.slow
def test_a_reader_that_has_enough(named, tmp_path):
    process = run("show", named, "--output", tmp_path / "out")
    process.stdout.close()
    assert process.wait() == 0, process.stderr.read()
    assert process.stderr.read() == b""


@pytest.mark.parametrize("command", ["show", "doctor"])
def test_files_of_a_person_stay(named, tmp_path, capsys, command):
    words = [command, str(named), "--output", str(tmp_path / "out")]
    assert main(words) == main(words) == 0, "files of an earlier call are overwritten"
    (tmp_path / "out/index.html").write_text("<p>mine")
    assert main(words) == 1
    assert "out: holds other files, which could be overwritten" in capsys.readouterr().err
    assert (tmp_path / "out/index.html").read_text() == "<p>mine"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_under_standard_output_is_told_as_such(monkeypatch, capsys):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        monkeypatch.setattr("detseg.cli.backbones.run", lambda config: print("a" * 100_000) or 0)
        assert main(["backbones"]) == 1
        monkeypatch.undo()
    assert "error: standard output: cannot be written: No space left on device" in capsys.readouterr().err


def test_a_run_that_begins_on_a_full_disk_names_its_file_and_leaves_none(monkeypatch, tmp_path):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match=r"config\.json: cannot be written: No space left on device"):
        TrainDetector(data="flowers").save(tmp_path)
    assert list(tmp_path.iterdir()) == []
