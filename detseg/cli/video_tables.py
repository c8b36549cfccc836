"""What is found in the frames of a video, frame by frame: a line of JSON each, and the rows of a table."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from detseg.csv_text import csv_text, write_rows
from detseg.files import replacing, write_atomically
from detseg.results import Classification, Results, Segmentation
from detseg.tracks import Counter

BEST = 5  # classes of a frame that a classifier's tables have
COLUMNS = {
    "detect": ("class", "score", "x1", "y1", "x2", "y2", "track"),
    "segment": ("class", "share"),
    "classify": ("rank", "class", "score"),
}
Row = tuple[Any, ...]


class Tables:
    """NAME.jsonl and NAME.csv while they are written; memory does not grow with the video."""

    def __init__(self, lines: TextIO, rows: TextIO, task: str) -> None:
        self._lines = lines
        self._rows = rows
        write_rows(rows, [("frame", "seconds", *COLUMNS["detect" if task == "localize" else task])])

    @classmethod
    @contextmanager
    def opened(cls, target: Path, task: str) -> Iterator["Tables"]:
        """The tables beside `target`, a path without ending; they are there when the block ends well."""
        lines, rows = (target.with_name(f"{target.name}.{ending}") for ending in ("jsonl", "csv"))
        with (
            replacing(lines) as first,
            replacing(rows) as second,
            first.open("w", encoding="utf-8", newline="\n") as one,
            second.open("w", encoding="utf-8", newline="") as two,
        ):
            yield cls(one, two, task)

    def add(self, frame: int, seconds: float, found: Any, ids: Sequence[int] | None, counts: dict[str, Any]) -> None:
        """Write what is in a frame; `ids` are the numbers of followed objects."""
        time = round(seconds, 3)
        said, rows = _of_frame(found, ids)
        entry = {"frame": frame, "seconds": time} | said | ({"counts": counts} if counts else {})
        self._lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
        write_rows(self._rows, ((frame, f"{time:.3f}", *row) for row in rows))


def _of_frame(found: Any, ids: Sequence[int] | None) -> tuple[dict[str, Any], list[Row]]:
    """What JSON says of a frame, and its rows."""
    if isinstance(found, Segmentation):
        shares = {name: round(share, 5) for name, share in found.shares().items()}
        return {"shares": shares}, list(shares.items())
    if isinstance(found, Classification):
        best = [(name, round(score, 5)) for name, score in found.best(BEST)]
        return {"classes": dict(best)}, [(rank, *pair) for rank, pair in enumerate(best, 1)]
    return _of_objects(found, [-1] * len(found) if ids is None else ids)


def _of_objects(found: Results, ids: Sequence[int]) -> tuple[dict[str, Any], list[Row]]:
    objects: list[dict[str, Any]] = []
    rows: list[Row] = []
    columns = found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), ids
    for label, score, box, number in zip(*columns, strict=True):
        entry = {"name": found.names[label], "score": round(score, 5), "box": [round(v, 2) for v in box]}
        objects.append(entry | ({"track": number} if number >= 0 else {}))
        rows.append((entry["name"], entry["score"], *entry["box"], number if number >= 0 else ""))
    return {"objects": objects}, rows


def write_counts(path: Path, counters: Sequence[Counter]) -> None:
    """Write what was counted: a row for each line or zone, class and kind of number."""
    rows: list[Row] = [("count", "class", "what", "number")]
    for counter in counters:
        for name, figures in counter.figures().items():
            rows.extend((counter.shape.name, name, what, number) for what, number in figures.items())
    write_atomically(path, csv_text(rows))
