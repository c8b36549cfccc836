"""Two machines train together and one dies: network namespaces joined by a cable stand for the machines.

Where the system lets nobody make those, they are two launchers on one network.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from detseg.train.resume import RESUME
from tests.faults.runs import PROGRAM, QUICK, ROOT, finished, same
from tests.small_set import write_small_set
from tests.train.runs import state_of

pytestmark = pytest.mark.slow
PORT = 29417


@dataclass
class Node:
    """A machine: the words that start a program on it, its address, and the folder that programs are started in."""

    prefix: list
    address: str
    interface: str
    folder: Path
    agent: subprocess.Popen = field(default=None, repr=False)

    def start(self, first, *words):
        """Its launcher, which meets the one of the other node at the address of the first."""
        self.folder.mkdir(exist_ok=True)
        meet = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "detseg")
        meet += ("--rdzv-endpoint", f"{first.address}:{PORT}", "--local-addr", self.address, "--max-restarts", "3")
        meet += ("--rdzv-conf", f"is_host={int(self is first)}")  # not told from the name of the machine: it is one
        program = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", *meet, *PROGRAM)
        network = {"GLOO_SOCKET_IFNAME": self.interface, "TP_SOCKET_IFNAME": self.interface}
        # Without, torch's first launcher does not tell one that takes another's place where the processes meet.
        network |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        self.agent = subprocess.Popen(
            [*self.prefix, *program, *map(str, words)],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | network,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def die(self):
        """As if its power failed: the launcher and all that it has started."""
        agent = psutil.Process(self.agent.pid)
        for process in [agent, *agent.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.agent.communicate(timeout=60)

    def end(self, timeout=600):
        """Exit code and output of its launcher."""
        output, _ = self.agent.communicate(timeout=timeout)
        return self.agent.returncode, output


def run_ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def nodes(tmp_path):
    """Two machines in folders of their own."""
    names = [f"detseg-{os.getpid()}-{i}" for i in (0, 1)]
    pairs = [f"ds{os.getpid() % 10**6}{letter}" for letter in "ab"]
    try:
        for name in names:
            run_ip("netns", "add", name)
        run_ip("link", "add", pairs[0], "type", "veth", "peer", "name", pairs[1])
        made = []
        for i, (name, pair) in enumerate(zip(names, pairs, strict=True)):
            run_ip("link", "set", pair, "netns", name)
            run_ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", pair)
            run_ip("-n", name, "link", "set", pair, "up")
            run_ip("-n", name, "link", "set", "lo", "up")
            made.append(Node(["ip", "netns", "exec", name], f"10.77.0.{i + 1}", pair, tmp_path / f"node-{i}"))
    except (OSError, subprocess.CalledProcessError):
        made = [Node([], "127.0.0.1", "lo", tmp_path / f"node-{i}") for i in (0, 1)]
    yield made
    for node in made:
        if node.agent is not None and node.agent.poll() is None:
            node.die()
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.fixture
def whole(tmp_path):
    """A run by two processes that nothing happens to, and the words of one like it in the folder `run`."""
    data = write_small_set(tmp_path / "data", train=8)
    words = ("detector", "--data", data, *QUICK, "--mosaic", "0.3", "--epochs", "20", "--output")
    finished(*words, tmp_path / "whole", processes=2)
    return tmp_path / "whole", words


def wait_for(file, *nodes):
    deadline = time.monotonic() + 300
    while not file.exists():
        assert time.monotonic() < deadline and all(node.agent.poll() is None for node in nodes), file
        time.sleep(0.01)


def test_a_second_node_without_a_common_disk_dies_and_comes_back(nodes, whole):
    """Each has the folder `run` on a disk of its own; the run is in that of the first."""
    undisturbed, words = whole
    first, second = nodes
    for node in nodes:
        node.start(first, *words, "run")
    wait_for(first.folder / "run/metrics.csv", *nodes)
    second.die()
    step = state_of(first.folder / "run")["step"]
    second.start(first, *words, "run")
    (code, output), (other, more) = first.end(), second.end()
    print(f"the second node died at step {step}")
    assert code == other == 0, output[-9000:] + more[-9000:]
    assert "started again: run goes on from step" in output
    assert not (second.folder / "run").exists()
    same(undisturbed, first.folder / "run")


def test_when_the_first_node_dies_both_are_started_to_resume(nodes, whole):
    """It is also where they meet; the other launcher gives up."""
    undisturbed, words = whole
    first, second = nodes
    for node in nodes:
        node.start(first, *words, "run")
    wait_for(first.folder / "run/metrics.csv", *nodes)
    first.die()
    code, _ = second.end()
    assert code != 0
    for node in nodes:
        node.start(first, "detector", "--resume", "run")
    (code, output), (other, more) = first.end(), second.end()
    assert code == other == 0, output[-9000:] + more[-9000:]
    same(undisturbed, first.folder / "run")


def test_a_run_on_the_disk_of_another_node_is_not_begun_anew(nodes, whole):
    """As when machines change their order."""
    undisturbed, words = whole
    first, second = nodes
    second.folder.mkdir()
    shutil.copytree(undisturbed, second.folder / "run")
    for node in nodes:
        node.start(first, *words, "run")
    (code, output), (other, _) = first.end(), second.end()
    assert code != 0 != other
    assert "run: the run is on the disk of process 1" in output
    assert not (first.folder / "run" / RESUME).exists()
