"""Computing beside other processes: threads that wait for each other give their core away while others want it.

An operation of torch is done by a team of threads, one a core, and ends when its slowest thread does. Waiting threads
spin, for the next operation comes within microseconds. Where another process takes a core, some thread of the team is
always without one, and the others spin away the time of those that could work: beside two busy processes on two cores
a training nearly stands still. Threads that sleep while they wait keep most of their share then, but cost some percent
where the cores are free.

GNU's OpenMP runtime, which torch's Linux builds compute with, has both: before each wait it looks whether it manages
more threads than there are processors, and then hardly spins (`gomp_managed_threads > gomp_available_cpus` in `do_spin`
of libgomp/config/linux/wait.h in GCC; team.c counts the threads, env.c sets how long is spun). Each thread that begins
operations has a team of its own. So threads that do one operation of torch and then sleep make all teams wait
passively, and once they have ended all spin again. How many threads compute an operation stays the same, and so does
every number. With other runtimes the sleeping threads change nothing.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

INTERVAL = 0.25  # seconds between two looks
LINGER = 5.0  # seconds that it is watched on after the last use: images are often predicted one by one
# Share of the time that some thread that spins was ready to run and had no core: mostly 0.01 to 0.05 by itself, 0.5 to
# 0.9 beside a busy process.
CROWDED = 0.2
SHORTEST, LONGEST = 4, 64  # looks between two trials whether the cores are free again

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def sharing_cores() -> Iterator[None]:
    """Compute with torch so that other busy processes cost little more than their share of the cores.

    Uses may be nested or overlap. Nothing happens where torch has one thread, or the system is no Linux.
    """
    _monitor.enter()
    try:
        yield
    finally:
        _monitor.leave()


def shares_cores(generate: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
    """Let a generator function compute in `sharing_cores`, from its first item to its last."""

    @wraps(generate)
    def sharing(*args: P.args, **options: P.kwargs) -> Iterator[T]:
        with sharing_cores():
            yield from generate(*args, **options)

    return sharing


def waits() -> dict[str, int]:
    """Nanoseconds that each thread of this process has been ready to run and had no core; empty if nobody counts.

    The second number of schedstat, see Documentation/scheduler/sched-stats.rst of Linux. It says the same at any
    frequency of the scheduler and for any number of cores, which involuntary context switches do not.
    """
    found = {}
    with suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # a thread that has just ended
                found[thread.name] = int((thread / "schedstat").read_text().split()[1])
    return found


class Crowding:
    """Whether threads should wait passively, by looks at how long they had to wait for a core.

    Threads that sleep also wait for cores when they are woken, on an idle machine too. So every now and then they spin
    until the next look, more and more seldom while the cores stay crowded.
    """

    def __init__(self) -> None:
        self._passive, self._left, self._between = False, 0, SHORTEST

    def look(self, share: float) -> bool:
        """Whether to wait passively until the next look.

        Args:
            share: of the time since the last look, what the thread that had to wait longest waited.
        """
        if self._passive:
            self._left -= 1
            self._passive = self._left > 0
        elif share > CROWDED:
            self._passive, self._left = True, self._between
            self._between = min(2 * self._between, LONGEST)
        else:
            self._between = SHORTEST
        return self._passive


class PassiveWaiting:
    """Sleeping threads that own teams: while they are there the threads of all teams wait passively."""

    def __init__(self) -> None:
        self._end, self._owners = threading.Event(), list[threading.Thread]()

    def turn(self, on: bool) -> None:
        """Let threads wait passively, or spin."""
        if on and not self._owners:
            self._owners = [threading.Thread(target=self._own, daemon=True) for _ in range(owners_needed())]
            for owner in self._owners:
                owner.start()
        elif not on and self._owners:
            self._end.set()
            for owner in self._owners:
                owner.join()
            self._end, self._owners = threading.Event(), []

    def _own(self) -> None:
        torch.zeros(torch.get_num_threads() << 16).add_(1)  # a share for each thread of the team
        self._end.wait()


def owners_needed() -> int:
    """How many teams more there must be for their threads to outnumber the processors."""
    size = torch.get_num_threads()
    return max(1, (len(os.sched_getaffinity(0)) - size) // max(1, size - 1) + 1)  # as if the owner were not counted


class Monitor:
    """A thread that watches the cores while it is of use, and a little longer."""

    def __init__(self) -> None:
        self._lock, self._users, self._last = threading.Lock(), 0, 0.0
        self.thread: threading.Thread | None = None

    def enter(self) -> None:
        """Someone computes."""
        with self._lock:
            self._users += 1
            # A forked process has a copy of the thread that does not run.
            alive = self.thread is not None and self.thread.is_alive()
            if not alive and torch.get_num_threads() > 1 and waits():
                self.thread = threading.Thread(target=self._watch, daemon=True, name="sharing_cores")
                self.thread.start()

    def leave(self) -> None:
        """Someone has done."""
        with self._lock:
            self._users, self._last = self._users - 1, time.monotonic()

    def _ends(self) -> bool:
        """Whether the thread ends, for nobody has computed for a while."""
        with self._lock:
            if self._users or time.monotonic() - self._last < LINGER:
                return False
            self.thread = None
            return True

    def _watch(self) -> None:
        crowding, passive = Crowding(), PassiveWaiting()
        before, started = waits(), time.monotonic()
        try:
            while not self._ends():
                time.sleep(INTERVAL)
                now, at = waits(), time.monotonic()
                longest = max((now[thread] - before[thread] for thread in now.keys() & before.keys()), default=0)
                passive.turn(crowding.look(longest / 1e9 / (at - started)))
                before, started = now, at
        finally:
            passive.turn(False)


_monitor = Monitor()
