"""One trained run for all tests of the command line."""

import contextlib
import io
from types import SimpleNamespace

import pytest

from detseg.cli import main
from tests.small_masks import write_small_masks
from tests.small_set import write_small_set


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A COCO folder of bright rectangles."""
    return write_small_set(tmp_path_factory.mktemp("data") / "small", train=8)


@pytest.fixture(scope="session")
def run(small, tmp_path_factory):
    """`folder` of a run by the whole command, and its `output` on the terminal."""
    folder = tmp_path_factory.mktemp("runs") / "my run"
    words = "--backbone test_efficientnet --weights none --size 96 --epochs 40 --batch-size 4 --lr 0.02 --backbone-lr 1"
    output = io.StringIO()
    # Not what happens to be the fastest: what the tests expect must not depend on the load of the machine.
    with contextlib.redirect_stdout(output):
        code = main(
            ["train", "detector", "--data", str(small), "--output", str(folder), *words.split(), "--precision", "fp32"]
        )
    assert code == 0
    return SimpleNamespace(folder=folder, output=output.getvalue())


@pytest.fixture(scope="session")
def masked(tmp_path_factory):
    """A folder of bright shapes with masks."""
    return write_small_masks(tmp_path_factory.mktemp("data") / "masked")


@pytest.fixture(scope="session")
def segmenter(masked, tmp_path_factory):
    """`folder` of a segmenter's run by the whole command, and its `output` on the terminal."""
    folder = tmp_path_factory.mktemp("runs") / "my segmenter"
    words = "--backbone test_efficientnet --weights none --size 96 --epochs 25 --batch-size 4 --lr 0.02 --backbone-lr 1"
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        no_timing(patch)
        code = main(["train", "segmenter", "--data", str(masked), "--output", str(folder), *words.split()])
    assert code == 0
    return SimpleNamespace(folder=folder, output=output.getvalue())


@pytest.fixture
def at_once(monkeypatch):
    """No time is spent on timing number formats."""
    no_timing(monkeypatch)


def no_timing(monkeypatch):
    from detseg.train.precision import Choice

    choice = Choice("fp32", True)
    monkeypatch.setattr("detseg.train.process.choose", lambda spec, precision: (choice, {choice: 1.0}))
