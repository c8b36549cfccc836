"""COCO results read from their JSON text straight into columns, without an object for each of a million entries.

What a file of results usually is goes through here: a list of objects with plain numbers and compressed run lengths.
Whatever else JSON may hold stops the scan, and the caller reads the file by a library (`coco_json.quick_results`).
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.coco_loops import scan, unescape
from detseg.data.run_lengths import RunLengths
from detseg.kernels import shares

# The shortest result has more characters than this: {"image_id":1,"category_id":1,"score":1,"bbox":[0,0,0,0]}
_SHORTEST = 45
# Characters that are worth a thread.
_SHARE = 4_000_000
_KEYS = (b"image_id", b"category_id", b"score", b"bbox", b"segmentation", b"size", b"counts")
_POWERS = 10.0 ** np.arange(23)  # exact in float64


class Scanned(NamedTuple):
    """The columns of D results."""

    image_ids: NDArray[np.int64]  # (D,)
    category_ids: NDArray[np.int64]  # (D,)
    scores: NDArray[np.float64]  # (D,)
    boxes: NDArray[np.float64]  # (D, 4) as they are written
    has_box: NDArray[np.bool_]  # (D,)
    masks: RunLengths | None  # (D,), where asked for


def scan_results(content: bytearray, masks: bool) -> Scanned | None:
    """The columns of a JSON list of results; None where it is anything but the usual form.

    Masks stay where they are in `content`, in which their escapes are undone.
    """
    if not content.endswith(b"]"):
        content = content.rstrip()
    bounds = _bounds(content) if content.endswith(b"]") else []
    if not bounds:
        return None
    text = np.frombuffer(content, np.uint8)
    with ThreadPoolExecutor(len(bounds)) as threads:
        scanned = list(threads.map(lambda bound: _scan_part(content, text, bound, masks), bounds))
        parts = [part for part in scanned if part is not None]
        if len(parts) < len(bounds):
            return None
        for _ in threads.map(lambda part: unescape(text, part[1]), parts if masks else ()):
            pass
    numbers, wholes, has_box = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    found = RunLengths(text, wholes[:, 4:6], wholes[:, 2:4]) if masks else None
    ids, categories, scores, boxes = map(
        np.ascontiguousarray, (wholes[:, 0], wholes[:, 1], numbers[:, 0], numbers[:, 1:])
    )
    return Scanned(ids, categories, scores, boxes, has_box, found)


def _bounds(content: bytearray) -> list[tuple[int, int]]:
    """Where each core's share of the objects begins, and where it ends: at the next one's begin, or behind the text."""
    first = content.find(b"{")
    if first < 0 or content[:first].strip() != b"[":
        return []
    beginning = content[first : content.find(b":", first) + 1]
    count = shares(len(content), _SHARE)
    starts = [content.find(beginning, first + share * (len(content) - first) // count) for share in range(count)]
    starts = sorted({start for start in starts if start >= 0})
    return list(pairwise([*starts, len(content)]))


def _scan_part(
    content: bytearray, text: NDArray[np.uint8], bound: tuple[int, int], masks: bool
) -> tuple[NDArray[Any], ...] | None:
    """Score and box, whole numbers, and whether there is a box, of the results in a part of the text."""
    begin, end = bound
    room = (end - begin) // _SHORTEST + 2
    # Empty arrays cost nothing before they are written to.
    numbers, wholes, has_box = np.empty((room, 5)), np.empty((room, 6 if masks else 2), np.int64), np.empty(room, bool)
    slow = np.empty((5 * room, 2), np.int64)
    count, odd = scan(text, begin, end, _key_table(), _POWERS, numbers, wholes, has_box, slow, masks)
    if count < 0:
        return None
    for place, entry in slow[:odd].tolist():  # numbers that the scan cannot round for certain
        numbers.ravel()[entry] = float(content[place : _end_of_number(content, place)])
    return numbers[:count], wholes[:count], has_box[:count]


def _end_of_number(content: bytearray, place: int) -> int:
    while content[place : place + 1] in (b"+", b"-", b".", b"e", b"E") or content[place : place + 1].isdigit():
        place += 1
    return place


def _key_table() -> NDArray[np.uint8]:
    """(keys, 13): the length of each key, then its characters."""
    table = np.zeros((len(_KEYS), 13), np.uint8)
    for row, key in zip(table, _KEYS, strict=True):
        row[0], row[1 : 1 + len(key)] = len(key), np.frombuffer(key, np.uint8)
    return table
