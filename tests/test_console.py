"""Progress on a terminal and elsewhere."""

import io
import traceback

import pytest
from rich.console import Console

from detseg.console import indented, one_line, plain, print_line, track
from detseg.data.formats import read_annotations
from detseg.reading import FileError


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rose", "rose"),
        ("Gänseblümchen 雛菊 🌼 ورد", "Gänseblümchen 雛菊 🌼 ورد"),
        ("\x1b[31mred\x9b0m\x07", r"\x1b[31mred\x9b0m\x07"),
        ("a\u202egpj.exe\u2066", r"a\u202egpj.exe\u2066"),
        ("a\0\x7f\r", r"a\x00\x7f\r"),
        ("caf\udce9.jpg", r"caf\xe9.jpg"),
        ("caf\udcc3\udca9.jpg", "café.jpg"),  # as where the locale is not of UTF-8
        ("\udce2\udc80\udcae", r"\u202e"),
        ("\ud800 \udc00", r"\ud800 \udc00"),
        (r"a\x1b", r"a\x1b"),
    ],
)
def test_orders_are_shown_and_not_obeyed(text, shown):
    assert plain(text) == one_line(text) == shown
    assert shown.encode("utf-8") and plain(shown) == shown


def test_lines_stay_or_are_shown():
    assert plain("a\n\tb") == "a\n\tb"
    assert one_line("a\n\tb\u2028c") == r"a\n\tb\u2028c"
    assert indented("2 errors:\n  first\nerror: a\x1b") == "2 errors:\n  first\n  error: a\\x1b"


def test_a_printed_line_is_one():
    shown = io.StringIO()
    print_line(Console(file=shown, width=20), "[b]a[/b]\nb" + "c" * 30)
    assert shown.getvalue() == "[b]a[/b]\\nb" + "c" * 30 + "\n"


def test_an_error_about_a_file_is_shown_by_python_without_orders(tmp_path):
    path = tmp_path / "a\x1b[31m\u202e.json"
    path.write_bytes(b"{")
    with pytest.raises(FileError) as error:
        read_annotations(path)
    shown = "".join(traceback.format_exception_only(error.value))
    assert "a\\x1b[31m\\u202e.json" in shown and "\x1b" not in shown
