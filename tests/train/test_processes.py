"""Two processes on the CPU train one model."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from detseg.cli import main
from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_annotations
from detseg.models import load_model
from tests.evaluating import evaluate
from tests.small_set import write_small_set
from tests.train.failing import BAD_STEP
from tests.train.processes import SETTINGS
from tests.train.runs import differences, state_of

ROOT = Path(__file__).resolve().parents[2]
TRAIN, VAL = 9, 5


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def started(*words, by=TORCHRUN):
    """A launcher of two processes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([*by, *map(str, words)], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def launch(*words, by=TORCHRUN):
    """Let two processes run to their end; returns what they print."""
    launcher = started(*words, by=by)
    output, errors = launcher.communicate(timeout=900)
    assert launcher.returncode == 0, errors[-3000:]
    return output


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder of a run by two processes, and what each of them held at its end."""
    folder = tmp_path_factory.mktemp("processes")
    data = write_small_set(folder / "data", train=TRAIN, val=VAL)
    launch("-m", "tests.train.processes", data, folder / "run")
    ends = [torch.load(folder / f"run-{rank}.pt", weights_only=False) for rank in (0, 1)]
    return folder / "run", ends


@pytest.mark.slow
def test_both_end_with_the_same_weights(together):
    _, (first, second) = together
    assert first["step"] == second["step"] == 3 * (TRAIN // 4)
    assert differences(first["weights"], second["weights"]) == []
    # The average holds batch norm statistics too: each process gathers its own, validated and saved are the first's.
    assert differences(first["average"], second["average"]) == []


@pytest.mark.slow
def test_one_of_them_writes(together):
    folder, _ = together
    with (folder / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 6
    state = state_of(folder)
    assert state["world"] == 2
    assert state["step"] == 6


@pytest.mark.slow
def test_every_validation_image_is_predicted_once_by_the_model_that_is_saved(together):
    folder, (first, second) = together
    assert second["predictions"] is None
    assert len(first["predictions"]) == VAL
    data = DetectionDataset(read_annotations(folder.parent / "data" / "val.json"), SETTINGS["size"])
    model = load_model(folder)[0].to(memory_format=torch.channels_last)
    for found, expected in zip(
        first["predictions"], evaluate("detector", model, data, SETTINGS["size"])[1], strict=True
    ):
        np.testing.assert_allclose(found["scores"][:20], expected["scores"][:20], atol=1e-4)


@pytest.mark.slow
def test_all_name_the_images_of_the_one_whose_loss_it_was_and_the_state_is_saved_now_and_then(tmp_path):
    launch("-m", "tests.train.failing", tmp_path / "run")
    first, second = (json.loads((tmp_path / f"run-{rank}.json").read_text()) for rank in (0, 1))
    assert first["error"] == second["error"]
    assert f"the loss became nan at step {BAD_STEP};" in first["error"]
    named = [line.strip() for line in first["error"].splitlines() if line.endswith(".jpg")]
    assert named == second["images"] != first["images"]
    # Processes agree on saving every ten steps; a validation, at which one is saved too, comes much later.
    assert state_of(tmp_path / "run")["step"] == 10


@pytest.mark.slow
def test_both_end_early_at_the_same_step(together, tmp_path):
    """Only one of them knows the figures."""
    launch("-m", "tests.train.processes", together[0].parent / "data", tmp_path / "run", "detector", 2)
    first, second = (torch.load(tmp_path / f"run-{rank}.pt", weights_only=False) for rank in (0, 1))
    assert first["step"] == second["step"] in range(3, 10), "after the third validation of twenty steps"
    assert first["metrics"] is not None and second["metrics"] is None
    assert differences(first["weights"], second["weights"]) == []


@pytest.mark.slow
def test_two_processes_stopped_and_resumed_end_as_they_would_have_without(together, tmp_path):
    """SIGTERM to the launcher, as by a cluster's scheduler."""
    data = together[0].parent / "data"
    settings = "--backbone test_efficientnet --weights none --size 64 --epochs 20 --batch-size 2 --precision fp32"
    train = ("-m", "detseg", "train", "detector")
    common = (*train, "--data", data, *settings.split(), "--output")
    launch(*common, tmp_path / "whole")
    parts = tmp_path / "parts"
    launcher = started(*common, parts)
    while not (parts / "resume.pt").exists() and launcher.poll() is None:
        time.sleep(0.02)
    launcher.terminate()
    output, errors = launcher.communicate(timeout=900)
    assert f"interrupted; go on with: detseg train detector --resume {parts}" in output, errors[-3000:]
    assert state_of(parts)["step"] in range(1, 40)
    launch(*train, "--resume", parts)
    assert state_of(parts)["step"] == 40
    assert differences(state_of(tmp_path / "whole"), state_of(parts)) == []
    saved = [dict(load_model(folder)[0].state_dict()) for folder in (tmp_path / "whole", parts)]
    assert differences(*saved) == []


@pytest.mark.slow
def test_accelerate_launches_two_processes_on_a_cpu(together, tmp_path):
    """As docs/train.md prints it."""
    accelerate = (Path(sys.executable).parent / "accelerate", "launch", "--multi_gpu", "--num_processes", "2")
    words = "--no_python detseg train detector --backbone test_efficientnet --weights none --size 64 --epochs 1"
    output = launch(
        *words.replace("detseg", str(Path(sys.executable).parent / "detseg"), 1).split(),
        *("--data", together[0].parent / "data", "--batch-size", "2", "--precision", "fp32"),
        *("--output", tmp_path / "run"),
        by=accelerate,
    )
    assert ", 2 processes, 1 epochs" in output, output
    assert state_of(tmp_path / "run")["world"] == 2


@pytest.mark.slow
def test_one_process_cannot_go_on_alone(together, capsys):
    assert main(["train", "detector", "--resume", str(together[0])]) == 1
    assert "started with 2 processes; resume it with as many, not 1" in capsys.readouterr().err
