"""Remote shards on the local disk: never more bytes than the limit, those used last, fetched once."""

import io
import os
import threading

import fsspec
import numpy as np
import pytest
from filelock import FileLock

from detseg.data.shard_cache import LOCK, PART, TOGETHER, ShardCache, cache_folder
from detseg.data.tar_shards import members
from detseg.train.sampler import epoch_order
from tests.data.test_tar_shards import shard

SHARDS, EACH = 100, 100


@pytest.fixture
def remote():
    """A file system in memory that stands for one in a cloud, and counts what is read of it."""
    files = fsspec.filesystem("memory")
    files.pipe({f"/cache-test/{n}.tar": bytes([n]) * 1000 for n in range(8)})
    yield files
    files.rm("/cache-test", recursive=True)


def address(number):
    return f"memory://cache-test/{number}.tar"


def used(folder):
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".tar", PART))


def kept(folder):
    return {path.read_bytes()[0] for path in folder.glob("*.tar")}


def count_fetches(monkeypatch, cache):
    fetched, fetch = [], cache._fetch
    monkeypatch.setattr(cache, "_fetch", lambda name, place: fetched.append(name) or fetch(name, place))
    return fetched


def test_ten_thousand_samples_through_a_small_cache(tmp_path, monkeypatch):
    """In the order of training: the limit holds at every step, and a shard is fetched about once."""
    files = fsspec.filesystem("memory")
    content = shard(*((f"{row}.txt", b"@@@ %d" % row * 9) for row in range(EACH)))
    files.pipe({f"/many/{number}.tar": content.replace(b"@@@", b"%03d" % number) for number in range(SHARDS)})
    inside = [(one.offset, one.size) for one in members(io.BytesIO(content))]
    places = [(number, *place) for number in range(SHARDS) for place in inside]
    limit = TOGETHER * len(content)
    assert limit < 2_000_000 < SHARDS * len(content)
    cache = ShardCache(tmp_path, limit)
    fetched = count_fetches(monkeypatch, cache)
    fetch, largest = cache._fetch, []
    monkeypatch.setattr(cache, "_fetch", lambda *given: (fetch(*given), largest.append(used(tmp_path)))[0])
    shards = np.array([number for number, *_ in places])
    for row in epoch_order(len(places), 1, seed=0, epoch=0, shards=shards).tolist():
        number, offset, size = places[row]
        assert cache.read(f"memory://many/{number}.tar", offset, size) == b"%03d %d" % (number, row % EACH) * 9
    files.rm("/many", recursive=True)
    assert len(fetched) == len(set(fetched)) == SHARDS
    assert 0 < max(largest) <= limit


def test_those_used_longest_ago_are_removed(remote, tmp_path):
    cache = ShardCache(tmp_path, TOGETHER * 1000)
    cache.limit = 3000
    cache._sizes = dict.fromkeys(map(address, range(8)), 100)  # small enough to be kept

    for number in (0, 1, 2, 0, 3):
        place = cache._place(address(number))
        if not place.exists():
            cache._sizes[address(number)] = 1000
            assert cache._fetch(address(number), place)
        os.utime(place, ns=(len(cache._sizes), 10**9 * (number + 10 if number else 99)))
    assert kept(tmp_path) == {0, 2, 3}
    assert used(tmp_path) == 3000


def test_what_does_not_fit_is_read_at_its_place(remote, tmp_path):
    cache = ShardCache(tmp_path, TOGETHER * 999)
    assert cache.read(address(3), 990, 50) == bytes([3]) * 10
    assert used(tmp_path) == 0


def test_a_fetch_that_fails_leaves_nothing(remote, tmp_path, monkeypatch):
    cache = ShardCache(tmp_path, TOGETHER * 2000)
    cache._sizes[address(1)] = 1500  # it was longer a moment ago
    with pytest.raises(ValueError, match=r"cache-test/1.tar: ended 500 bytes early"):
        cache.read(address(1), 0, 5)
    assert used(tmp_path) == 0
    with pytest.raises(FileNotFoundError):
        cache.read(address(99), 0, 5)


def test_what_a_killed_process_left_is_removed_and_what_another_fetches_is_not(remote, tmp_path):
    cache = ShardCache(tmp_path, TOGETHER * 1000)
    dead, busy = (cache._place(address(number)).with_suffix(PART) for number in (5, 6))
    dead.write_bytes(bytes(8000))
    busy.write_bytes(bytes(8000))
    with FileLock(f"{busy.with_suffix('.tar')}{LOCK}"):
        assert cache.read(address(1), 0, 3) == b"\1\1\1"
        assert busy.exists() and not dead.exists()
        busy.write_bytes(bytes(TOGETHER * 1000 - 500))  # leaves no room
        assert cache.read(address(2), 0, 3) == b"\2\2\2"
        assert kept(tmp_path) == set()
    assert cache.read(address(2), 0, 3) == b"\2\2\2"
    assert kept(tmp_path) == {2}


def test_several_readers_fetch_a_shard_once(remote, tmp_path, monkeypatch):
    cache = ShardCache(tmp_path, TOGETHER * 1000)
    fetched, found = count_fetches(monkeypatch, cache), []
    threads = [threading.Thread(target=lambda: found.append(cache.read(address(4), 1, 2))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"\4\4"] * 8 and fetched == [address(4)]


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DETSEG_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("DETSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache_folder()) == "/x/detseg"
