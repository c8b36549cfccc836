"""JSON files read and parsed, with messages that say what is wrong at which line."""

import contextlib
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from detseg.reading import FileError, cause, in_memory, require_file

GZIP = b"\x1f\x8b"
# OverflowError: a whole number has more than 64 bits. RecursionError: brackets nested by the thousand.
ODD_JSON = (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, RecursionError)
B = TypeVar("B", bytes, bytearray)
T = TypeVar("T")


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked (gzip), without a byte order mark of UTF-8; raises FileError."""
    return _read(path, Path.read_bytes)


def read_buffer(path: Path) -> bytearray:
    """As `read_bytes`, to be written to: for files of hundreds of megabytes a copy would take as long as reading."""
    content = _read(path, _whole_file)
    return content if isinstance(content, bytearray) else bytearray(content)


def _read(path: Path, read: Callable[[Path], B]) -> B:
    try:
        with in_memory(require_file(path)):
            content = read(path)
            if content.startswith(GZIP):
                content = type(content)(gzip.decompress(content))
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path}: cannot be read: {cause(error)}") from error
    mark = b"\xef\xbb\xbf"
    return content.removeprefix(mark) if content.startswith(mark) else content  # of a bytearray always a copy


def _whole_file(path: Path) -> bytearray:
    with path.open("rb") as file:
        content = bytearray(os.fstat(file.fileno()).st_size)
        del content[file.readinto(content) :]
        content += file.read()  # what is no plain file has no size
    return content


def parse_json(content: bytes, place: str | Path, *, of_paths: bool = False) -> Any:
    """What a JSON text holds, NaN and Infinity too; raises FileError that says what is wrong at which line.

    `of_paths`: it may hold names of files that are no text, as Python writes them: the byte E9 as half a character.
    """
    with contextlib.suppress(*ODD_JSON):
        return msgspec.json.decode(content)  # several times faster than json
    encoding = json.detect_encoding(content)
    try:
        text = content.decode(encoding)
        parsed = json.loads(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(f"{place}: line {line}: is not {encoding} text; save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise FileError(f"{place}: line {error.lineno}, column {error.colno}: no JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # ValueError: a number of more than 4300 digits
        raise FileError(f"{place}: cannot be read as JSON: {cause(error)}") from error
    _refuse_half_characters(text, place, _BYTES if of_paths else None)
    return parsed


# A pair of escapes for one character, an escaped back slash, or (kept) half a pair.
_ESCAPES = re.compile(r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]|(\\u[dD][89a-fA-F]..)")
_BYTES = re.compile(r"\\u[dD][cC][89a-fA-F].")


def _refuse_half_characters(text: str, place: str | Path, but: re.Pattern[str] | None) -> None:
    """Python reads them, and fails when they are printed or written."""
    if "\\ud" in text or "\\uD" in text:
        for match in _ESCAPES.finditer(text):
            if match[1] and not (but and but.fullmatch(match[1])):
                line = text.count("\n", 0, match.start()) + 1
                raise FileError(f"{place}: line {line}: {match[1]} is half a character; correct the text there")


def read_json(path: Path, kind: type[T], remedy: str = "") -> T:
    """The content of a JSON file as `kind`, a `msgspec.Struct` say: every entry is there and of its declared type.

    Raises:
        FileError: it cannot be read, or an entry is missing or of another type; the message names the entry.
    """
    return as_declared(parse_json(read_bytes(path), path), kind, path, remedy)


def as_declared(content: Any, kind: Any, place: str | Path, remedy: str = "", *, strict: bool = True) -> Any:
    """A content as `kind`, whose declared types may be classes such as `Path` too, which a text becomes.

    Args:
        content: of dicts and lists, as JSON has them.
        kind: a type, such as a `msgspec.Struct` or a dataclass.
        place: where it is from, for messages.
        remedy: what to do where it is of another type.
        strict: texts are no numbers.

    Raises:
        FileError: an entry is missing or of another type; the message names the entry.
    """
    try:
        return msgspec.convert(content, kind, strict=strict, dec_hook=_instance)
    except Exception as error:  # what is no JSON, such as tensors, raises every kind
        what, _, entry = str(error).partition(" - at `$")
        entry = entry.strip("`.")
        raise FileError(f"{place}: {entry and f'{entry}: '}{what}{remedy and f' ({remedy})'}") from error


def _instance(kind: Any, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    if kind is Path and isinstance(value, str):
        if "\0" in value:
            raise ValueError("a path has no zero bytes")
        return Path(value)
    raise ValueError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
