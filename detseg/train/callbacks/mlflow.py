"""MLflow: a run of the experiment `detseg`, at MLFLOW_TRACKING_URI or in a local store (Zaharia et al. 2018)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from detseg.files import write_atomically
from detseg.reading import reading
from detseg.train.callbacks.callback import Callback, best_figures, figures_at, finite, settings_of

if TYPE_CHECKING:
    from detseg.train.task import Run

KEPT = "mlflow.txt"
"""File of a run folder with the id of its MLflow run, which a resumed run goes on with."""
EXPERIMENT = "detseg"
FILES = ("config.json", "metrics.csv")
MODEL = ("model.json", "model.safetensors")
# At most so many metrics in one call, which every store takes, and a call every so many seconds: a server may be far.
MOST, SECONDS = 500, 10.0


class Mlflow(Callback):
    """Logs the options as parameters, losses and figures as metrics, `FILES` as artifacts.

    The experiment is that of MLFLOW_EXPERIMENT_NAME, by default `EXPERIMENT`.

    Args:
        model: also upload the best model.
    """

    tracker = "mlflow"

    def __init__(self, *, model: bool = False) -> None:
        self._files = (*FILES, *MODEL) if model else FILES
        self._client: Any = None
        self._id = ""
        self._waiting: list[Any] = []
        self._sent = 0.0

    def start(self, run: Run, step: int) -> None:
        """See `Callback`."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        kept = run.folder / KEPT
        if step and kept.exists():
            with reading(kept, "delete it, and the run gets a new one"):
                self._id = kept.read_text(encoding="utf-8").strip()
                self._client.update_run(self._id, status="RUNNING")
            return
        self._id = self._client.create_run(self._experiment(), run_name=run.folder.name).info.run_id
        write_atomically(kept, f"{self._id}\n")
        parameters = [Param(name, str(value)[:500]) for name, value in settings_of(run).items()]
        self._client.log_batch(self._id, params=parameters)

    def _experiment(self) -> str:
        """The id of the experiment, which is made where it is not there."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def step(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        """See `Callback`."""
        self._note(step, {f"train/{name}": value for name, value in values.items()})
        if time.monotonic() - self._sent > SECONDS:
            self._send()

    def validation(self, run: Run, row: Mapping[str, float]) -> None:
        """See `Callback`."""
        self._note(int(row["step"]), figures_at(run, row))
        self._send()

    def end(self, run: Run, error: BaseException | None) -> None:
        """See `Callback`."""
        if not self._id:
            return
        self._note(0, best_figures(run))
        self._send()
        for path in (run.folder / name for name in self._files):
            if path.exists():
                self._client.log_artifact(self._id, str(path))
        status = "FAILED" if error is not None else "KILLED" if run.interrupted else "FINISHED"
        self._client.set_terminated(self._id, status)

    def _note(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for name, value in finite(values).items():
            self._waiting.append(Metric(re.sub(r"[^\w\-. /]", "_", name), value, now, step))

    def _send(self) -> None:
        while self._waiting:
            now, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            self._client.log_batch(self._id, metrics=now)
        self._sent = time.monotonic()
