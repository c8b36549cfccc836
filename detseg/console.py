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


def track(items: Iterable[T], total: int, *, what: str, console: Console) -> Iterator[T]:
    """Iterate over `items` with a progress bar on a terminal, and without one elsewhere.

    Args:
        items, total: how many there are.
        what: is done, "reading images" say.
        console: where the bar is shown; it disappears at the end.
    """
    if not console.is_terminal:
        yield from items
        return
    from rich.progress import track as bar

    yield from bar(items, what, total, console=console, transient=True)


@contextmanager
def working(what: str, console: Console) -> Iterator[None]:
    """Show on a terminal that something is being done whose length is not known, until the block ends."""
    with console.status(what) if console.is_terminal else nullcontext():
        yield
