"""One trained run of each task for all tests of the command line."""

import contextlib
import io
from types import SimpleNamespace

import pytest

from detseg.cli import main
from tests.train.runs import QUICK, untimed


@pytest.fixture(autouse=True)
def at_once():
    """No time is spent on timing number formats: tests/train measures them."""
    with untimed():
        yield


def trained(task, data, folder, *words):
    """`folder` of a run by the whole command, and its `output` on the terminal."""
    output = io.StringIO()
    with untimed(), contextlib.redirect_stdout(output):
        code = main(["train", task, "--data", str(data), "--output", str(folder), *QUICK, *words])
    assert code == 0
    return SimpleNamespace(folder=folder, output=output.getvalue())


@pytest.fixture(scope="session")
def run(small, tmp_path_factory):
    """A detector."""
    words = ["--size", "96", "--epochs", "40", "--lr", "0.02", "--backbone-lr", "1"]
    return trained("detector", small, tmp_path_factory.mktemp("runs") / "my run", *words)


@pytest.fixture(scope="session")
def segmenter(masked, tmp_path_factory):
    """A segmenter."""
    words = ["--size", "96", "--epochs", "25", "--lr", "0.02", "--backbone-lr", "1"]
    return trained("segmenter", masked, tmp_path_factory.mktemp("runs") / "my segmenter", *words)


@pytest.fixture(scope="session")
def classifier(crops, tmp_path_factory):
    """A classifier."""
    words = ["--epochs", "12", "--lr", "0.02", "--accumulate", "2", "--find-lr"]
    return trained("classifier", crops, tmp_path_factory.mktemp("runs") / "my classifier", *words)


@pytest.fixture(scope="session")
def localizer(small, tmp_path_factory):
    """A localizer that has hardly learnt anything."""
    return trained("localizer", small, tmp_path_factory.mktemp("runs") / "my localizer", "--epochs", "1")
