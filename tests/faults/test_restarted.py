"""A launcher that starts all processes again after one has died: the same command goes on with its run."""

import signal

import pytest

from detseg.train.resume import RESUME
from tests.faults.runs import QUICK, Started, finished, same
from tests.small_set import write_small_set
from tests.train.runs import state_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_processes_dies_once(rank, tmp_path):
    data = write_small_set(tmp_path / "data", train=8)
    words = ("detector", "--data", data, *QUICK, "--epochs", "20", "--output")
    finished(*words, tmp_path / "whole", processes=2)
    run = Started(*words, tmp_path / "parts", processes=2, launcher=("--max-restarts", "1"))
    step = run.wait_until_under_way(tmp_path / "parts")
    run.trainers()[rank].send_signal(signal.SIGKILL)
    code, output = run.end()
    print(f"killed process {rank} after step {step}")
    assert code == 0, output[-3000:]
    assert f"started again: {tmp_path / 'parts'} goes on from step" in output
    same(tmp_path / "whole", tmp_path / "parts")


def test_one_that_dies_before_anything_is_saved_begins_anew(tmp_path):
    """Its options are there already."""
    data = write_small_set(tmp_path / "data", train=8)
    words = ("detector", "--data", data, *QUICK, "--epochs", "1", "--output", tmp_path / "run")
    run = Started(*words, processes=2, launcher=("--max-restarts", "1"))
    run.wait_for(tmp_path / "run" / "config.json")
    run.trainers()[1].send_signal(signal.SIGKILL)
    begun = (tmp_path / "run" / RESUME).exists()
    code, output = run.end()
    assert code == 0, output[-3000:]
    print(f"a state had been saved: {begun}")
    assert state_of(tmp_path / "run")["step"] == 2
