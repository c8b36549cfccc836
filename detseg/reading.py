"""The door that files of others come through: whatever is wrong with one becomes one message that names it."""

import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from detseg.console import plain

T = TypeVar("T", bound=str | Path)


class FileError(ValueError):
    """A file that cannot be read; the message names the file, the item in it, what is wrong and what to do.

    Names in it are shown as `console.plain` does: Python prints the message of an error to the terminal as it is.
    """

    def __str__(self) -> str:
        return plain(super().__str__())


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


SPECIAL = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def kind_of_special(path: str | Path, *, follow: bool = True) -> str:
    """What is at a path that is neither a file nor a folder: "a pipe", say; "" of files, folders, and nothing there."""
    try:
        return SPECIAL.get(stat.S_IFMT(Path(path).stat(follow_symlinks=follow).st_mode), "")
    except (OSError, ValueError):
        return ""


def require_file(path: T) -> T:
    """The path of a file that is to be read.

    Raises:
        FileError: it is a pipe, a device or a socket, which might be waited for, or read, for ever.
    """
    if special := kind_of_special(path):
        raise FileError(f"{path}: is {special} and no file; write what it gives to a file")
    return path


@contextmanager
def in_memory(path: str | Path) -> Iterator[None]:
    """Turn a lack of memory for a file's content inside into a `FileError` with the file's size."""
    try:
        yield
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        what = f"of {Path(path).stat().st_size:,} bytes, for which there is not enough memory"
        raise FileError(f"{path}: is a file {what}; is it the right one, and whole?") from error


def content_of(path: str | Path) -> bytes:
    """The content of a file.

    Raises:
        FileError: it is no file, or memory is too small for it.
        OSError: it cannot be read.
    """
    with in_memory(require_file(path)):
        return Path(path).read_bytes()
