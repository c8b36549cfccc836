"""How detseg prints and shows progress: plain lines, and a bar where there is a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

# Control characters but tab and end of line, what turns the direction of text round, halves of characters.
_ORDERS = "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_OBEYED, _OBEYED_OR_LINES = re.compile(f"[{_ORDERS}]"), re.compile(f"[{_ORDERS}\t\n\u2028\u2029]")
_BYTES = re.compile("[\udc80-\udcff]+")  # what Python makes of a file name's bytes that are no text


def plain(text: str) -> str:
    """Text to be shown: what a terminal would obey is written as an escape, and is not done.

    Names of files and classes are text from anywhere. `\\x1b` stands for the control character, `\\u202e` for what
    turns the direction round, `caf\\xe9.jpg` for a file name whose byte E9 is no UTF-8. Tabs and ends of lines stay.
    """
    return _escaped(text, _OBEYED)


def one_line(text: str) -> str:
    r"""As `plain`, tabs and ends of lines too, which become ``\t`` and ``\n``: a name, or a line with names in it."""
    return _escaped(text, _OBEYED_OR_LINES)


def indented(text: str) -> str:
    """As `plain`, all lines but the first indented: no name in a message makes a line that looks like one of ours."""
    return re.sub(r"\n(?! )", "\n  ", plain(text))


def text_of_bytes(name: str) -> str:
    r"""A name of the file system as text: its bytes as UTF-8, whatever the locale; those that are none as ``\xe9``."""
    return _BYTES.sub(lambda run: run[0].encode("ascii", "surrogateescape").decode("utf-8", "backslashreplace"), name)


def _escaped(text: str, orders: re.Pattern[str]) -> str:
    if text.isprintable() and text.isascii():  # as nearly all
        return text
    return orders.sub(lambda found: found[0].encode("unicode_escape").decode(), text_of_bytes(text))


def print_line(console: Console, text: str) -> None:
    """Print a line as it is: no markup, no colours, no line breaks."""
    console.print(one_line(text), markup=False, highlight=False, soft_wrap=True)


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
