"""Computing beside other processes: when waiting is made passive, that it ends, and that no number changes."""

import threading
import time
from itertools import count, repeat

import pytest
import torch

from detseg import sharing
from detseg.sharing import (
    CROWDED,
    LONGEST,
    SHORTEST,
    Crowding,
    Monitor,
    PassiveWaiting,
    owners_needed,
    shares_cores,
    sharing_cores,
)
from tests.train.runs import differences, state_of, tiny_trainer


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def monitor(monkeypatch, two_threads):
    """The one that is in use, which looks a thousand times a second and ends at once; then what a test has started has
    ended."""
    before = set(threading.enumerate())
    monkeypatch.setattr(sharing, "INTERVAL", 0.001)
    monkeypatch.setattr(sharing, "LINGER", 0.0)
    monkeypatch.setattr(sharing, "_monitor", Monitor())
    yield sharing._monitor
    assert eventually(lambda: set(threading.enumerate()) <= before)


def eventually(true):
    """Whether something becomes true."""
    return any(true() or time.sleep(0.001) for _ in range(10_000))


def owners():
    """Sleeping threads that make waiting passive."""
    return [thread for thread in threading.enumerate() if "_own" in thread.name]


def waiting(seconds):
    """A stand-in for `waits`: of one thread, so many seconds more at each look."""
    total = (round(1e9 * seconds * look) for look in count(1))
    return lambda: {"7": next(total)}


def test_nothing_is_done_about_free_cores():
    crowding = Crowding()
    assert not any(crowding.look(share) for share in (0.0, 0.05, CROWDED, 0.1))


def test_trials_become_seldom_while_the_cores_are_crowded_and_end_when_they_are_free():
    crowding = Crowding()
    for looks in (SHORTEST, 2 * SHORTEST, 4 * SHORTEST, 8 * SHORTEST, LONGEST, LONGEST):
        assert crowding.look(0.5)
        # What is seen of threads that sleep does not count, whatever it is.
        assert [crowding.look(0.9 * (n % 2)) for n in range(looks)] == [True] * (looks - 1) + [False]
    assert not any(crowding.look(0.01) for _ in range(100))
    assert [crowding.look(0.5) for _ in range(SHORTEST + 1)] == [True] * SHORTEST + [False], "from the start again"


@pytest.mark.parametrize("cpus", [1, 2, 4, 8, 24])
@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_threads_outnumber_processors(monkeypatch, cpus, size):
    monkeypatch.setattr(torch, "get_num_threads", lambda: size)
    monkeypatch.setattr(sharing.os, "sched_getaffinity", lambda _: set(range(cpus)))
    needed = owners_needed()
    assert size + needed * (size - 1) > cpus
    assert needed == 1 or size + (needed - 1) * (size - 1) <= cpus


def test_passive_waiting_is_turned_on_and_off(two_threads):
    passive = PassiveWaiting()
    for _ in range(2):
        passive.turn(True)
        asleep = owners()
        passive.turn(True)
        assert len(asleep) == owners_needed() and owners() == asleep
        passive.turn(False)
        passive.turn(False)
        assert owners() == []


def test_waits_are_counted_for_each_thread():
    found = sharing.waits()
    if found:  # not where the system does not count
        assert str(threading.get_native_id()) in found
        assert all(value >= 0 for value in found.values())


def test_waiting_is_passive_while_others_take_the_cores(monkeypatch, monitor):
    monkeypatch.setattr(sharing, "waits", waiting(1.0))
    with sharing_cores():
        assert eventually(owners)
        monkeypatch.setattr(sharing, "waits", waiting(0.0))
        assert eventually(lambda: not owners())
        assert monitor.thread.is_alive()
        monkeypatch.setattr(sharing, "waits", waiting(1.0))
        assert eventually(owners)
    assert eventually(lambda: not owners() and monitor.thread is None)


def test_nested_uses_and_errors_end_together(monkeypatch, monitor):
    monkeypatch.setattr(sharing, "waits", waiting(1.0))
    with sharing_cores():
        thread = monitor.thread
        with pytest.raises(KeyError), sharing_cores():
            assert eventually(owners)
            raise KeyError
        assert monitor.thread is thread
        assert not any(monitor._ends() for _ in range(3))
    assert eventually(lambda: not thread.is_alive())


def test_a_generator_shares_from_its_first_item_to_its_last(monkeypatch, monitor):
    monkeypatch.setattr(sharing, "waits", waiting(0.0))

    @shares_cores
    def numbers(end, *, step=1):
        assert monitor._users == 1
        yield from range(0, end, step)

    items = numbers(6, step=2)
    assert monitor._users == 0
    assert next(items) == 0 and monitor._users == 1
    assert list(items) == [2, 4] and monitor._users == 0
    unfinished = numbers(3)
    next(unfinished)
    unfinished.close()
    assert monitor._users == 0


def test_it_is_watched_on_a_little_after_the_last_use(monkeypatch, monitor):
    monkeypatch.setattr(sharing, "waits", waiting(1.0))
    monkeypatch.setattr(sharing, "LINGER", 1e6)
    with sharing_cores():
        pass
    assert eventually(owners), "images that are predicted one by one are seen as one piece of work"
    thread = monitor.thread
    with sharing_cores():
        assert monitor.thread is thread
    monkeypatch.setattr(sharing, "LINGER", 0.0)


def test_a_thread_that_a_fork_has_left_behind_is_replaced(monkeypatch, monitor):
    monkeypatch.setattr(sharing, "waits", waiting(0.0))
    monitor.thread = threading.Thread()
    with sharing_cores():
        assert monitor.thread.is_alive()


def test_nothing_is_started_where_it_is_of_no_use(monkeypatch, monitor):
    monkeypatch.setattr(sharing, "waits", dict)
    with sharing_cores():
        assert monitor.thread is None, "the system does not count"
    torch.set_num_threads(1)
    monkeypatch.setattr(sharing, "waits", waiting(1.0))
    with sharing_cores():
        assert monitor.thread is None, "nobody waits"


@pytest.mark.slow
def test_passive_waiting_changes_no_number(tmp_path, two_threads):
    passive = PassiveWaiting()
    for name, turns in (("spinning", repeat(False)), ("both", (n % 2 == 0 for n in count()))):
        tiny_trainer(tmp_path / name, at=lambda index, turns=turns: passive.turn(next(turns)), steps=2).run()
    passive.turn(False)
    assert differences(state_of(tmp_path / "spinning"), state_of(tmp_path / "both")) == []
