"""Reads thousands of damaged files of a form as its users' commands do, and counts what came of it.

A file is accepted, or refused by one message that names it. Anything else is a failure: a message without the file,
another exception or one with nothing but Python's own words, a file that takes `SECONDS` or `MEMORY`, code that ran.
"""

import faulthandler
import gc
import importlib
import linecache
import logging
import multiprocessing
import resource
import signal
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import psutil

from tests.fuzz.hostile import CANARY
from tests.fuzz.mutators import kind_of, mutants

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SECONDS = 5  # of computing that one file may take
STILL = 60  # seconds that it may take if it does not compute: waiting for something, or others are at work
MEMORY = 3 << 30  # bytes of addresses that one file may ask for, beyond what the process has
GROWTH = 1 << 30  # bytes that the process may grow by

ACCEPTED, REFUSED, UNNAMED, TRACEBACK, HANG = "accepted", "refused, file named", "file not named", "traceback", "hang"
COLUMNS = (ACCEPTED, REFUSED, UNNAMED, TRACEBACK, HANG)
FAILURES = (UNNAMED, TRACEBACK, HANG)


@dataclass(frozen=True)
class Form:
    """A form of files that detseg reads.

    `make(folder)` writes a small good example and returns the files to damage; `read(folder)` reads it as a command
    would, and raises what that would raise. Reading leaves the folder as it was. `kind` is that of `mutators`; without
    one each file's own, by its ending. `quick` is how many files `make test` reads.
    """

    name: str
    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    kind: str = ""
    quick: int = 50  # all forms together take less than a minute of computing


@dataclass(frozen=True)
class Failure:
    """A file that was neither read nor refused well; `python -m tests.fuzz --form F --seed S --index I` repeats it."""

    form: str
    seed: int
    index: int
    column: str
    file: str
    said: str

    def __str__(self) -> str:
        place = f"--form {self.form} --seed {self.seed} --index {self.index}"
        return f"{self.column}: {place} ({self.file}): {self.said}"


@dataclass
class Outcome:
    """What came of the files of a form."""

    form: str
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, seed: int, index: int, column: str, file: str, said: str) -> None:
        """Count a file, and note it if it failed."""
        self.counts[column] += 1
        if column in FAILURES:
            self.failures.append(Failure(self.form, seed, index, column, file, said))


class TooLong(BaseException):
    """Raised by the alarm; no `except Exception` on the way may take it for a damaged file."""


def forms() -> dict[str, Form]:
    """All forms, by name: those of every module `forms_*` beside this one."""
    modules = [importlib.import_module(f"tests.fuzz.{file.stem}") for file in sorted(HERE.glob("forms_*.py"))]
    return {form.name: form for module in modules for form in module.FORMS}


def run(form: Form, count: int, seed: int) -> Outcome:
    """Read `count` damaged files of a form, in this process: what hangs in C code is killed with it, and so told."""
    outcome, begin = Outcome(form.name), time.perf_counter()
    faulthandler.dump_traceback_later(count * STILL, exit=True)
    for index, read in enumerate(_outcomes(form, seed, 0, count)):
        outcome.add(seed, index, *read)
    faulthandler.cancel_dump_traceback_later()
    outcome.seconds = time.perf_counter() - begin
    return outcome


def run_apart(form: Form, count: int, seed: int) -> Outcome:
    """As `run`, in a process that may hang or crash: that is a failure of the file, and the next one goes on."""
    outcome, begin = Outcome(form.name), time.perf_counter()
    index, fork = 0, multiprocessing.get_context("fork")
    while index < count:
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=_send, args=(sender, form, seed, index, count))
        process.start()
        sender.close()
        while index < count:
            try:
                read = receiver.recv() if _answers(process, receiver) else (HANG, "", "no answer, killed")
            except EOFError:
                process.join()
                read = (TRACEBACK, "", f"crashed, exit code {process.exitcode}")
            outcome.add(seed, index, *read)
            index += 1
            if not read[1]:
                break
        process.kill()
        process.join()
    outcome.seconds = time.perf_counter() - begin
    return outcome


def _send(sender: Connection, form: Form, seed: int, first: int, stop: int) -> None:
    for read in _outcomes(form, seed, first, stop):
        sender.send(read)


def _answers(process: Any, receiver: Connection) -> bool:
    """Whether a process sends something before it has computed for twice the time of the alarms that it sets itself."""
    known = psutil.Process(process.pid)
    computed, begin = sum(known.cpu_times()[:2]), time.perf_counter()
    while not receiver.poll(1):
        if sum(known.cpu_times()[:2]) - computed > 3 * SECONDS or time.perf_counter() - begin > 2 * STILL:
            return False
    return True


def _outcomes(form: Form, seed: int, first: int, stop: int) -> Iterator[tuple[str, str, str]]:
    """Column, name of the damaged file and what was said, for each number from `first` on."""
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{form.name}-") as name, _quiet():
        folder = Path(name) / "data"
        good = _made(form, folder)
        form.read(folder)  # and what is compiled or imported at first is no file's fault
        damaged = next(iter(good))
        for index in range(first, stop):
            file, content = _mutant(form, good, seed, index)
            if damaged != file:
                damaged.write_bytes(good[damaged])
            file.write_bytes(content)
            damaged = file
            column, said = try_reading(form, folder, file.name)
            yield column, file.name, said


def write_mutant(form: Form, seed: int, index: int, folder: Path) -> Path:
    """Write the example of a form with the damage that a failure names; returns the damaged file."""
    file, content = _mutant(form, _made(form, folder), seed, index)
    file.write_bytes(content)
    return file


def _made(form: Form, folder: Path) -> dict[Path, bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    return {file: file.read_bytes() for file in form.make(folder)}


def _mutant(form: Form, good: dict[Path, bytes], seed: int, index: int) -> tuple[Path, bytes]:
    rng = np.random.default_rng([seed, zlib.crc32(form.name.encode()), index])
    file = list(good)[int(rng.integers(len(good)))]
    return file, mutants(good[file], form.kind or kind_of(file), rng)


# ------------------------------------------------------------------ one file


def try_reading(form: Form, folder: Path, name: str) -> tuple[str, str]:
    """The column that reading the folder falls into, and what was said; `name` is that of the damaged file."""
    CANARY.unlink(missing_ok=True)
    before = _peak()
    try:
        with _limits():
            form.read(folder)
        column, said = ACCEPTED, ""
    except TooLong as error:
        column, said = HANG, str(error)
    except (ValueError, OSError) as error:
        column, said = _judge(error, folder, name), f"{type(error).__name__}: {error}{_where(error)}"
    except (Exception, SystemExit) as error:
        column, said = TRACEBACK, f"{type(error).__name__}: {error}{_where(error)}"
    if _peak() - before > GROWTH:
        column, said = HANG, f"{(_peak() - before) >> 20} MB were used; {said}"
        gc.collect()
    if CANARY.exists():
        column, said = TRACEBACK, "CODE OF THE FILE WAS RUN"
    return column, said[:1000]


def _judge(error: ValueError | OSError, folder: Path, name: str) -> str:
    """Whether a refusal names the file, or what else it is.

    Some are about the set as a whole and name its folder: those that detseg itself raises, not those that pass on what
    Python or a library says of a file in it.
    """
    if name in str(error):
        return REFUSED
    if str(folder) in str(error):
        return REFUSED if error.__cause__ is None or _said_by_us(error.__cause__) else UNNAMED
    return UNNAMED if _said_by_us(error) else TRACEBACK


def _said_by_us(error: BaseException) -> bool:
    """Whether a `raise` of detseg made the error, and not Python or a library."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_code.co_filename.startswith(str(ROOT / "detseg")):
        return False
    return "raise" in linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def _where(error: BaseException) -> str:
    """The innermost line of detseg on the way of an error."""
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith(str(ROOT / "detseg")):
            place = f" [{Path(file).relative_to(ROOT)}:{trace.tb_lineno}]"
        trace = trace.tb_next
    return place


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _limits() -> Iterator[None]:
    """The time and memory that one file may take."""

    def too_long(signal_number: int, frame: FrameType | None) -> None:
        raise TooLong(f"more than {SECONDS} s{_line(frame)}")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))
    alarms = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, STILL))
    earlier = [signal.signal(number, too_long) for number, _, _ in alarms]
    try:
        for _, timer, seconds in alarms:
            signal.setitimer(timer, seconds)
        yield
    finally:
        for (number, timer, _), handler in zip(alarms, earlier, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _line(frame: FrameType | None) -> str:
    """The line of detseg that is at work in a frame or above it."""
    while frame is not None and not frame.f_code.co_filename.startswith(str(ROOT / "detseg")):
        frame = frame.f_back
    return "" if frame is None else f" [{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_lineno}]"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without log and warnings: there would be a thousand."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
