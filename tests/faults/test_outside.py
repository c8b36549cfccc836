"""What befalls a run from outside ends it with one message, and what was saved is kept."""

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from detseg.cli import main
from detseg.models import WEIGHTS
from detseg.train.lock import LOCK
from detseg.train.resume import RESUME, load_state
from tests.faults.runs import QUICK, SEED, Started, finished, moments, same
from tests.small_set import write_small_set
from tests.train.runs import state_of

pytestmark = pytest.mark.slow
LONG = ("--epochs", "2000")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp("outside") / "data", train=8)


def words(data, folder, *more):
    return ("detector", "--data", data, "--output", folder, *QUICK, *more)


def message_of(run):
    """The only message of a run that has ended by it."""
    code, output = run.end(timeout=300)
    assert code == 1 and "Traceback" not in output, output[-3000:]
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    return line


def kept_and_told(run, folder):
    """The message of a run whose state is kept, as it says."""
    message = message_of(run)
    step = load_state(folder / RESUME)["step"]
    assert f"; the state of step {step} is kept; " in message
    assert message.endswith(f"and go on with: detseg train detector --resume {folder}")
    assert not [path for path in folder.iterdir() if path.name == LOCK or path.name.startswith(".")]
    return message


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for 40 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    if mounted:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], check=False)
        mounted = done.returncode == 0
    if not mounted:
        pytest.skip("a small disk cannot be mounted here: that needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk(data, small_disk, tmp_path):
    folder, rng = small_disk / "run", moments("a full disk")
    finished(*words(data, tmp_path / "whole", "--epochs", "12"))
    run = Started(*words(data, folder, "--epochs", "12"))
    run.wait_for(folder / RESUME)
    for _ in range(2):
        left = rng.randrange(8 * 10**6)
        # The run may write meanwhile, and there be less.
        with suppress(OSError), (small_disk / "filler").open("wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(small_disk).free - left)))
        message = kept_and_told(run, folder)
        print(f"{left} bytes left, step {load_state(folder / RESUME)['step']}: {message}")
        assert "No space left on device; the state" in message and "; free room, and go on" in message
        (small_disk / "filler").unlink()
        before = (folder / RESUME).stat().st_mtime_ns
        run = Started("detector", "--resume", folder)
        while run.process.poll() is None and (folder / RESUME).stat().st_mtime_ns == before:
            time.sleep(0.01)
    code, output = run.end()
    assert code == 0, output[-3000:]
    same(tmp_path / "whole", folder)


def test_a_data_worker_is_killed(data, tmp_path):
    folder = tmp_path / "run"
    run = Started(*words(data, folder, *LONG, "--workers", "2"))
    run.wait_until_under_way(folder)
    (trainer,) = run.trainers()
    moments("a data worker").choice(trainer.children()).kill()
    assert "error: a process that prepares images was killed (DataLoader worker (pid" in kept_and_told(run, folder)


def test_the_folder_is_removed(data, tmp_path):
    folder = tmp_path / "run"
    run = Started(*words(data, folder, *LONG))
    run.wait_until_under_way(folder)
    folder.rename(tmp_path / "trash")
    assert message_of(run) == f"error: {folder}: was removed while this run wrote there, so it ends; start it again"
    assert not (folder / "config.json").exists()


def cut(file):
    """To half its length; HDF5 would read zeros."""
    os.truncate(file, file.stat().st_size // 2)


def overwrite(file):
    """In place, as `cp` does."""
    file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("change", [cut, overwrite, Path.unlink])
def test_a_packed_file_is_lost(data, change, workers, tmp_path):
    pack, folder = tmp_path / "set.h5", tmp_path / "run"
    assert main(["pack", "--data", str(data), "--output", str(pack), "--size", "64"]) == 0
    run = Started(*words(pack, folder, *LONG, "--workers", workers))
    run.wait_until_under_way(folder)
    change(pack)
    assert message_of(run).startswith(f"error: {pack}: ")
    assert state_of(folder)["step"] > 0


@pytest.mark.parametrize("change", [cut, overwrite, Path.unlink])
def test_images_are_lost(data, change, tmp_path):
    """Training has them in memory; the report at its end wants them."""
    own, folder = shutil.copytree(data, tmp_path / "data"), tmp_path / "run"
    run = Started(*words(own, folder, "--epochs", "12"), environment={"REPORT": "yes"})
    run.wait_until_under_way(folder)
    for image in (own / "images").iterdir():
        change(image)
    assert message_of(run).startswith(f"error: {own}/images/")
    assert {WEIGHTS, "metrics.csv"} <= {path.name for path in folder.iterdir()}


def test_a_second_run_in_the_same_folder(data, tmp_path, capsys):
    folder = tmp_path / "run"
    finished(*words(data, tmp_path / "whole", "--epochs", "12"))
    run = Started(*words(data, folder, "--epochs", "12"))
    run.wait_for(folder / RESUME)
    for second in (words(data, folder, "--epochs", "12"), ("detector", "--resume", folder)):
        assert main(["train", *map(str, second)]) == 1
        told = f"error: {folder}: process {run.process.pid} on {socket.gethostname()} is training here since"
        assert capsys.readouterr().err.startswith(told)
    assert run.end()[0] == 0
    same(tmp_path / "whole", folder)


def test_a_clock_that_goes_back(data, tmp_path):
    finished(*words(data, tmp_path / "whole", "--epochs", "10"))
    finished(*words(data, tmp_path / "back", "--epochs", "10"), environment={"CLOCK": "back"})
    same(tmp_path / "whole", tmp_path / "back")
    seconds = [float(line.split(",")[2]) for line in (tmp_path / "back/metrics.csv").read_text().splitlines()[1:]]
    assert seconds == sorted(seconds) and seconds[0] > 0


# ------------------------------------------------------------------ one of two processes


def ended_in_time(process, others):
    """Kill a process and see the others end within a minute."""
    process.kill()
    gone, alive = psutil.wait_procs(others, timeout=60)
    assert not alive and gone


@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_is_killed_under_torchrun(rank, data, tmp_path):
    folder = tmp_path / "run"
    run = Started(*words(data, folder, *LONG), processes=2)
    run.wait_until_under_way(folder)
    killed = run.trainers()
    ended_in_time(killed.pop(rank), killed)
    code, output = run.end()
    assert code == 1, output[-3000:]
    assert state_of(folder)["step"] > 0
    # It ends the other one, which may not have the time to say why.
    assert "Signal 9 (SIGKILL) received" in output, output[-3000:]


@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_is_killed_without_a_launcher(rank, data, tmp_path):
    folder, common = tmp_path / "run", {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    port = str(random.Random(f"{SEED} {os.getpid()} {rank}").randrange(20000, 30000))
    both = [
        Started(
            *words(data, folder, *LONG),
            environment={**common, "MASTER_PORT": port, "RANK": str(number), "LOCAL_RANK": str(number)},
        )
        for number in (0, 1)
    ]
    both[0].wait_until_under_way(folder)
    both[rank].process.send_signal(signal.SIGKILL)
    message = message_of(both[1 - rank]) if rank == 0 else kept_and_told(both[0], folder)
    assert message.startswith(f"error: process {2 - rank} of 2: another one has ended, or cannot be reached;")
    assert both[rank].end()[0] == -signal.SIGKILL
