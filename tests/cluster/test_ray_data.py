"""What is asked of Ray, and what is done where it loses units; Ray itself is in test_on_ray.py."""

import pytest

from detseg.cluster import ray_data
from detseg.cluster.ray_data import Actors, Cluster, Tally, actors_for, run
from detseg.cluster.units import Unit
from detseg.cluster.worker import Summary
from tests.cluster.brightest import FILES, job

UNITS = [Unit(name, "images", (name,)) for name in "abcd"]


def test_actors_are_as_many_as_there_is_room_for():
    laptop = Cluster.of([{"CPU": 4.0, "memory": 1e9}])
    assert actors_for(laptop, gpus=True) == Actors(4, 1, 0)
    mixed = Cluster.of([{"CPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 32.0, "GPU": 2.0}, {}])
    assert (mixed.nodes, mixed.cpus, mixed.gpus) == (4, 56, 6)
    assert actors_for(mixed, gpus=True) == Actors(6, 4, 1) and actors_for(mixed, gpus=False) == Actors(56, 1, 0)
    assert actors_for(Cluster.of([{"GPU": 1.0}]), gpus=True) == Actors(1, 1, 1)


def test_tries_are_counted_by_unit():
    tally = Tally()
    assert [tally.begin(name) for name in "aabac"] == [1, 2, 1, 3, 1]


def test_an_address_where_nobody_listens_is_known_at_once():
    with pytest.raises(OSError, match=r"\w"):
        ray_data._try("127.0.0.1:1")
    for other in ("auto", "local", "ray://127.0.0.1:1"):
        ray_data._try(other)  # Ray knows


@pytest.mark.parametrize(
    ("lost", "failed", "rounds", "expected"),
    [
        # By round: the units that are lost, and those that fail; what is said in the end of those that did not come.
        ([""], [""], ["abcd"], {}),
        (["bd", "", ""], ["", "", ""], ["abcd", "bd"], {}),
        (["", "", ""], ["a", "a", ""], ["abcd", "a", "a"], {}),
        (["", "", ""], ["a", "a", "a"], ["abcd", "a", "a"], {"a": "full"}),
        (
            ["ab", "b", "b"],
            ["c", "", ""],
            ["abcd", "abc", "b"],
            {"b": "b: was lost in each of 3 rounds"},
        ),
        (["abcd"] * 3, [""] * 3, ["abcd"] * 3, dict.fromkeys("abcd")),
    ],
)
def test_units_that_are_lost_or_fail_are_tried_again(lost, failed, rounds, expected, monkeypatch):
    seen = []

    def one_round(units, own, files, actors, tally):
        number = len(seen)
        seen.append("".join(unit.name for unit in units))
        assert own.threads == actors.cpus == 2 and files is FILES
        for unit in reversed(units):
            if unit.name not in lost[number]:
                yield Summary(unit.name, images=1, failed="full" if unit.name in failed[number] else "")

    monkeypatch.setattr(ray_data, "_round", one_round)
    monkeypatch.setattr(ray_data, "_tally", Tally)
    summaries = list(run(UNITS, job(".", "out"), FILES, Actors(3, 2, 0)))
    assert seen == rounds
    assert sorted(one.unit for one in summaries) == list("abcd")  # each once
    said = {one.unit: one.failed for one in summaries if one.failed}
    assert said.keys() == expected.keys()
    assert all(text is None or said[name] == text for name, text in expected.items())
