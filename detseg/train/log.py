"""What a run tells while it trains: a progress bar, `metrics.csv` and a TensorBoard log."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class RunLog:
    """Log of one run; a context manager.

    Args:
        folder: the run folder.
        console: where the bar is shown; a terminal gets a bar, anything else a line for each validation.
        visible: False in all processes but the first.
    """

    def __init__(self, folder: Path, console: Console, *, visible: bool = True) -> None:
        self.csv = folder / "metrics.csv"
        self._folder, self._console, self._visible = folder, console, visible
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("ends in"),
            TimeRemainingColumn(),
            console=console,
            disable=not visible,
        )
        self._task = self._bar.add_task("training", total=1.0)
        self._board = None
        self._map = ""
        self._seen = (0, time.monotonic())

    def __enter__(self) -> RunLog:
        if self._visible:
            # Slow to import, and only wanted once training starts.
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._folder / "tensorboard"))  # type: ignore[no-untyped-call]
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._board is not None:
            self._board.close()  # type: ignore[no-untyped-call]

    def step(self, step: int, fraction: float, losses: Mapping[str, float], pictures: int) -> None:
        """Move the bar; `losses` are means since the last validation, `pictures` counts those since the last call."""
        now = time.monotonic()
        rate = pictures / max(1e-9, now - self._seen[1])
        self._seen = (step, now)
        total = sum(losses.values())
        self._bar.update(
            self._task, completed=fraction, description=f"loss {total:.3f}{self._map} · {rate:.1f} pictures/s"
        )
        if self._board is not None:
            for name, value in {"loss": total, **losses, "pictures_per_second": rate}.items():
                self._board.add_scalar(f"train/{name}", value, step)  # type: ignore[no-untyped-call]

    def validated(self, row: Mapping[str, float]) -> None:
        """Add a row to `metrics.csv` and say how good the model is."""
        self._map = f" · mAP {row['map']:.3f}"
        self._seen = (int(row["step"]), time.monotonic())
        if not self._visible:
            return
        new = not self.csv.exists()
        with self.csv.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        self._console.print(
            f"epoch {row['epoch']:5.1f}  {row['seconds'] / 60:5.1f} min  loss {row['loss']:.3f}  "
            f"mAP@[.5:.95] {row['map']:.3f}  mAP@.50 {row['map50']:.3f}",
            highlight=False,
        )
        if self._board is not None:
            for name in ("map", "map50", "lr"):
                self._board.add_scalar(f"val/{name}", row[name], int(row["step"]))  # type: ignore[no-untyped-call]

    def rewind(self, step: int) -> None:
        """Drop rows of `metrics.csv` after `step`: a resumed run writes them again."""
        if not self.csv.exists():
            return
        with self.csv.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            kept = [row for row in reader if float(row["step"]) <= step]
            names = reader.fieldnames or []
        temporary = self.csv.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(kept)
        temporary.replace(self.csv)
