"""What tables of the terminal and report pages both show: numbers as text, columns of class figures, confusions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from detseg.metrics.bootstrap.draws import Interval


def number(value: float) -> str:
    """Three decimals; a dash for NaN, a figure that nothing could be measured by."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def whole(value: float) -> str:
    """A count."""
    return f"{value:.0f}"


def percent(value: float) -> str:
    """One decimal; a dot for nothing at all, so that rare confusions are told from none."""
    if value == 0:
        return "·"
    return "<0.1" if value < 0.05 else f"{value:.1f}"


def interval_note(level: float) -> str:
    """What limits beside a figure are."""
    return f"{100 * level:.3g} % bootstrap confidence interval over images"


class Column(NamedTuple):
    """A number of each of K classes."""

    head: str
    values: Sequence[float]
    write: Callable[[float], str] = number
    narrow: bool = True  # also in the 80 columns of a terminal

    @property
    def title(self) -> str:
        """The head as the first word of a line."""
        return self.head[:1].upper() + self.head[1:]


def limit_columns(limits: Iterable[Interval]) -> list[Column]:
    """Lower and upper limits, the columns behind that of their figure; none without intervals."""
    known = list(limits)
    return [Column("from", [i.low for i in known]), Column("to", [i.high for i in known])] if known else []


class Confusions(NamedTuple):
    """How often one class was taken for another, in any task."""

    counts: NDArray[np.int64]
    """(K, K), rows: truth, columns: predictions; or (K + 1, K + 1) with a last column of what was missed and a last
    row of what was found where nothing is."""
    names: Sequence[str]  # (K,)
    unit: str  # what is counted
    verb: str  # between the true and the predicted class
    remark: str = ""
    percent: bool = False  # shows shares of the rows in place of counts

    @property
    def rows(self) -> list[str]:
        """What stands before each row."""
        return [*self.names, "nothing"][: len(self.counts)]

    @property
    def columns(self) -> list[str]:
        """What stands above each column."""
        return [*self.names, "missed"][: len(self.counts)]

    @property
    def share(self) -> NDArray[np.float64]:
        """`counts` as shares of their rows, 0..1."""
        share: NDArray[np.float64] = self.counts / self.counts.sum(axis=1, keepdims=True).clip(1)
        return share
