"""One process's share of a run, fresh or resumed: options, devices, the run folder, the model, its number format."""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from rich.console import Console

from detseg.console import print_line
from detseg.files import make_folder, remove_unfinished
from detseg.models import DESCRIPTION, WEIGHTS, build_model
from detseg.train.config import SETTINGS, load_config, require_same_options
from detseg.train.devices import accelerator_on
from detseg.train.errors import TrainingError
from detseg.train.extension import Extension, add_extension, last_extension
from detseg.train.lock import RunLock
from detseg.train.log import METRICS, printed_messages
from detseg.train.memory import keep_freed_memory
from detseg.train.optim import norms_rest
from detseg.train.precision import Choice, Decision, choose, choose_again
from detseg.train.resume import RESUME, load_state
from detseg.train.start import Start, start_of

T = TypeVar("T")

FILES = RESUME, WEIGHTS, DESCRIPTION, METRICS, SETTINGS


@dataclass
class Process:
    """One process's share of a run.

    Attributes:
        config: the options; of a resumed run those it was started with.
        accelerator: devices and processes.
        console: where progress is shown.
        folder: of the run that is resumed; of a new one None until `open_folder`.
        state: to resume from.
        start: what a new run starts from; None if it is resumed.
        extension: the schedule that a resumed run goes on with, in place of its first.
        lock: of the folder, in the first process once it has one.
        claimed: the folder was made this run's own, by its `config.json`.
        choose_again: looks for the number format anew, during the run; None where the first look was clear.
        choice: the number format, once it is chosen.
        images_per_second: that a training step does with it, at the size of that time; None if it was not timed.
    """

    config: Any
    accelerator: Accelerator
    console: Console
    folder: Path | None
    state: dict[str, Any] | None
    start: Start | None
    extension: Extension | None = None
    lock: RunLock | None = None
    claimed: bool = False
    choose_again: Callable[[], Choice] | None = None
    choice: Choice | None = None
    images_per_second: float | None = None

    @property
    def starts_whole(self) -> bool:
        """Whether a new run starts from all of a trained model, its head included."""
        return self.start is not None and self.start.whole

    def make(self, architecture: Mapping[str, Any], names: Sequence[str] = ()) -> tuple[Any, str]:
        """The model of an architecture, with the weights that a new run starts from, and what of them was taken.

        Args:
            architecture: see `build_model`.
            names: of its classes.

        Raises:
            TrainingError: the weights cannot be had.
        """
        if self.start is None:
            return build_model(architecture), ""
        try:
            return self.start.model(architecture, names)
        except RuntimeError as error:  # no network and no installed weights
            raise TrainingError(f"{self.config.backbone}: {error}") from error

    def build(self, architecture: Mapping[str, Any], names: Sequence[str] = ()) -> Any:
        """The model that `make` gives; prints which weights were used, but for those of ImageNet."""
        model, report = self.make(architecture, names)
        if report:
            print_line(self.console, report)
        return model

    def open_folder(self) -> Path:
        """The run folder, made and with the options in it if the run is new; the same in all processes.

        Raises:
            ValueError: another run has been started there meanwhile.
        """
        if self.folder is None:
            self.folder = from_first(self.accelerator, self._claim)
        return self.folder

    def _claim(self) -> Path:
        """Make the folder of a new run this one's: locked, with the options in it."""
        folder = self.config.output or numbered_folder(Path("runs"), self.config.task)
        make_folder(folder)
        self.own(folder)
        _refuse_taken(folder)
        (folder / SETTINGS).unlink(missing_ok=True)  # of a run that was killed before it saved anything
        self.config.save(folder)
        self.claimed = True
        return Path(folder)

    def own(self, folder: Path) -> None:
        """Lock a folder and tidy it; raises ValueError where another process has locked it."""
        if self.lock is None:
            self.lock = RunLock(folder)
            remove_unfinished(folder, FILES)

    def require_folder(self) -> None:
        """Raise TrainingError where the folder was removed meanwhile: what is written there is lost, or another's."""
        if self.lock is not None and not self.lock.held:
            raise TrainingError(f"{self.folder}: was removed while this run wrote there, so it ends; start it again")

    def keep_extension(self) -> None:
        """Note a new extension in the folder of the run; when all processes have read what is there."""
        assert self.folder is not None
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process and self.extension not in (None, last_extension(self.folder)):
            add_extension(self.folder, self.extension)

    def release(self) -> None:
        """Leave the folder to others; one in which nothing was saved to the next try."""
        if self.claimed and self.folder is not None and not (self.folder / RESUME).exists():
            (self.folder / SETTINGS).unlink(missing_ok=True)
        if self.lock is not None:
            self.lock.release()

    def choose_precision(self, architecture: Mapping[str, Any], freeze: int) -> Choice:
        """Number format and layout: measured once, in the first process, or what the resumed run has used."""
        if self.choice is not None:
            return self.choice
        spec = {
            "architecture": architecture,
            "freeze": freeze,
            "norms_rest": norms_rest(architecture),
            "size": self.config.size,
            "batch_size": self.config.batch_size,
            "device": self.accelerator.device.type,
        }
        if self.state is not None:
            choice, sure = Choice(*self.state["choice"]), not self.state.get("unsure", False)
        else:
            status = self.console.status("timing a few training steps")
            with status if self.console.is_terminal else contextlib.nullcontext():
                measure = partial(choose, spec, self.config.precision)
                choice, sure = self._decided(measure, "it is looked at again later")
        if not sure:
            self.choose_again = lambda: self._decided(partial(choose_again, spec, choice), "the choice stays")[0]
        self.choice = choice
        return choice

    def _decided(self, measure: Callable[[], Decision], unsure: str) -> tuple[Choice, bool]:
        """What the first process measures and prints, and whether it is sure; the same in all processes."""
        result: list[Any] = [None]
        if self.accelerator.is_main_process:
            decision = measure()
            doubt = "" if decision.sure else f"; the times contradict each other, as on a busy machine: {unsure}"
            timed = self._timed(decision.choice, decision.times) if decision.times or decision.sure else ""
            print_line(self.console, f"precision: {decision.choice}{timed}{doubt}")
            seconds = decision.times.get(decision.choice)
            result = [(*decision.choice, decision.sure, seconds and self.config.batch_size / seconds)]
        broadcast_object_list(result)
        *choice, sure, self.images_per_second = result[0]
        return Choice(*choice), sure

    def _timed(self, choice: Choice, times: Mapping[Choice, float]) -> str:
        """How fast a choice is, and others beside it."""
        if not times:
            unknown = f"{self.config.model} on {self.config.backbone}"
            return f"; not timed, as {unknown} is registered by code of your own: --precision chooses"
        best = times[choice]
        others = ", ".join(f"{o} {best / t:.2f} x as fast" for o, t in times.items() if o != choice)
        return f", {self.config.batch_size / best:.1f} images/s" + (f" ({others})" if others else "")


class Begun(NamedTuple):
    """A run that is gone on with."""

    folder: Path
    config: Any
    state: dict[str, Any]
    extension: Extension | None


@contextmanager
def process(config: Any, console: Console | None = None) -> Iterator[Process]:
    """This process's share of the run that `config` asks for, new or resumed.

    Args:
        config: the options.
        console: where progress is shown; none is shown without.

    Raises:
        ValueError: options that contradict each other, or a run that cannot be resumed or would be overwritten.
    """
    config.check()
    start = None if config.resume is not None else start_of(config)
    accelerator = accelerator_on(config.device)
    if not accelerator.is_main_process:
        logging.getLogger("detseg").setLevel(logging.ERROR)  # the first process warns for all
    console = console if console is not None and accelerator.is_main_process else Console(quiet=True)
    config = config if start is None else start.config.check()
    this = Process(config, accelerator, console, None, None, start)
    try:
        # The first process alone reads and locks: so all have the same state, also where they do not share a disk.
        _require_at_first(accelerator, config.resume or config.output)
        restarts = max(gather_object([int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))]))
        begun = from_first(accelerator, partial(_begun, this, restarts > 0))
        if begun is not None:
            this.folder, this.config, this.state, this.extension = begun
            this.start = None
        keep_freed_memory()
        set_seed(this.config.seed)
        with printed_messages(console):
            if this.start is not None and this.start.told:
                print_line(console, this.start.told)
            if begun is not None and config.resume is None:
                print_line(console, f"started again: {begun.folder} goes on from step {begun.state['step']}")
            yield this
    finally:
        this.release()
        accelerator.end_training()


def from_first(accelerator: Accelerator, find: Callable[[], T]) -> T:
    """What a function gives in the first process, in all of them; what it raises as well."""
    result: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            result[0] = find()
        except (ValueError, OSError) as error:
            result[1] = error
    broadcast_object_list(result)
    if result[1] is not None:
        raise result[1]
    found: T = result[0]
    return found


def _require_at_first(accelerator: Accelerator, folder: Path | None) -> None:
    """Raise ValueError where the first process does not see a run that another one has on a disk of its own."""
    if folder is None or accelerator.num_processes == 1:
        return
    found = gather_object([((folder / RESUME).exists(), socket.gethostname())])
    holder = next((rank for rank, (there, _) in enumerate(found) if there), 0)
    if holder:
        raise ValueError(
            f"{folder}: the run is on the disk of process {holder} (on {found[holder][1]}), which the first one (on "
            f"{found[0][1]}) does not see; copy the folder there, or give another --output"
        )


def _begun(this: Process, again: bool) -> Begun | None:
    """The run that the options of a process go on with, locked; None for a new one.

    A launcher that starts all processes `again` after one has failed does so by the command of a new one.
    """
    config, folder = this.config, this.config.resume
    if folder is None and config.output is not None and config.output.is_dir():
        this.own(config.output)
        if not (again and _is_run_of(config)):
            _refuse_taken(config.output)
            return None
        folder = config.output
    if folder is None:
        return None
    kept = type(config).load(folder).check()
    this.own(folder)
    state, extension = load_state(folder / RESUME), last_extension(folder)
    more = config.more_epochs, config.more_minutes
    if any(more):
        extension = Extension(*more, state["step"], state["elapsed"])
    return Begun(folder, kept, state, extension)


def _is_run_of(config: Any) -> bool:
    """Whether the folder of options holds a state of a run with the same."""
    try:
        require_same_options(load_config(config.output), config, config.output)
    except ValueError:
        return False
    return bool((config.output / RESUME).exists())


def _refuse_taken(folder: Path) -> None:
    """Raise ValueError where a run would be overwritten, or a `config.json` of something else."""
    taken = [name for name in FILES if (folder / name).exists()]
    if RESUME in taken:
        raise ValueError(f"{folder}: holds a run already; go on with it by --resume {folder} or give another --output")
    if taken == [SETTINGS]:
        try:
            load_config(folder)
        except ValueError as error:
            raise ValueError(
                f"{folder}: holds a {SETTINGS} of something else; give another --output, or delete that file"
            ) from error
    elif taken:
        raise ValueError(f"{folder}: holds {taken[0]} of an earlier run, without {RESUME}; give another --output")


def numbered_folder(parent: Path, name: str) -> Path:
    """Make the next free of name-1, name-2, …; two runs that start together get two folders."""
    number = 1
    while True:
        with contextlib.suppress(FileExistsError):
            (parent / f"{name}-{number}").mkdir(parents=True)
            return parent / f"{name}-{number}"
        number += 1
