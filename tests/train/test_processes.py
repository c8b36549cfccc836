"""Two processes on the CPU train one model."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from detseg.cli import main
from detseg.data.dataset import DetectionDataset
from detseg.data.readers import read_annotations
from detseg.train.checkpoint import load_model
from detseg.train.detector import predict_dataset
from tests.small_set import write_small_set
from tests.train.processes import SETTINGS
from tests.train.runs import differences, state_of

ROOT = Path(__file__).resolve().parents[2]
TRAIN, VAL = 9, 5


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder of a run by two processes, and what each of them held at its end."""
    folder = tmp_path_factory.mktemp("processes")
    data = write_small_set(folder / "data", train=TRAIN, val=VAL)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "-m", "tests.train.processes", str(data), str(folder / "run")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ends = [torch.load(folder / f"run-{rank}.pt", weights_only=False) for rank in (0, 1)]
    return folder / "run", ends


def test_both_end_with_the_same_weights(together):
    _, (first, second) = together
    assert first["step"] == second["step"] == 3 * (TRAIN // 4)
    assert differences(first["weights"], second["weights"]) == []
    # The average holds batch norm statistics too: each process gathers its own, validated and saved are the first's.
    assert differences(first["average"], second["average"]) == []


def test_one_of_them_writes(together):
    folder, _ = together
    with (folder / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 6
    state = state_of(folder)
    assert state["world"] == 2
    assert state["step"] == 6


def test_every_validation_picture_is_predicted_once_by_the_model_that_is_saved(together):
    folder, (first, second) = together
    assert second["predictions"] is None
    assert len(first["predictions"]) == VAL
    data = DetectionDataset(read_annotations(folder.parent / "data" / "val.json"), SETTINGS["size"])
    model = load_model(folder)[0].to(memory_format=torch.channels_last)
    for found, expected in zip(
        first["predictions"], predict_dataset(model, data, range(VAL), SETTINGS["size"]), strict=True
    ):
        np.testing.assert_allclose(found["scores"][:20], expected["scores"][:20], atol=1e-4)


def test_one_process_cannot_go_on_alone(together, capsys):
    assert main(["train", "detector", "--resume", str(together[0])]) == 1
    assert "started with 2 processes; resume it with as many, not 1" in capsys.readouterr().err
