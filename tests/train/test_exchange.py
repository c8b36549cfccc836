"""The mean of several processes is that of a plain sum, one process after the other."""

import sys

import pytest
import torch

from tests.train.exchange import COUNTS, numbers
from tests.train.test_processes import launch

pytestmark = pytest.mark.slow


def test_sums_begin_with_the_first_process(tmp_path):
    """Wherever a number lies; torch's own begin elsewhere for some."""
    by = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3")
    launch("-m", "tests.train.exchange", tmp_path / "mean", by=by)
    found = [torch.load(tmp_path / f"mean-{process}.pt") for process in range(3)]
    for row, count in enumerate(COUNTS):
        first, second, third = (numbers(count, process) for process in range(3))
        for means in found:
            assert torch.equal(means[row], (first + second + third) / 3)
