"""Whole commands whose output goes wrong: readers that leave, closed streams, full disks, terminals of few letters."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.small_set import write_small_set
from tests.train.runs import QUICK

pytestmark = pytest.mark.slow
ONCE = [*QUICK, "--epochs", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp("data") / "small", train=4, val=2)


def shell(line, *words, **environment):
    """A line of a shell in which "$@" is a command of detseg: its exit code and what it printed."""
    command = ["bash", "-c", line, "detseg", sys.executable, "-m", "detseg", *map(str, words)]
    done = subprocess.run(command, capture_output=True, env=os.environ | environment, check=False)
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


@pytest.mark.parametrize("words", [["--help"], ["train", "detector", "--help"], ["backbones"]])
def test_readers_that_leave(words):
    code, out, err = shell('"$@" | head -1; exit ${PIPESTATUS[0]}', *words)
    assert (code, err) == (0, "") and out.count("\n") == 1


def test_training_goes_on_when_nobody_reads(data, tmp_path):
    code, _, err = shell(
        '"$@" 2>&1 | head -1; exit ${PIPESTATUS[0]}',
        "train",
        "detector",
        "--data",
        data,
        *ONCE,
        "--output",
        tmp_path / "run",
    )
    assert (code, err) == (0, "")
    assert {"model.safetensors", "resume.pt", "report.html"} <= {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams(data, tmp_path, closed):
    code, _, err = shell(f'"$@" {closed}', "show", data, "--output", tmp_path / "out")
    assert code == 0 and "Traceback" not in err
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("words", [[], ["--version"], ["backbones"]])
def test_full_output(words):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("this system has no /dev/full")
    code, _, err = shell('"$@" >/dev/full', *words)
    assert code == 1 and "Traceback" not in err
    assert "No space left on device" in err


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
)
def test_terminals_of_few_letters(data, tmp_path, environment):
    (tmp_path / "set").mkdir()
    shutil.copytree(data, tmp_path / "set/Gänse")
    for split in ("train", "val"):
        file = tmp_path / f"set/Gänse/{split}.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content["categories"][0]["name"] = "Gänseblümchen ²雛"
        for image in content["images"]:
            new = f"ä{image['file_name']}"
            (tmp_path / "set/Gänse/images" / image["file_name"]).rename(tmp_path / "set/Gänse/images" / new)
            image["file_name"] = new
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    code, out, err = shell('"$@"', "show", tmp_path / "set/Gänse", "--output", tmp_path / "out", **environment)
    assert code == 0, err
    assert "�" not in out or environment == {"PYTHONIOENCODING": "latin-1"}
    assert r"\u96db" in out and "│" not in out and "|" in out
    assert "Gänseblümchen ²雛" in (tmp_path / "out/index.html").read_text(encoding="utf-8")
    words = ["crops", "--data", tmp_path / "set/Gänse", "--output", tmp_path / "crops", "--min-side", "4"]
    code, out, err = shell('"$@"', *words, **environment)
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "crops/val").iterdir()) == ["Gänseblümchen ²雛", "bar"]


@pytest.fixture
def disk(tmp_path):
    """Makes a disk of a size of its own, or the one that was made larger; where that is allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def make(size, *options):
        again = ["remount"] if place.is_mount() else []
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join([*again, f"size={size}", *options]), "tmpfs", place],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"disks cannot be mounted here: {done.stderr.decode().strip()}")
        return place

    yield make
    subprocess.run(["umount", place], capture_output=True, check=False)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("16k", ["crops", "--min-side", "4", "--data"]),
        ("16k", ["windows", "--data"]),
        ("8k", ["convert", "--to", "coco", "--images", "copy"]),
        ("8k", ["convert", "--to", "yolo", "--crowd", "drop"]),
        ("40k", ["show"]),
    ],
)
def test_full_disks(data, disk, size, words):
    place = disk(size)
    code, _, err = shell('"$@"', *words, data, "--output", place / "out")
    error = err.splitlines()[-1]
    assert code == 1 and error.startswith(f"error: {place}/out/") and "cannot be written: No space left" in error
    assert not list(place.rglob("*")), "half a data set could be taken for a whole one"


def test_a_disk_that_is_full_after_some_images(data, disk, tmp_path):
    code, _, err = shell('"$@"', "train", "detector", "--data", data, *ONCE, "--output", tmp_path / "run")
    assert code == 0, err
    place = disk("16k")  # a drawing takes a page of 4k at least
    words = ("predict", tmp_path / "run", data / "images", "--output", place / "out")
    code, out, err = shell('"$@"', *words)
    written = {path.name for path in (place / "out").iterdir()}
    print(f"{len(written)} drawings were written")
    assert code == 1 and len(written) >= out.count("\n") and all(name.endswith(".jpg") for name in written)
    assert f"No space left on device; {out.count(chr(10))} of 6 images are written" in err
    place = disk("1m")
    code, out, err = shell('"$@"', *words)
    assert code == 0, err
    assert {path.name for path in (place / "out").iterdir()} > written | {"detections.json"}
    for exported in ("torchscript", "onnx"):
        code, _, err = shell(
            '"$@"',
            "export",
            tmp_path / "run",
            "--images",
            "0",
            "--format",
            exported,
            "--output",
            place / "m" / f"m.{exported}",
        )
        assert code == 1 and "cannot be written: No space left on device" in err, err
        assert not list((place / "m").iterdir())


def test_a_disk_that_is_read_only(data, disk):
    place = disk("1m", "ro")
    for words in (["show", data], ["crops", "--data", data], ["convert", data, "--to", "coco"]):
        code, _, err = shell('"$@"', *words, "--output", place / "out")
        assert code == 1 and f"{place}/out" in err.splitlines()[-1] and "Read-only file system" in err
