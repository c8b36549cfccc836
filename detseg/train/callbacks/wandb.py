"""Weights & Biases: a run of the project `detseg`; WANDB_MODE=offline keeps it in the run folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from detseg.files import write_atomically
from detseg.reading import reading
from detseg.train.callbacks.callback import Callback, best_figures, figures_at, finite, settings_of

if TYPE_CHECKING:
    from detseg.train.task import Run

KEPT = "wandb.txt"
"""File of a run folder with the id of its run there, which a resumed run goes on with."""
PROJECT = "detseg"
MODEL = ("model.json", "model.safetensors")


class WeightsAndBiases(Callback):
    """Logs the options as config, losses and figures as curves, the best figures as summary.

    The project is that of WANDB_PROJECT, by default `PROJECT`; WANDB_ENTITY, WANDB_MODE and so on are heeded.

    Args:
        model: also upload the best model.
    """

    tracker = "wandb"

    def __init__(self, *, model: bool = False) -> None:
        self._model = model
        self._run: Any = None

    def start(self, run: Run, step: int) -> None:
        """See `Callback`."""
        import wandb

        kept = run.folder / KEPT
        if not (step and kept.exists()):
            write_atomically(kept, f"{secrets.token_hex(4)}\n")
        with reading(kept, "delete it, and the run gets a new one"):
            number = kept.read_text(encoding="utf-8").strip()
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.folder.name,
            id=number,
            resume="allow",
            dir=run.folder,
            config=settings_of(run),
            settings=wandb.Settings(console="off"),  # the terminal has a progress bar
        )
        # Their own count of steps only grows; that of a run that is resumed may fall.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def step(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        """See `Callback`."""
        self._log(step, {f"train/{name}": value for name, value in values.items()})

    def validation(self, run: Run, row: Mapping[str, float]) -> None:
        """See `Callback`."""
        self._log(int(row["step"]), figures_at(run, row))

    def end(self, run: Run, error: BaseException | None) -> None:
        """See `Callback`."""
        if self._run is None:
            return
        self._run.summary.update(best_figures(run))
        if self._model and run.metrics is not None:
            self._upload(run)
        self._run.finish(exit_code=0 if error is None else 1)
        self._run = None

    def _upload(self, run: Run) -> None:
        import wandb

        files = wandb.Artifact(f"model-{self._run.id}", type="model")
        for name in MODEL:
            files.add_file(str(run.folder / name))
        self._run.log_artifact(files)

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **finite(values)})
