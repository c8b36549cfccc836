"""What a run logs and prints: rows, lines, a bar."""

import csv
import io
import os
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from detseg.reading import FileError
from detseg.report.plots.history import plot_history
from detseg.train.log import RunLog
from detseg.train.metrics_file import read_metrics

FIGURES = {"map": "mAP@[.5:.95]", "map50": "mAP@.50"}


def row(step, score=0.25):
    return {"epoch": step / 3, "step": step, "seconds": 6.0, "lr": 0.1, "loss": 1.5, "map": score, "map50": 0.5}


def steps_in(folder):
    with (folder / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path, Console(file=io.StringIO(), width=60), FIGURES)


def test_a_resumed_run_rewrites_the_rows_after_its_step(log, tmp_path):
    with log:
        for step in (3, 6, 9):
            log.validated(row(step))
        log.rewind(6)
        assert steps_in(tmp_path) == [3, 6]
        log.validated(row(9))
    assert steps_in(tmp_path) == [3, 6, 9]
    assert plot_history(tmp_path / "metrics.csv", tmp_path / "history.png", FIGURES).is_file()


def test_rewound_to_the_start(log, tmp_path):
    log.rewind(0)
    log.validated(row(3))
    log.rewind(0)
    log.validated(row(4))
    assert steps_in(tmp_path) == [4]


@pytest.mark.parametrize("cut", ["", "epoch,st", "epoch,step,seconds,lr,loss,map,map50\n1,3,6.0"])
def test_rows_that_a_crash_has_cut_are_dropped(log, tmp_path, cut):
    (tmp_path / "metrics.csv").write_text(cut)
    log.rewind(3)
    log.validated(row(3))
    assert steps_in(tmp_path) == [3]


HEADER = "epoch,step,seconds,lr,loss,map,map50"
GOOD = "1,3,6.0,0.1,1.5,0.2,0.5"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{HEADER}\n{GOOD}\n{GOOD.replace('3', 'x', 1)}\n", "line 3, column 'step': 'x' is not a number"),
        (f"{HEADER}\n{GOOD},7\n", "line 2: has more columns than the first line"),
        (f"{HEADER}\na,b,c,d\n{GOOD}\n", "line 2: has fewer columns than the first line"),
        (f"{HEADER}\n{GOOD}\n1,3\n", "line 3: has fewer columns than the first line"),
        (f"{HEADER.replace('step', 'stop')}\n{GOOD}\n", "line 1: there is no column 'step'"),
        (f"{HEADER},map\n{GOOD},1\n", "line 1: a column is there twice"),
        (f"{HEADER}\n{GOOD}\n".encode() + b"\xff,3", "line 3: is not UTF-8 text"),
        (f"{HEADER}\n{GOOD}\n{'x' * 200_000}", "line 3: field larger than field limit"),
    ],
)
def test_damaged_metrics_are_refused_by_file_and_line(log, tmp_path, content, message):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FileError) as error:
        log.rewind(3)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "correct it there, or delete the file" in str(error.value)


def test_metrics_in_place_of_which_a_folder_stands(log, tmp_path):
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(FileError, match=r"metrics\.csv: cannot be read: Is a directory"):
        log.rewind(3)


def test_other_output_than_a_terminal_gets_whole_lines_and_nothing_else(tmp_path):
    out = io.StringIO()
    with RunLog(tmp_path, Console(file=out, width=40), FIGURES) as log:
        log.step(10, 0.5, {"loss_box": 1.0}, 80)
        log.validated(row(3))
        log.validated(row(6, 0.5))
    lines = out.getvalue().split("\n")
    assert lines.pop() == ""
    assert [re.sub(" +", " ", line) for line in lines] == [
        "epoch 1.0 0.1 min loss 1.500 mAP@[.5:.95] 0.250 mAP@.50 0.500",
        "epoch 2.0 0.1 min loss 1.500 mAP@[.5:.95] 0.500 mAP@.50 0.500",
    ]


def test_a_terminal_gets_a_bar(tmp_path):
    out = io.StringIO()
    with RunLog(tmp_path, Console(file=out, width=100, force_terminal=True), FIGURES) as log:
        log.validated(row(3))
        log.step(10, 0.5, {"loss_box": 1.0, "loss_class": 0.5}, 80)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert re.search(r"loss 1\.500 · mAP 0\.250 · [0-9.]+ images/s .* 50% .* gone, .* left", shown)


def test_other_processes_are_silent(tmp_path):
    out = io.StringIO()
    with RunLog(tmp_path, Console(file=out), FIGURES, visible=False) as log:
        log.step(10, 0.5, {"loss_box": 1.0}, 80)
        log.validated(row(3))
    assert out.getvalue() == ""
    assert list(tmp_path.iterdir()) == []


def test_callbacks_are_told_of_what_is_shown(tmp_path):
    told = []
    callbacks = SimpleNamespace(
        step=lambda step, values: told.append((step, values)), validation=lambda row: told.append(row)
    )
    for visible in (True, False):
        with RunLog(tmp_path, Console(quiet=True), FIGURES, visible=visible, callbacks=callbacks) as log:
            log.step(10, 0.1, {"loss_box": 1.0, "loss_class": 0.5}, 8)
            log.validated(row(30))
    (step, values), validation = told
    rate = values.pop("images_per_second")
    assert (step, values, validation) == (10, {"loss": 1.5, "loss_box": 1.0, "loss_class": 0.5}, row(30)) and rate > 0


def test_metrics_that_are_a_pipe_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(FileError, match=r"metrics\.csv: is a pipe and no file"):
        read_metrics(tmp_path / "metrics.csv")
