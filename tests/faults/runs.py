"""Runs by the whole command in processes of their own, that faults are done to.

DETSEG_FAULTS_SEED in the environment draws other moments; what was done is printed.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from detseg.models import WEIGHTS
from detseg.train.resume import RESUME
from tests.train.runs import differences, state_of

ROOT = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("DETSEG_FAULTS_SEED", "0"))
QUICK = ["--backbone", "test_efficientnet", "--weights", "none", "--size", "64", "--batch-size", "2", "--lr", "0.02"]
PROGRAM = ("-m", "tests.faults.program")


class Started:
    """A run under way: `words` of `detseg train`, by `processes` of them; with more than one, by torchrun.

    Args:
        words: what follows `detseg train`.
        processes: how many.
        launcher: more words for torchrun.
        environment: more of it.
    """

    def __init__(self, *words, processes=1, launcher=(), environment=None):
        torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *launcher)
        program = PROGRAM if processes == 1 and not launcher else ("-m", *torchrun, *PROGRAM)
        self.process = subprocess.Popen(
            [sys.executable, *program, *map(str, words)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def all(self):
        """The process and those below it, those above first."""
        with_children = psutil.Process(self.process.pid)
        return [with_children, *with_children.children(recursive=True)]

    def trainers(self):
        """The processes that train, by their rank; data workers are not among them."""
        found = [p for p in self.all() if PROGRAM[1] in p.cmdline() and "torch.distributed.run" not in p.cmdline()]
        parents = {p.pid for p in found}
        found = [p for p in found if p.ppid() not in parents]
        return sorted(found, key=lambda p: int(p.environ().get("RANK", 0)))

    def wait_for(self, file, timeout=300):
        """Until a file is there, or the process ends."""
        deadline = time.monotonic() + timeout
        while not file.exists() and self.process.poll() is None:
            assert time.monotonic() < deadline, file
            time.sleep(0.01)

    def wait_until_under_way(self, folder):
        """Until a state has been saved after the first step; returns its step."""
        self.wait_for(folder / RESUME)
        while self.process.poll() is None and (step := state_of(folder)["step"]) == 0:
            time.sleep(0.01)
        return step

    def kill(self, number=signal.SIGKILL):
        """End all of its processes at once; by a signal that can be handled, the first of them alone passes it on."""
        for process in self.all() if number == signal.SIGKILL else [psutil.Process(self.process.pid)]:
            process.send_signal(number)
        return self.end()

    def end(self, timeout=600):
        """Its exit code and what it printed."""
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output


def finished(*words, **options):
    """What a run printed that ended well."""
    code, output = Started(*words, **options).end()
    assert code == 0, output[-3000:]
    return output


def moments(name):
    """Random moments of a test, told by its name: the same in every session of the same seed."""
    return random.Random(f"{SEED} {name}")


def killed_until_it_ends(folder, start, resume, *, rng, seconds, kills=2, processes=1):
    """Kill a run at random moments and resume it, until it has been killed so often; then let it end.

    Args:
        folder: of the run.
        start, resume: words of `detseg train`.
        rng: draws moments and signals.
        seconds: that the run trains, undisturbed.
        kills: how often.
        processes: how many of them.
    """
    for _ in range(kills):
        begun = (folder / RESUME).exists()
        run = Started(*(resume if begun else start), processes=processes)
        before = (folder / RESUME).stat().st_mtime_ns if begun else None
        while run.process.poll() is None and (
            not (folder / RESUME).exists() or (folder / RESUME).stat().st_mtime_ns == before
        ):
            time.sleep(0.01)
        wait, number = rng.uniform(0, 0.7 * seconds), rng.choice((signal.SIGKILL, signal.SIGINT, signal.SIGTERM))
        time.sleep(wait)
        if run.process.poll() is None:
            code, output = run.kill(number)
            told = (
                f"{number.name} {wait:.2f} s after its first state: step {state_of(folder)['step']}, exit code {code}"
            )
        else:
            code, output = run.end()
            told = f"ended before {wait:.2f} s, exit code {code}"
        print(f"{folder.name}: {told}")
        assert code in (0, 1, 130, -9, -15, -2), output[-3000:]
    finished(*resume, processes=processes)


def same(one, other):
    """Nothing differs between two run folders but the time that they took."""
    found = differences(state_of(one), state_of(other))
    assert found == [], f"{len(found)} differ: {found[:5]}"
    assert (one / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()
    assert rows(one) == rows(other)


def rows(folder):
    """metrics.csv without the seconds."""
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    place = lines[0].index("seconds")
    return [line[:place] + line[place + 1 :] for line in lines]
