"""What a run logs while it trains: a progress bar, `metrics.csv`, and what callbacks are told."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from detseg.console import print_line
from detseg.files import write_atomically
from detseg.reading import FileError, reading

if TYPE_CHECKING:
    from detseg.train.callbacks.callback import Callbacks

METRICS = "metrics.csv"


class RunLog:
    """Log of one run; a context manager.

    Args:
        folder: the run folder.
        console: where the bar is shown; a terminal gets a bar, anything else a line for each validation.
        figures: columns and titles of what validation gives, those that are printed first; the bar shows the first.
        printed: how many of them are printed.
        visible: False in all processes but the first.
        begun: share of the run that is done already, when it resumes.
        callbacks: are told of steps and validations.
    """

    def __init__(
        self,
        folder: Path,
        console: Console,
        figures: Mapping[str, str],
        *,
        printed: int = 2,
        visible: bool = True,
        begun: float = 0.0,
        callbacks: Callbacks | None = None,
    ) -> None:
        self.csv = folder / METRICS
        self._figures, self._printed = figures, list(figures.items())[:printed]
        self._console, self._visible, self._callbacks = console, visible, callbacks
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("gone,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,  # the lines of the validations stay
            disable=not visible or not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=1.0)
        self._bar.update(self._task, completed=begun)
        self._goal = ""
        self._seen = time.monotonic()

    def __enter__(self) -> RunLog:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, step: int, fraction: float, losses: Mapping[str, float], images: int) -> None:
        """Move the bar; `losses` are means since the last validation, `images` counts those since the last call."""
        now = time.monotonic()
        rate = images / max(1e-9, now - self._seen)
        self._seen = now
        if not self._visible:
            return
        total = sum(losses.values())
        self._bar.update(
            self._task, completed=fraction, description=f"loss {total:.3f}{self._goal} · {rate:.1f} images/s"
        )
        if self._callbacks is not None:
            self._callbacks.step(step, {"loss": total, **losses, "images_per_second": rate})

    def validated(self, row: Mapping[str, float], took: float = 0.0) -> None:
        """Add a row to `metrics.csv` and print the figures; `took` seconds were spent on finding out."""
        goal, title = next(iter(self._figures.items()))
        self._goal = f" · {title.split('@')[0]} {row[goal]:.3f}"
        self._seen += took  # validation is no training time
        if not self._visible:
            return
        columns = self._columns() or list(row)
        with self.csv.open("a", newline="", encoding="utf-8") as file:
            # A run that an earlier version began keeps its columns.
            writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)
        self._console.print(
            f"epoch {row['epoch']:5.1f}  {row['seconds'] / 60:5.1f} min  loss {row['loss']:.3f}"
            + "".join(f"  {title} {row[name]:.3f}" for name, title in self._printed),
            highlight=False,
            soft_wrap=True,
        )
        if self._callbacks is not None:
            self._callbacks.validation(row)

    def _columns(self) -> list[str]:
        """Those of the file, none where there is none yet."""
        if not self.csv.exists():
            return []
        with self.csv.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file).fieldnames or ())

    def rewind(self, step: int) -> None:
        """Drop what was logged after `step`: a resumed run writes it again.

        Raises:
            FileError: the file is damaged; the message names the line.
        """
        if not self.csv.exists():
            return
        remedy = "mend it, or remove the file, and with it the rows of this run so far"
        with reading(self.csv, remedy), self.csv.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            kept = [row for row in reader if _is_kept(row, step, f"{self.csv}: line {reader.line_num}", remedy)]
            names = reader.fieldnames
        if not kept or names is None:
            self.csv.unlink()
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(kept)
        write_atomically(self.csv, text.getvalue())


def _is_kept(row: Mapping[str | None, str | None], step: int, place: str, remedy: str) -> bool:
    """Whether a row is whole (a crash may have cut the last one) and not after `step`."""
    if None in row.values():
        return False
    try:
        return float(row["step"] or "inf") <= step and None not in row
    except (KeyError, ValueError):
        what = f"the step is no number: {row['step']!r}" if "step" in row else 'there is no column "step"'
        raise FileError(f"{place}: {what} ({remedy})") from None


@contextmanager
def printed_messages(console: Console) -> Iterator[None]:
    """Print what detseg logs at the level INFO as lines of the console; warnings go where they always go."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.INFO:
                print_line(console, record.getMessage())

    logger, handler = logging.getLogger("detseg"), Lines()
    before = logger.level
    logger.addHandler(handler)
    if before < logging.ERROR:  # of several processes only the first one prints
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
