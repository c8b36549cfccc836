"""What a run logs and prints: rows, lines, a bar."""

import csv
import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from detseg.reading import FileError
from detseg.report.plots.history import plot_history
from detseg.train.log import RunLog

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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epoch,step\n1,3\n2,six\n", "line 3: the step is no number: 'six'"),
        (b"epoch,steps\n1,3\n", 'line 2: there is no column "step"'),
        (b"epoch,step\n\xff,3\n", "cannot be read: 'utf-8' codec can't decode"),
        (b"epoch,step\n\x00,3\n" + b'"' + b"9" * 200000, "cannot be read: field larger than field limit"),
    ],
)
def test_damaged_rows_are_named(log, tmp_path, content, message):
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(FileError) as error:
        log.rewind(3)
    assert str(error.value).startswith(f"{tmp_path / 'metrics.csv'}: {message}")
    assert "mend it, or remove the file" in str(error.value)
    assert (tmp_path / "metrics.csv").read_bytes() == content


def test_a_folder_in_place_of_the_rows(log, tmp_path):
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
