"""CSV tables as text: names in them are text, for spreadsheets and terminals too.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, and runs it: a class or file may
have such a name (https://owasp.org/www-community/attacks/CSV_Injection). There an apostrophe is put before the text,
which spreadsheets take for "this is text"; `read_cell` takes it away. Numbers stay numbers.
"""

import csv
import io
from collections.abc import Iterable
from typing import Any, TextIO

from detseg.console import one_line

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_TEXT = "'"


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as a CSV file, see `write_rows`."""
    text = io.StringIO(newline="")
    write_rows(text, rows)
    return text.getvalue()


def write_rows(file: TextIO, rows: Iterable[Iterable[Any]]) -> None:
    """Add rows to a CSV file that was opened with ``newline=""``; texts as `cell` has them, lines end with a \\n."""
    csv.writer(file, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)


def cell(value: Any) -> Any:
    """A value as it is written: texts on one line and without control characters, none of them a formula."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return _TEXT + text if _is_run(text) else text


def read_cell(text: str) -> str:
    """What `cell` was given, but for characters that it wrote as escapes."""
    return text[1:] if text.startswith(_TEXT) and _is_run(text) else text


def _is_run(text: str) -> bool:
    """Whether a spreadsheet would run a text, or would if it had not been marked, perhaps several times."""
    bare = text.lstrip(_TEXT)
    if not bare.startswith(_FORMULA):
        return False
    try:
        float(bare)
    except ValueError:
        return True
    return False
