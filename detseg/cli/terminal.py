"""The terminal of the command line."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from detseg.cli.streams import ALIKE, silence
from detseg.console import plain


class Terminal(Console):
    """A console on which what data sets call their classes and files is text, never an order to the terminal.

    Tables too wide for it become lists: a figure of which the last digits are cut off says nothing.

    Args:
        goes_on: do not end the command where nobody reads on: it has more to do than to print.
        options: of `rich.console.Console`.
    """

    def __init__(self, *, goes_on: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.goes_on = goes_on

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's own, without orders in the text."""
        segments = super().render(renderable, options)
        if isinstance(renderable, Table) and renderable.box is not None:  # bars are tables without
            segments = list(segments)
            if self._is_cut(renderable, segments):
                segments = super().render(_as_list(renderable, self), options)
        for segment in segments:
            yield segment if segment.control else segment._replace(text=plain(segment.text))

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's own, without orders and in letters that there are: before it is known how wide the text is."""
        return super().render_str(plain(text).encode(self.encoding, ALIKE).decode(self.encoding), **options)

    def _is_cut(self, table: Table, drawn: Iterable[Segment]) -> bool:
        """Whether letters of a table are left out where it is drawn."""
        cells = (cell for column in table.columns for cell in (column.header, *column.cells))
        texts = [cell for cell in (*cells, table.title, table.caption) if cell is not None]
        whole = [self.render_str(cell).plain if isinstance(cell, str) else str(cell) for cell in texts]
        return _letters(segment.text for segment in drawn) < _letters(whole)

    def on_broken_pipe(self) -> None:
        """Nobody reads on: `detseg.cli.main` ends the command; rich's own ends it with code 1."""
        if not self.goes_on:
            raise BrokenPipeError
        self.quiet = True
        silence(sys.stdout)


def _letters(texts: Iterable[str]) -> int:
    return sum(map(str.isalnum, "".join(texts)))


def _as_list(table: Table, console: Console) -> Text:
    """A table's rows below each other, each value with the head of its column."""

    def text(cell: Any) -> Text:
        return console.render_str(cell, highlight=False) if isinstance(cell, str) else Text(str(cell))

    heads = [text(column.header).plain for column in table.columns]
    lines = [text(table.title)] if table.title else []
    for first, *cells in zip(*(column.cells for column in table.columns), strict=True):
        lines.append(text(first))
        for head, cell in zip(heads[1:], map(text, cells), strict=True):
            if cell.plain.strip():
                lines.append(Text.assemble("  ", f"{head}: " if head else "", cell))
    lines += [text(table.caption)] if table.caption else []
    return Text("\n", overflow="fold").join(lines)
