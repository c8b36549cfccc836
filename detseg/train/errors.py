"""What can stop a run."""

import errno
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detseg.files import WriteError
from detseg.reading import FileError, cause


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


@contextmanager
def memory_advice(process: Any) -> Iterator[None]:
    """Turns "out of memory" inside into a TrainingError that says what to do, by the `config` of the process."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        import torch  # here: errors of other commands need none of it

        if not isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise
        config = process.config
        half = max(1, config.batch_size // 2)
        steps = config.accumulate * config.batch_size // half
        smaller = max(32, config.size // 2 // 32 * 32)
        raise TrainingError(
            f"out of memory with batches of {config.batch_size} images of {config.size} px. Any of these helps: "
            f"--batch-size {half} --accumulate {steps} (the same steps, a little slower); --size {smaller}; "
            "--precision bf16; a smaller --backbone; --freeze with more stages; several processes, each with a part of "
            f"the batch. `detseg backbones {config.backbone} --size {config.size} --batch-size {half}` lists what a "
            "batch takes"
        ) from error


@contextmanager
def faults(process: Any) -> Iterator[None]:
    """Turns what befalls a run from outside (a full disk, killed processes) into a TrainingError: what of it is kept.

    Args:
        process: the `Process` whose run it is; before it has a folder, nothing is turned.
    """
    try:
        yield
    except ValueError as error:
        what, _, rest = str(error).partition("\nOriginal Traceback")
        # What a data worker has raised comes with its traceback.
        message = rest.rpartition(f"{type(error).__name__}: ")[2].strip() or what
        # An image that is gone, say; what is wrong with the run's own files tells more than that it is kept.
        of_data = isinstance(error, FileError) and process.folder is not None and str(process.folder) not in message
        if not (rest or of_data):
            raise
        raise ValueError(message + (_kept(process, "put that right") if of_data else "")) from error
    except BrokenPipeError:  # whoever read the output has left
        raise
    except OSError as error:
        if process.folder is None:
            raise
        process.require_folder()  # where that is gone, it tells more than what could not be written there
        remedy = {errno.ENOSPC: "free room", errno.EDQUOT: "free room"}.get(error.errno or 0, "mend that")
        what = str(error) if isinstance(error, WriteError) else f"{error.filename or process.folder}: {cause(error)}"
        raise TrainingError(f"{what}{_kept(process, remedy)}") from error
    except RuntimeError as error:
        told = None if isinstance(error, TrainingError) else _outside(error, process)
        if told is None:
            raise
        raise TrainingError(told) from error


def _outside(error: RuntimeError, process: Any) -> str | None:
    """What to say of an error of torch that has its cause in other processes; None of any other."""
    from torch import distributed

    if "DataLoader worker" in str(error):
        remedy = "if the machine has too little memory, give fewer --workers when a run is new"
        return f"a process that prepares images was killed ({cause(error)}){_kept(process, remedy)}"
    accelerator = process.accelerator
    lost = "gloo" in str(error) or isinstance(error, getattr(distributed, "DistError", ()))
    if accelerator.num_processes > 1 and lost:
        number = f"process {accelerator.process_index + 1} of {accelerator.num_processes}"
        why, _, _ = cause(error).partition(". ")  # what follows is advice
        ended = f"{number}: another one has ended, or cannot be reached; its own message says why ({why})"
        return ended + _kept(process, "start all of them again")
    return None


def _kept(process: Any, remedy: str) -> str:
    """What was saved of a run, and how to go on; said by the first process, which has saved it."""
    from detseg.train.resume import RESUME, load_state

    if process.folder is None or not process.accelerator.is_main_process:
        return ""
    try:
        step = load_state(process.folder / RESUME)["step"]
    except ValueError:
        return f"; nothing had been saved; {remedy}, and start the run again"
    again = f"detseg train {process.config.task} --resume {shlex.quote(str(process.folder))}"
    return f"; the state of step {step} is kept; {remedy}, and go on with: {again}"
