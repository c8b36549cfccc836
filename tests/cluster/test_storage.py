"""Files that several machines share: addresses, and writing that others see whole or not at all."""

import uuid
from pathlib import Path

import pytest

from detseg.cluster import storage
from detseg.data.tar_shards import address_of


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "out")
        return
    fsspec = pytest.importorskip("fsspec")
    yield (place := f"memory://{uuid.uuid4().hex}/out")
    fsspec.filesystem("memory").rm(place.removesuffix("/out"), recursive=True)


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("s3://bucket/found", "s3://bucket/found"),
        ("memory://found", "memory://found"),
        ("gs://bucket/a//b", "gs://bucket/a/b"),
        ("found", "found"),
        ("/data/found", "/data/found"),
        ("C:/found", str(Path("C:/found"))),
    ],
)
def test_an_address_survives_being_a_path(typed, address):
    assert address_of(Path(typed)) == address


def test_places_in_folders():
    assert storage.place_in("s3://b/c/", "x.jpg") == "s3://b/c/x.jpg"
    assert storage.place_in("/data", "x.jpg") == str(Path("/data/x.jpg"))
    assert storage.place_in("/data", "s3://b/x.jpg") == "s3://b/x.jpg"
    assert storage.place_in("/data", "/x.jpg") == "/x.jpg"


def test_writing_replaces_a_file_and_leaves_nothing_else(folder):
    assert storage.file_names(folder) == set()
    address = storage.place_in(folder, "0.jsonl")
    assert not storage.exists(address)
    for content in (b"first", b"second", b""):
        storage.write(address, content)
        assert storage.read(address) == content and storage.exists(address)
    assert storage.file_names(folder) == {"0.jsonl"} and storage.is_folder(folder)


def test_a_writer_that_is_stopped_leaves_the_old_file(folder, monkeypatch):
    address = storage.place_in(folder, "0.jsonl")
    storage.write(address, b"whole")

    def stop(*_):
        raise KeyboardInterrupt

    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(Path, "replace", stop)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "mv", stop)
    with pytest.raises(KeyboardInterrupt):
        storage.write(address, b"ha")
    assert storage.read(address) == b"whole"
    assert {name for name in storage.file_names(folder) if not name.startswith(".")} == {"0.jsonl"}


def test_what_writers_that_died_left_behind_is_removed_and_nothing_else(folder):
    names = {".0.jsonl.ab12cd34", ".0.jsonl.x_yz0123", ".1.jsonl.ab12cd34", ".0.jsonl", "0.jsonl", ".keep"}
    for name in names:
        storage.write(storage.place_in(folder, name), b"")
    storage.remove_leftovers(folder, {"0.jsonl", "2.jsonl"})
    assert storage.file_names(folder) == names - {".0.jsonl.ab12cd34", ".0.jsonl.x_yz0123"}


def test_an_address_that_nothing_opens():
    with pytest.raises(ValueError, match=r"nowhere://x: cannot be"):
        storage.file_names("nowhere://x")
