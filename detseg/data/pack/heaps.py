"""The heaps in which HDF5 keeps texts: in one that is damaged its library goes round for ever, so they are looked at.

Format: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html (III.E, Global Heap): a head of 16 bytes
with the heap's size, then entries, each with a number, 0 for free space, and its length.
"""

import mmap
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

MAGIC = b"GCOL"
HEAD, ENTRY = Struct("<4sB3xQ"), Struct("<HHIQ")
FIRST = 2**20  # bytes at the beginning of a file: what is written first, attributes, has its heap there
TEXT = np.dtype([("length", "<u4"), ("heap", "<u8"), ("entry", "<u4")])  # where a text of a data set is


def first_heaps_fit(path: Path) -> bool:
    """Whether the heaps at the beginning of a file can be read."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(MAGIC, 0, FIRST)
        while place >= 0:
            if not _fits(content, place):
                return False
            place = content.find(MAGIC, place + 1, FIRST)
    return True


def heaps_fit(path: Path, texts: Any) -> bool:
    """Whether the heaps that hold the texts of a data set of h5py can be read; it lies in one piece."""
    if not texts.size:
        return True
    begin = texts.id.get_offset()
    if begin is None or TEXT.itemsize * texts.size > texts.id.get_storage_size():
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = begin + TEXT.itemsize * texts.size
        if end > len(content):
            return False
        rows = np.frombuffer(content[begin:end], TEXT)
        heaps = np.unique(rows["heap"]).tolist()
        # HDF5 takes memory for a text before it looks whether that is as long.
        return int(rows["length"].max()) <= len(content) and all(
            heap == 0 or _fits(content, heap) for heap in heaps
        )  # 0 of an empty text


def _fits(content: mmap.mmap, place: int) -> bool:
    """Whether the entries of a heap follow each other up to its end."""
    if place + HEAD.size > len(content):
        return False
    magic, _, size = HEAD.unpack_from(content, place)
    at, end = place + HEAD.size, place + size
    if magic != MAGIC or end > len(content):
        return False
    while at + ENTRY.size <= end:
        number, _, _, length = ENTRY.unpack_from(content, at)
        step = ENTRY.size + (length + 7) // 8 * 8 if number else length
        if step < ENTRY.size:
            return False
        at += step
    return at <= end
