"""Heaps of HDF5 whose entries do not follow each other are seen before the library goes round in them for ever."""

import struct

import h5py
import numpy as np
import pytest

from detseg.data.pack.heaps import first_heaps_fit, heaps_fit


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "texts.h5"
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "a text"
        names = np.array([f"{i:0{1 + i % 40}d}" for i in range(500)] + ["", "ü" * 9000], object)
        file.create_dataset("names", data=names, dtype=h5py.string_dtype())
        file.create_dataset("none", data=np.array([], object), dtype=h5py.string_dtype())
    return path


def fits(path):
    with h5py.File(path) as file:
        return first_heaps_fit(path) and heaps_fit(path, file["names"]) and heaps_fit(path, file["none"])


def test_heaps_that_hdf5_writes_fit(file):
    assert fits(file)
    assert b"GCOL" in file.read_bytes()


def test_a_text_that_claims_more_than_the_file_has_does_not(file):
    with h5py.File(file) as opened:
        place = opened["names"].id.get_offset()
    content = bytearray(file.read_bytes())
    content[place : place + 4] = struct.pack("<I", 2**31)
    file.write_bytes(content)
    assert not fits(file)


def test_a_heap_with_an_entry_of_no_size_does_not(file):
    good = file.read_bytes()
    heap = good.find(b"GCOL")
    while heap >= 0:
        for place, damage in (
            (heap + 16, struct.pack("<HHIQ", 0, 0, 0, 0)),  # free space of no size: round and round
            (heap + 24, struct.pack("<Q", 2**64 - 16)),  # as large as all addresses: back to where it was
            (heap + 8, struct.pack("<Q", len(good))),
            (heap, b"GOAL"),
        ):
            file.write_bytes(good[:place] + damage + good[place + len(damage) :])
            with h5py.File(file) as opened:
                assert not heaps_fit(file, opened["names"]) or not first_heaps_fit(file) or damage == b"GOAL"
        heap = good.find(b"GCOL", heap + 1)
