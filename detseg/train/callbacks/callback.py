"""The interface of all that is told how a run goes.

class Best(Callback):
    def validation(self, run, row):
        print(run.folder, row["step"], row[run.goal])

train(config, callbacks=[Best()])
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from detseg.metrics.figure import figures_of
from detseg.train.resume import random_states, restore_random_states

if TYPE_CHECKING:
    from detseg.train.task import Run

logger = logging.getLogger(__name__)


class Callback:
    """Base of all that is told how a run goes; a subclass has those of the methods that it needs.

    Of several processes the first one tells. What a method raises ends the run, unless it is a tracker's.

    Attributes:
        tracker: its name, of one that logs to somewhere else. What it raises at the start is a mistake of the user's;
            later it is warned of, and the run goes on without it.
    """

    tracker: ClassVar[str] = ""

    def start(self, run: Run, step: int) -> None:
        """Begin, before the first step: `step` are done already, more than none where a run is resumed."""

    def step(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        """Note the `loss`, its parts and `images_per_second`: every ten steps, means since the last validation."""

    def validation(self, run: Run, row: Mapping[str, float]) -> None:
        """Note a row of metrics.csv: `epoch`, `step`, `seconds`, `lr`, `loss`, its parts, and `run.figures`."""

    def end(self, run: Run, error: BaseException | None) -> None:
        """Finish: the best model is in `run.folder`, `run.metrics` are its.

        Neither is sure where `run.interrupted`, which can be resumed, nor after an `error`.
        """


class Callbacks:
    """Several callbacks as one, which leave no trace in the run: its random numbers are put back after each call.

    Args:
        callbacks: told in this order.
        run: what they are told of.
        device: that it trains on.
    """

    def __init__(self, callbacks: Sequence[Callback], run: Any, device: torch.device) -> None:
        self._callbacks, self._run, self._device = list(callbacks), run, device

    @contextmanager
    def during(self, step: int) -> Iterator[None]:
        """Tell of the start and of the end of a block, however it ends; `step` are done before."""
        error: BaseException | None = None
        try:
            self._tell("start", step)
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._tell("end", error)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """See `Callback`."""
        self._tell("step", step, values)

    def validation(self, row: Mapping[str, float]) -> None:
        """See `Callback`."""
        self._tell("validation", row)

    def _tell(self, what: str, *given: Any) -> None:
        with _kept_random_states(self._device):
            for callback in list(self._callbacks):
                try:
                    getattr(callback, what)(self._run, *given)
                except Exception as error:
                    self._callbacks.remove(callback)
                    if not callback.tracker:
                        raise
                    if what == "start":
                        raise ValueError(f"--log {callback.tracker}: {error}") from error
                    logger.warning("%s logs no more of this run: %s", callback.tracker, error)


@contextmanager
def _kept_random_states(device: torch.device) -> Iterator[None]:
    """Random numbers after the block are those that would have come without it."""
    kept = random_states(device)
    try:
        yield
    finally:
        restore_random_states(kept, device)


def settings_of(run: Run) -> dict[str, Any]:
    """The options of a run that are set, and how many images and classes it has."""
    options = {name: value for name, value in asdict(run.config).items() if value is not None}
    counts = {"images": len(run.train), "validation_images": len(run.val), "classes": len(run.data.categories)}
    return {"task": run.task.name, **options, **counts}


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Those values that are numbers."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def figures_at(run: Run, row: Mapping[str, float]) -> dict[str, float]:
    """The figures of a validation that could be measured, and its learning rate: what trackers draw as curves."""
    return finite({f"val/{name}": row[name] for name in (*run.figures, "lr")})


def best_figures(run: Run) -> dict[str, float]:
    """The figures of the best model; none where there is none."""
    if run.metrics is None:
        return {}
    values = figures_of(run.metrics, run.task.FIGURES)
    return finite({f"best/{run.column(name)}": value for name, value in values.items()})
