"""The table of contenders that were measured in turn: their images a second, and the ratio of each round."""

import statistics
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table


def print_rates(title: str, rates: Mapping[str, Sequence[float]]) -> None:
    """Print medians of `rates`, a list of rounds for each contender, and medians of the ratios to the first of them."""
    first = next(iter(rates))
    table = Table(title=title)
    for column in ("", "images/s", f"ratio to {first}"):
        table.add_column(column, justify="right" if column else "left")
    for contender, found in rates.items():
        ratio = statistics.median(b / a for a, b in zip(rates[first], found, strict=True))
        table.add_row(contender, f"{statistics.median(found):.1f}", f"{ratio:.2f} x")
    Console().print(table)
