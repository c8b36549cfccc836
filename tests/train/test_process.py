"""A run's place and parts before it trains: whose folder it is, its weights, its number format."""

import io
import os
import pickle
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from detseg.backbones import create_backbone
from detseg.models import models_of
from detseg.tasks import TASKS
from detseg.train.config import TrainDetector, config_for
from detseg.train.errors import TrainingError
from detseg.train.precision import Choice, Decision
from detseg.train.process import _require_at_first, process
from detseg.train.resume import save_state
from tests.train.runs import STATE

ARCHITECTURE = {
    "kind": "yolo",
    "backbone": "test_efficientnet",
    "strides": [8, 16, 32],
    "num_classes": 2,
    "anchors": [[[1.0, 1.0]]] * 3,
    "folded": True,
}


def config(folder, **settings):
    return TrainDetector(data=folder, backbone="test_efficientnet", **{"size": 64, "weights": "none"} | settings)


def test_a_folder_with_files_of_a_run_is_not_overwritten(tmp_path):
    for left, message in (
        ("resume.pt", "holds a run already; go on with it by --resume"),
        ("model.safetensors", "holds model.safetensors of an earlier run, without resume.pt; give another --output"),
        ("model.json", "holds model.json of an earlier run"),
        ("metrics.csv", "holds metrics.csv of an earlier run"),
        ("config.json", "holds a config.json of something else; give another --output, or delete that file"),
    ):
        (tmp_path / left).write_text("precious")
        with (
            pytest.raises(ValueError, match=f"{tmp_path}: {message}"),
            process(config(tmp_path, output=tmp_path)) as this,
        ):
            this.open_folder()
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(left, "precious")]
        (tmp_path / left).unlink()


def test_of_two_runs_that_start_at_once_one_gets_the_folder(tmp_path):
    """Both have looked before either writes."""
    mine = config(tmp_path, output=tmp_path / "run")
    with process(mine) as first, process(mine) as second:
        folder = first.open_folder()
        with pytest.raises(ValueError, match=rf"{folder}: process {os.getpid()} on .+ is training here since 20"):
            second.open_folder()
        second.release()
        assert TrainDetector.load(folder) == mine, "the other's are left alone"


def test_a_run_that_ends_before_it_saves_anything_leaves_its_place_to_the_next(tmp_path):
    mine = config(tmp_path, output=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), process(mine) as this:
        this.open_folder()
        raise KeyboardInterrupt
    assert list((tmp_path / "run").iterdir()) == []
    with process(mine) as this:
        (this.open_folder() / "resume.pt").touch()
    assert TrainDetector.load(tmp_path / "run") == mine


def test_a_run_that_was_killed_before_it_saved_anything_is_started_again(tmp_path):
    """Its options are there, and what it was writing."""
    mine = config(tmp_path, output=tmp_path, lr=0.5)
    config(tmp_path, output=tmp_path).save(tmp_path)
    (tmp_path / ".resume.pt.abcdefgh").touch()
    (tmp_path / ".resume.pt.mine").touch()
    with process(mine) as this:
        (this.open_folder() / "resume.pt").touch()
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            *(".resume.pt.mine", "config.json", "resume.pt", "run.lock")
        ]
    assert TrainDetector.load(tmp_path) == mine


@pytest.fixture
def begun(tmp_path):
    """A folder with a run that has done twelve steps, at a size that followed from its data."""
    replace(config(tmp_path, output=tmp_path), size=96).save(tmp_path)
    save_state(tmp_path / "resume.pt", STATE | {"step": 12, "elapsed": 3.5})
    return tmp_path


def test_two_cannot_go_on_with_one_run(begun):
    with process(TrainDetector(resume=begun)):
        for second in (TrainDetector(resume=begun), config(begun, output=begun)):
            with (
                pytest.raises(ValueError, match=rf"^{begun}: process {os.getpid()} on .+ is training here"),
                process(second),
            ):
                pass
    with process(TrainDetector(resume=begun)) as this:
        assert this.state["step"] == 12
    assert not (begun / "run.lock").exists()


def test_after_a_launcher_has_started_all_again_the_same_command_goes_on(begun, monkeypatch):
    mine, console = config(begun, output=begun, size=None, device="cpu"), Console(file=io.StringIO(), width=20)
    with pytest.raises(ValueError, match="holds a run already"), process(mine):
        pass
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with process(mine, console) as this:
        assert (this.folder, this.state["step"], this.config.size, this.start) == (begun, 12, 96, None)
    assert console.file.getvalue() == f"started again: {begun} goes on from step 12\n"
    for other in (replace(mine, seed=1), replace(mine, size=64)):
        with pytest.raises(ValueError, match="holds a run already"), process(other):
            pass
    with process(replace(mine, output=begun / "new")) as this:
        assert this.state is None


def test_options_of_every_model_reach_other_processes():
    """As pickles: their classes are made when asked for."""
    for task, entry in TASKS.items():
        for model in models_of(entry.models):
            options = config_for(task, model)(data=Path("flowers"), lr=0.5)
            assert pickle.loads(pickle.dumps(options)) == options


def test_runs_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "detector-1").mkdir(parents=True)
    with process(config(tmp_path)) as this:
        assert this.open_folder().name == "detector-2"


def test_auto_prints_what_it_measured(tmp_path, monkeypatch):
    """Images are those of a batch: 2 in 0.5 and in 0.8 seconds."""
    fast, slow = Choice("fp32", True), Choice("bf16", True)
    asked, answers = [], []
    monkeypatch.setattr(
        "detseg.train.process.choose", lambda *given: asked.append(given) or Decision(fast, *answers[-1])
    )
    for answer, printed in (
        (({fast: 0.5, slow: 0.8},), f"precision: {fast}, 4.0 images/s ({slow} 0.62 x as fast)\n"),
        (({fast: 0.5},), f"precision: {fast}, 4.0 images/s\n"),
        (
            ({fast: 0.5, slow: 0.4}, False),
            f"precision: {fast}, 4.0 images/s ({slow} 1.25 x as fast); the times contradict each other, as on a busy "
            "machine: it is looked at again later\n",
        ),
    ):
        answers.append(answer)
        console = Console(file=io.StringIO(), width=200)
        with process(config(tmp_path, batch_size=2), console) as this:
            assert this.choose_precision(ARCHITECTURE, 3) == fast
            assert (this.choose_again is None) == (len(answer) == 1)
        assert console.file.getvalue() == printed
    spec, precision = asked[0]
    assert (spec["architecture"], spec["freeze"], spec["norms_rest"]) == (ARCHITECTURE, 3, True)
    assert (spec["size"], spec["batch_size"], precision) == (64, 2, "auto")


@pytest.mark.parametrize("sure", [True, False])
def test_what_was_not_clear_is_looked_at_again_in_a_resumed_run_too(tmp_path, monkeypatch, sure):
    fast, slow = Choice("fp32", True), Choice("bf16", True)
    asked = []
    found = Decision(fast if sure else slow, {fast: 0.5, slow: 0.8}, sure)
    monkeypatch.setattr("detseg.train.process.choose_again", lambda *given: asked.append(given) or found)
    console = Console(file=io.StringIO(), width=200)
    with process(config(tmp_path, batch_size=2), console) as this:
        this.state = {"choice": ["bf16", True], "unsure": True}
        assert this.choose_precision(ARCHITECTURE, 3) == slow and not console.file.getvalue()
        assert this.choose_again() == found.choice
        this.state["unsure"], this.choose_again = False, None
        assert this.choose_precision(ARCHITECTURE, 3) == slow and this.choose_again is None
    assert console.file.getvalue().startswith(f"precision: {found.choice}, ")
    assert ("the choice stays" in console.file.getvalue()) == (not sure)
    ((spec, choice),) = asked
    assert (spec["architecture"], spec["freeze"], choice) == (ARCHITECTURE, 3, slow)


@pytest.mark.slow
def test_a_precision_is_measured_in_a_child(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    with process(config(tmp_path, batch_size=1, precision="fp32"), console) as this:
        assert this.choose_precision(ARCHITECTURE, 0) == Choice("fp32", True)
    assert re.fullmatch(r"precision: float32, channels_last, \d+\.\d images/s\n", console.file.getvalue())


def test_what_was_taken_of_a_file_of_weights_is_printed(tmp_path):
    file = tmp_path / "weights.pt"
    tensors = create_backbone("test_efficientnet").state_dict()
    torch.save(tensors | {"head.weight": torch.zeros(3)}, file)
    console = Console(file=io.StringIO(), width=60)
    with process(config(tmp_path, weights=str(file)), console) as this:
        this.build(ARCHITECTURE)
    printed = console.file.getvalue()
    assert printed == f"weights from {file}: {len(tensors)} tensors copied, 1 skipped (head.weight)\n"


def test_weights_that_cannot_be_had(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise RuntimeError("the hub cannot be reached")

    monkeypatch.setattr("detseg.train.start.build_model", unreachable)
    with (
        process(config(tmp_path, weights="pretrained")) as this,
        pytest.raises(TrainingError, match=r"^test_efficientnet: the hub cannot be reached$"),
    ):
        this.build(ARCHITECTURE)


@pytest.mark.parametrize(("holders", "fine"), [((), True), ((0,), True), ((0, 2), True), ((2,), False)])
def test_a_run_that_only_another_machine_has_is_not_begun_anew(holders, fine, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "detseg.train.process.gather_object", lambda _: [(rank in holders, f"node-{rank}") for rank in range(3)]
    )
    accelerator = SimpleNamespace(num_processes=3)
    told = pytest.raises(ValueError, match=r"run: .* disk of process 2 \(on node-2\), .* \(on node-0\) does not see")
    with nullcontext() if fine else told:
        _require_at_first(accelerator, tmp_path / "run")
    _require_at_first(SimpleNamespace(num_processes=1), tmp_path / "run")
