"""Standard output and error as commands need them: open, and writing what they have no letters for in other ones."""

import codecs
import io
import os
import sys
from typing import TextIO

from detseg.console import plain

ALIKE = "detseg-alike"  # the name of our way with characters that an encoding does not have
_ALIKE = {"²": "^2", "×": "x", "…": "...", "–": "-", "—": "-", "−": "-", "·": ".", "≥": ">=", "≤": "<=", "→": "->"}
_ALIKE |= {"±": "+-", "°": " deg", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "•": "*"}
_ALIKE |= dict.fromkeys("━╸╺─╌╴╶╭╮╰╯", "-") | dict.fromkeys("│┃", "|")  # bars and frames


def _alike(error: UnicodeError) -> tuple[str, int]:
    """Characters that look alike, and escapes in place of letters, which nothing looks like."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = plain(error.object[error.start : error.end])
    shown = (_ALIKE.get(c, c.encode("ascii", "backslashreplace").decode()) for c in missing)
    return "".join(shown), error.end


codecs.register_error(ALIKE, _alike)


def use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding: names of files are UTF-8 everywhere.

    What is printed stays in the encoding of the locale. It does not return where it starts again.
    """
    if os.name != "posix" or sys.getfilesystemencoding().lower() == "utf-8" or not sys.executable:
        return
    printed = os.environ.get("PYTHONIOENCODING") or getattr(sys.stdout, "encoding", None) or "ascii"
    environment = os.environ | {"PYTHONUTF8": "1", "PYTHONIOENCODING": printed}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def open_streams() -> None:
    """Make sure that there are all three streams, and that no character makes writing fail.

    A file that is opened where one was closed would take its place, and what libraries print would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the first free one
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ALIKE)


def silence(stream: TextIO) -> None:
    """Write on to nowhere: whoever read a stream, `head` say, has had enough."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # no stream of the system
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
