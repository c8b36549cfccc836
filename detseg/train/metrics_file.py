"""`metrics.csv` of a run, read again: by resumed runs and for plots."""

import csv
import io
import math
from pathlib import Path

from detseg.reading import FileError, content_of, reading

REMEDY = "correct it there, or delete the file: it is for people, and a run goes on without it"


def read_metrics(path: Path) -> tuple[list[str], list[dict[str, str]], list[int]]:
    """The columns of a metrics.csv, its rows, and the line in the file of each; the last one is left out
    where a crash has cut it short.

    Raises:
        FileError: it cannot be read, a row is longer or shorter than the first, or a column is there twice; the message
            names the line.
    """
    rows, lines = [], []
    with reading(path, REMEDY):
        content = content_of(path)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise FileError(f"{path}: line {line}: is not UTF-8 text ({REMEDY})") from error
        whole = len(text.splitlines()) - (text[-1:] not in "\r\n")  # lines; the last one may have been cut by a crash
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            names = list(reader.fieldnames or ())
            for row in reader:
                if None in row:
                    raise FileError(f"{path}: line {reader.line_num}: has more columns than the first line ({REMEDY})")
                if None not in row.values():
                    rows.append(row)
                    lines.append(reader.line_num)
                elif reader.line_num <= whole:
                    raise FileError(f"{path}: line {reader.line_num}: has fewer columns than the first line ({REMEDY})")
        except csv.Error as error:
            raise FileError(f"{path}: line {reader.line_num + 1}: {error} ({REMEDY})") from error
    if len(set(names)) < len(names):
        raise FileError(f"{path}: line 1: a column is there twice ({REMEDY})")
    return names, rows, lines


def number_at(path: Path, row: dict[str, str], column: str, line: int) -> float:
    """The number of a row, NaN where there is none; raises FileError that names the line."""
    if column not in row:
        raise FileError(f"{path}: line 1: there is no column {column!r} ({REMEDY})")
    try:
        return float(row[column] or math.nan)
    except ValueError as error:
        told = f"{column!r}: {row[column]!r:.40} is not a number"
        raise FileError(f"{path}: line {line}, column {told} ({REMEDY})") from error
