"""The door that files of others come through: whatever is wrong with one becomes one message that names it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FileError(ValueError):
    """A file that cannot be read; the message names the file, the item in it, what is wrong and what to do."""


@contextmanager
def reading(place: str | Path, remedy: str = "") -> Iterator[None]:
    """Turn whatever fails inside into a `FileError` that names the file; one that is a `FileError` already stays.

    Args:
        place: the file, perhaps with the item in it.
        remedy: what to do where it cannot be read.
    """
    try:
        yield
    except FileError:
        raise
    except Exception as error:  # libraries raise every kind at damaged files
        raise FileError(f"{place}: cannot be read: {cause(error)}{remedy and f' ({remedy})'}") from error


def cause(error: BaseException) -> str:
    """What went wrong, in words and one line: texts of Python's own errors say little without their class."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"there is no entry {error}"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
