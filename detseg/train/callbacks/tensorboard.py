"""TensorBoard: event files in the folder `tensorboard` of a run, for `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from detseg.files import refuse_link
from detseg.train.callbacks.callback import Callback, figures_at

if TYPE_CHECKING:
    from detseg.train.task import Run

FOLDER = "tensorboard"


class TensorBoard(Callback):
    """Writes losses and figures as curves; a run that is resumed goes on with its own."""

    tracker = "tensorboard"
    _writer: Any = None
    _first: int | None = None  # step from which on an earlier process's curves are dropped

    def start(self, run: Run, step: int) -> None:
        """See `Callback`."""
        refuse_link(run.folder / FOLDER)
        self._writer, self._first = None, step + 1 if step else None

    def step(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        """See `Callback`."""
        self._write(run, step, {f"train/{name}": value for name, value in values.items()})

    def validation(self, run: Run, row: Mapping[str, float]) -> None:
        """See `Callback`."""
        self._write(run, int(row["step"]), figures_at(run, row))

    def end(self, run: Run, error: BaseException | None) -> None:
        """See `Callback`."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:  # slow to import, and only wanted once there is something to write
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run.folder / FOLDER), purge_step=self._first)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
