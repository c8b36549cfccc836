"""Two processes on the CPU train one model from one packed file, which each of them opens for itself."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_annotations, read_dataset
from detseg.data.pack.datasets import write_pack
from detseg.models import load_model
from tests.evaluating import evaluate
from tests.small_set import write_small_set
from tests.train.processes import SETTINGS
from tests.train.runs import differences

ROOT = Path(__file__).resolve().parents[2]
TRAIN, VAL = 9, 5


@pytest.mark.slow
def test_two_processes_read_one_pack(tmp_path):
    file = tmp_path / "set.h5"
    write_pack(file, read_dataset(write_small_set(tmp_path / "data", train=TRAIN, val=VAL)), 80, chunk=4)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "tests.train.processes", str(file), str(tmp_path / "run")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"run-{rank}.pt", weights_only=False) for rank in (0, 1))
    assert first["step"] == second["step"] == 3 * (TRAIN // 4)
    assert differences(first["weights"], second["weights"]) == []
    assert done.stderr.count("get blurred by enlarging") == 0, "80 px are 1.25 times 64"
    assert len(first["predictions"]) == VAL and second["predictions"] is None
    data = DetectionDataset(read_annotations(file, "val"), SETTINGS["size"])
    model = load_model(tmp_path / "run")[0].to(memory_format=torch.channels_last)
    expected = evaluate("detector", model, data, SETTINGS["size"])[1]
    for found, wanted in zip(first["predictions"], expected, strict=True):
        np.testing.assert_allclose(found["scores"][:20], wanted["scores"][:20], atol=1e-4)
