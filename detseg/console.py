"""How detseg prints and shows progress: plain lines, and a bar where there is a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

_ORDERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # control characters but tab and end of line


def plain(text: str) -> str:
    """Text without the characters that a terminal would obey: a class may have any name."""
    return _ORDERS.sub("", text)


def print_line(console: Console, text: str) -> None:
    """Print a line as it is: no markup, no colours, no line breaks."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def track(
    items: Iterable[T], total: int | None, *, what: str, console: Console, unit: str | None = None
) -> Iterator[T]:
    """Iterate over `items` with a progress bar on a terminal, and without one elsewhere.

    Args:
        items, total: how many there are; None if nobody knows.
        what: is done, "reading images" say.
        console: where the bar is shown; it disappears at the end.
        unit: of items, "images" say: the bar then shows how many are done in a second.
    """
    if not console.is_terminal:
        yield from items
        return
    from rich.progress import Progress, ProgressColumn, Task, Text

    class Speed(ProgressColumn):
        """Items per second."""

        def render(self, task: Task) -> Text:
            seconds = task.finished_time or task.elapsed
            return Text(f"{task.completed / seconds:.1f} {unit}/s" if unit and seconds and task.completed else "")

    with Progress(*Progress.get_default_columns(), Speed(), console=console, transient=True) as progress:
        yield from progress.track(items, total, description=what)


@contextmanager
def working(what: str, console: Console) -> Iterator[None]:
    """Show on a terminal that something is being done whose length is not known, until the block ends."""
    with console.status(what) if console.is_terminal else nullcontext():
        yield
