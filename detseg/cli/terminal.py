"""The terminal of the command line."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment

from detseg.console import plain


class Terminal(Console):
    """A console on which what data sets call their classes and files is text, never an order to the terminal."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's own, without control characters in the text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=plain(segment.text))

    def on_broken_pipe(self) -> None:
        """Nobody reads on: `detseg.cli.main` ends the command; rich's own ends it with code 1."""
        raise BrokenPipeError
