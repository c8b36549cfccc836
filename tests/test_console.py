"""Progress on a terminal and elsewhere."""

import io

import pytest
from rich.console import Console

from detseg.console import track


@pytest.mark.parametrize("total", [3, None])
@pytest.mark.parametrize("terminal", [True, False])
def test_items_go_through_and_a_terminal_shows_how_quick(total, terminal):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=120)
    assert list(track(iter(range(3)), total, what="predicting", console=console, unit="images")) == [0, 1, 2]
    assert ("predicting" in shown.getvalue()) == ("images/s" in shown.getvalue()) == terminal


def test_without_a_unit_no_rate_is_shown():
    shown = io.StringIO()
    assert list(track([1], 1, what="reading", console=Console(file=shown, force_terminal=True, width=120))) == [1]
    assert "reading" in shown.getvalue() and "/s" not in shown.getvalue()
