"""Processes agree on a name for their attempt, whatever those before them have left in the store."""

import threading
import time

import pytest
import torch

from detseg.train.rendezvous import attempt, rendezvous_options


def agreed(store, world, late=None):
    """The names that so many find, each in a thread of its own; one of them comes later than the others."""
    names = [None] * world

    def find(rank):
        time.sleep(0.1 * (rank == late))
        names[rank] = attempt(store, rank, world)

    threads = [threading.Thread(target=find, args=[rank], daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return names


@pytest.mark.parametrize("world", [1, 2, 5])
def test_every_attempt_has_a_name_of_its_own(world):
    store, seen = torch.distributed.HashStore(), set()
    for late in (None, *range(world)):
        (name,) = set(agreed(store, world, late))
        assert name is not None and name not in seen
        seen.add(name)


def test_one_that_died_while_they_agreed_is_not_counted():
    """It had written its name only, or all but its answer."""
    store = torch.distributed.HashStore()
    for left in ({"name/0": "a"}, {"name/1": "b"}, {"name/0": "a", "name/1": "b", "names": '["a", "b"]'}):
        for key, value in left.items():
            store.set(key, value)
        (name,) = set(agreed(store, 2))
        assert name not in (None, "a", "b")


def test_where_a_launcher_keeps_its_store_only(monkeypatch):
    assert rendezvous_options() == []
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert rendezvous_options() == []
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    for _ in range(2):
        (options,) = rendezvous_options()
        assert options.init_method == "detseg://"
