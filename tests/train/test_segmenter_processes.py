"""Two processes on the CPU train one segmenter."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from detseg.data.dataset import SegmentationDataset
from detseg.data.formats import read_masks
from detseg.models import load_model
from tests.evaluating import evaluate
from tests.small_masks import write_small_masks
from tests.train.processes import SETTINGS
from tests.train.runs import differences

ROOT = Path(__file__).resolve().parents[2]
TRAIN, VAL = 8, 5


pytestmark = pytest.mark.slow  # those of detectors take the same way through training


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The folder of a run by two processes, and what each of them held at its end."""
    folder = tmp_path_factory.mktemp("processes")
    data = write_small_masks(folder / "data", train=TRAIN, val=VAL)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "tests.train.processes", str(data), str(folder / "run"), "segmenter"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", [torch.load(folder / f"run-{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_both_end_with_the_same_segmenter(both):
    _, (first, second) = both
    assert first["step"] == second["step"] == 3 * (TRAIN // 4)
    assert differences(first["weights"], second["weights"]) == []
    assert differences(first["average"], second["average"]) == []


def test_images_that_both_evaluated_are_counted_together(both):
    """Five are shared out to two processes; the figures are those of one process with the saved model."""
    folder, (first, second) = both
    assert second["metrics"] is None
    data = SegmentationDataset(read_masks(folder.parent / "data", "val"), SETTINGS["size"])
    model = load_model(folder)[0].to(memory_format=torch.channels_last)
    expected = evaluate("segmenter", model, data, SETTINGS["size"])[0]
    assert first["metrics"].images.image_ids.tolist() == data.annotations.image_ids.tolist()
    assert np.abs(first["metrics"].confusion - expected.confusion).sum() <= 0.002 * expected.confusion.sum()
