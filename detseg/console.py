"""How detseg prints and shows progress: plain lines, and a bar where there is a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


def print_line(console: Console, text: str) -> None:
    """Print a line as it is: no markup, no colours, no line breaks."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def track(items: Iterable[T], what: str, total: int, console: Console) -> Iterator[T]:
    """Iterate over `items`, on a terminal with a bar, of `what` is done ("reading images"), that is gone at the end."""
    if not console.is_terminal:
        yield from items
        return
    from rich.progress import track as bar

    yield from bar(items, what, total, console=console, transient=True)
