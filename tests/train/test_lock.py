"""A run folder belongs to one process, until that ends, however it ends."""

import os
import shutil
import signal

import pytest

from detseg.train.lock import LOCK, RunLock


def forked(act):
    """The number of a process that does `act` and then waits to be killed; it has done it."""
    done, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            kept = act()
            os.write(told, b"x")
            signal.pause()
            del kept
        finally:
            os._exit(1)
    os.close(told)
    assert os.read(done, 1) == b"x"
    os.close(done)
    return child


def kill(process):
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_the_second_is_told_who_holds_it(tmp_path):
    first = RunLock(tmp_path)
    with pytest.raises(
        ValueError,
        match=rf"^{tmp_path}: process {os.getpid()} on .+ is training here since 20.+; stop it, or wait until it ends$",
    ):
        RunLock(tmp_path)
    assert first.held
    first.release()
    assert list(tmp_path.iterdir()) == [] and not first.held
    RunLock(tmp_path).release()


def test_what_a_crash_leaves_locks_nothing(tmp_path):
    holder = forked(lambda: RunLock(tmp_path))
    with pytest.raises(ValueError, match=f"process {holder} on"):
        RunLock(tmp_path)
    kill(holder)
    assert (tmp_path / LOCK).exists()
    RunLock(tmp_path).release()


def test_data_workers_that_live_on_hold_no_lock(tmp_path):
    def act():
        lock = RunLock(tmp_path)
        worker = forked(lambda: None)
        (tmp_path / "worker").write_text(str(worker))
        return lock

    holder = forked(act)
    kill(holder)
    worker = int((tmp_path / "worker").read_text())
    os.kill(worker, 0)
    try:
        RunLock(tmp_path).release()
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("content", [b"", b"\xff\x00"])
def test_a_holder_that_says_nothing(tmp_path, content):
    lock = RunLock(tmp_path)
    (tmp_path / LOCK).write_bytes(content)
    with pytest.raises(ValueError, match="another process is training here; stop it"):
        RunLock(tmp_path)
    lock.release()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"^{tmp_path / 'file'}: no run can be written here: "):
        RunLock(tmp_path / "file")


def test_a_folder_that_is_removed_is_no_longer_held(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    first = RunLock(folder)
    shutil.rmtree(folder)
    assert not first.held
    folder.mkdir()
    second = RunLock(folder)
    assert not first.held and second.held
    first.release()
    assert second.held and (folder / LOCK).exists()
    second.release()
