"""What stops a run, and what is said then: out of memory, a full disk, processes that were killed."""

import errno
from types import SimpleNamespace

import pytest
import torch

from detseg.reading import FileError
from detseg.train.config import TrainDetector
from detseg.train.errors import TrainingError, faults, memory_advice
from detseg.train.resume import save_state
from tests.train.runs import STATE


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_says_what_helps(error):
    process = SimpleNamespace(config=TrainDetector(batch_size=8, accumulate=2, size=320))
    with pytest.raises(TrainingError, match="8 images of 320 px") as found, memory_advice(process):
        raise error
    assert "--batch-size 4 --accumulate 4 " in str(found.value) and "--size 160" in str(found.value)
    process.config = TrainDetector(batch_size=1, size=320)
    with pytest.raises(TrainingError, match="--batch-size 1 --accumulate 1 "), memory_advice(process):
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="something else"), memory_advice(SimpleNamespace(config=TrainDetector())):
        raise RuntimeError("something else")


def stood_for(folder, *, main=True, processes=1):
    """What `faults` asks a process for."""
    accelerator = SimpleNamespace(is_main_process=main, num_processes=processes, process_index=int(not main))
    config = SimpleNamespace(task="detector")
    return SimpleNamespace(folder=folder, accelerator=accelerator, config=config, require_folder=lambda: None)


def turned(error, process):
    """The message of what `faults` makes of an error."""
    with pytest.raises(TrainingError) as raised, faults(process):
        raise error
    return str(raised.value)


def test_what_comes_from_outside_tells_what_is_kept(tmp_path):
    folder = tmp_path / "my run"
    save_state(folder / "resume.pt", STATE | {"step": 12})
    process = stood_for(folder)
    again = f"and go on with: detseg train detector --resume '{folder}'"
    full = OSError(errno.ENOSPC, "No space left on device")
    kept = "the state of step 12 is kept"
    assert turned(full, process) == f"{folder}: No space left on device; {kept}; free room, {again}"
    wrong = PermissionError(errno.EROFS, "Read-only file system", "run/metrics.csv")
    assert turned(wrong, process) == f"run/metrics.csv: Read-only file system; {kept}; mend that, {again}"
    (folder / "resume.pt").unlink()
    assert turned(full, process).endswith("; nothing had been saved; free room, and start the run again")


def test_data_that_is_gone_tells_what_is_kept_and_how_to_go_on(tmp_path):
    save_state(tmp_path / "run/resume.pt", STATE | {"step": 12})
    gone = FileError("images/a.png: the image cannot be read: No such file or directory")
    for error in (gone, FileError(f"Caught\nOriginal Traceback (most recent call last):\nFileError: {gone}")):
        with pytest.raises(ValueError) as raised, faults(stood_for(tmp_path / "run")):
            raise error
        kept = "the state of step 12 is kept; put that right, and go on with: detseg train detector --resume "
        assert str(raised.value) == f"{gone}; {kept}{tmp_path / 'run'}"
    own = FileError(f"{tmp_path}/run/resume.pt: step: is -1")
    with pytest.raises(FileError, match=r"is -1$"), faults(stood_for(tmp_path / "run")):
        raise own


def test_killed_workers_and_processes(tmp_path):
    worker = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert turned(worker, stood_for(tmp_path)).startswith(
        "a process that prepares images was killed (DataLoader worker"
    )
    gone = RuntimeError("[/src/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4")
    message = turned(gone, stood_for(tmp_path, main=False, processes=2))
    assert message.startswith("process 2 of 2: another one has ended, or cannot be reached; its own message says why (")
    assert "saved" not in message, "that is for the first process to say"
    timed_out = torch.distributed.DistBackendError("NCCL watchdog")
    assert turned(timed_out, stood_for(tmp_path, processes=2)).startswith("process 1 of 2: another one has ended")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("of our own"), BrokenPipeError(), ValueError("wrong\noption"), TrainingError("known"), KeyError(3)],
)
def test_what_is_no_fault_from_outside_stays(tmp_path, error):
    with pytest.raises(type(error)) as raised, faults(stood_for(tmp_path)):
        raise error
    assert raised.value is error


def test_before_a_run_has_a_folder_its_files_are_not_meant():
    with pytest.raises(FileNotFoundError), faults(stood_for(None)):
        raise FileNotFoundError("weights.pt")


class Broken:
    """A data set whose file cannot be read."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise FileError("pack.h5: damaged: Can't read data.\nCopy it again")


def test_what_a_data_worker_has_raised_comes_without_its_traceback(tmp_path):
    with pytest.raises(ValueError) as raised, faults(stood_for(tmp_path)):
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1, multiprocessing_context="fork")))
    assert str(raised.value).startswith("pack.h5: damaged: Can't read data.\nCopy it again; nothing had been saved")
