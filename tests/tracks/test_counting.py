"""Counting at lines and in zones."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.tracks import Counter, Line, Tracker, Zone, parse_count, parse_counts
from detseg.tracks.counting import MOST, crossing, distance, inside
from tests.tracks.scenes import Disc, detections

ACROSS = Line("line 1", (0, 50), (100, 50))
whole = st.integers(0, 12)
points = st.tuples(whole, whole)


def box(x, y, side=10):
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def test_lines_and_zones_of_the_command_line():
    found = parse_counts(["line=0,50,100,50", "zone=0,0,10,0,10,10", "line=1,2,3.5,-4"])
    assert [shape.name for shape in found] == ["line 1", "zone 1", "line 2"]
    assert found[0] == ACROSS and found[2].points.tolist() == [[1, 2], [3.5, -4]]
    assert found[1] == Zone("zone 1", ((0, 0), (10, 0), (10, 10)))
    assert parse_counts([]) == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("", "write line=x1,y1,x2,y2 or zone="),
        ("line", "write line="),
        ("line=", "write line="),
        ("line=1,2,3,x", "write line="),
        ("line=1,2,3,inf", "write line="),
        ("ring=1,2,3,4", "write line="),
        ("zone=1,2,3,4,5", "write line="),
        ("line=1,2,3,4,5,6", "a line has two different ends"),
        ("line=1,2,1,2", "a line has two different ends"),
        ("zone=1,2,3,4", "a zone has three corners at least and an area"),
        ("zone=0,0,1,1,2,2", "a zone has three corners at least and an area"),
    ],
)
def test_what_is_neither_is_refused(word, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_count(word, "it")
    assert str(error.value).startswith(f"{word}: ")


@pytest.mark.parametrize(
    ("ends", "before", "now", "direction"),
    [
        (((0, 50), (100, 50)), (40, 40), (50, 60), "down"),
        (((100, 50), (0, 50)), (40, 40), (50, 60), "down"),
        (((0, 50), (100, 50)), (40, 60), (50, 40), "up"),
        (((50, 0), (50, 100)), (40, 40), (60, 40), "right"),
        (((50, 100), (50, 0)), (40, 40), (60, 40), "right"),
        (((50, 100), (50, 0)), (60, 40), (40, 40), "left"),
        (((0, 0), (100, 90)), (20, 80), (80, 20), "up"),
    ],
)
def test_directions_are_those_of_the_image_however_the_line_is_given(ends, before, now, direction):
    line = Line("it", *ends)
    way = crossing(line, before, now)
    assert line.directions[0 if way > 0 else 1] == direction and way == -crossing(line, now, before)


def test_a_way_past_the_ends_is_no_crossing():
    assert crossing(ACROSS, (101, 40), (101, 60)) == 0
    assert crossing(ACROSS, (100, 40), (100, 60)) == 1, "through the end"
    assert crossing(ACROSS, (50, 40), (60, 49)) == 0 and crossing(ACROSS, (50, 50), (60, 60)) == 0
    assert distance(ACROSS, (7, 53)) == 3 and distance(ACROSS, (700, 46)) == -4


@settings(max_examples=80, deadline=None)
@given(points, points, points, points, points)
def test_a_way_cut_in_two_crosses_as_often_as_the_whole(start, end, before, middle, now):
    """Of a line without ends, whatever the way between."""
    if start != end:
        direction = np.array(end) - start
        endless = Line("it", tuple(start - 1000 * direction), tuple(end + 1000 * direction))
        parts = crossing(endless, before, middle) + crossing(endless, middle, now)
        assert parts == crossing(endless, before, now)


@settings(max_examples=80, deadline=None)
@given(st.lists(points, min_size=3, max_size=7), st.lists(points, min_size=1, max_size=10))
def test_inside_is_what_opencv_says_but_on_the_border(corners, queries):
    zone = Zone("it", tuple(corners))
    contour = np.array(corners, np.float32)
    for point, got in zip(queries, inside(zone, queries).tolist(), strict=True):
        expected = cv2.pointPolygonTest(contour, (float(point[0]), float(point[1])), False)
        if expected != 0:
            assert got == (expected > 0)
    assert inside(zone, np.zeros((0, 2))).tolist() == []


def test_of_zones_that_share_a_side_each_point_is_in_one():
    left, right = Zone("a", ((0, 0), (5, 0), (5, 10), (0, 10))), Zone("b", ((5, 0), (10, 0), (10, 10), (5, 10)))
    grid = [(x / 2, y / 2) for x in range(20) for y in range(20)]
    assert (inside(left, grid).astype(int) + inside(right, grid)).tolist() == [1] * 400


def test_a_line_counts_both_directions_by_class():
    counter = Counter(ACROSS, ["rose", "tulip", "daisy"])
    assert counter.figures() == {} and str(counter) == "line 1: 0 down, 0 up"
    for step in range(11):
        y = 5 + 9 * step
        counter.add([1, 2, 3, -1], [0, 0, 1, 1], [box(20, y), box(50, y), box(80, 100 - y), box(90, y)])
    assert counter.figures() == {"rose": {"down": 2, "up": 0}, "tulip": {"down": 0, "up": 1}}
    assert str(counter) == "line 1: 2 down, 1 up" and counter.kind == "line"
    counter.add([1], [0], [box(20, 10)])  # back in one leap
    assert counter.figures()["rose"] == {"down": 2, "up": 1}


def test_what_trembles_on_the_line_is_counted_once():
    counter, rng = Counter(ACROSS, ["rose"]), np.random.default_rng(0)
    for step in range(200):
        counter.add([1], [0], [box(50, 40 + step / 10 + rng.normal(0, 0.3), side=20)])
    assert counter.figures() == {"rose": {"down": 1, "up": 0}}


def test_what_turns_round_at_the_line_is_not_counted():
    counter = Counter(ACROSS, ["rose"])
    for y in (40, 48, 50.5, 48, 40):
        counter.add([1], [0], [box(50, y)])
    assert counter.figures() == {}


def test_a_zone_counts_who_is_there_and_who_was():
    counter = Counter(Zone("zone 1", ((0, 0), (100, 0), (100, 100), (0, 100))), ["rose", "tulip"])
    counter.add([], [], [])
    assert counter.figures() == {} and str(counter) == "zone 1: 0 now, 0 distinct"
    counter.add([1, 2, 3, -1], [0, 0, 1, 1], [box(10, 10), box(20, 20), box(30, 30), box(40, 40)])
    counter.add([2, 4], [0, 0], [box(20, 20), box(120, 20)])
    assert counter.figures() == {
        "rose": {"now": 1, "most": 2, "distinct": 2},
        "tulip": {"now": 0, "most": 1, "distinct": 1},
    }
    counter.add([1, 2], [0, 0], [box(10, 10), box(20, 20)])
    assert str(counter) == "zone 1: 2 now, 3 distinct"


def test_memory_is_bounded():
    counter = Counter(Zone("zone 1", ((0, 0), (9, 0), (9, 9))), ["rose"])
    for start in range(0, 3 * MOST, 1000):
        counter.add(np.arange(start, start + 1000), np.zeros(1000, int), np.tile([6, 2, 8, 4], (1000, 1)))
    assert counter.figures()["rose"]["distinct"] == 3 * MOST and len(counter._known) == MOST


@pytest.mark.parametrize("seed", range(3))
def test_exact_counts_from_noisy_detections(seed):
    """Discs that cross lines and each other."""
    discs = [Disc(i % 2, 12, (20 + 40 * i, 10), (0, 2 + i % 3), first=5 * i) for i in range(7)]  # down, all of them
    discs += [Disc(0, 15, (320, 60 + 40 * i), (-3, 0), first=9 * i) for i in range(3)]  # left, before the others
    line, upright = Line("line 1", (0, 150), (400, 150)), Line("line 2", (200, 0), (200, 250))
    zone = Zone("zone 1", ((0, 120), (160, 120), (160, 180), (0, 180)))
    counters = [Counter(shape, ["rose", "tulip"]) for shape in (line, upright, zone)]
    tracker, rng = Tracker(), np.random.default_rng(seed)
    for frame in range(120):
        boxes, scores, labels, _ = detections(discs, frame, rng)
        known = tracker.update(boxes, scores, labels)
        for counter in counters:
            counter.add(known.ids, known.labels, boxes)
    assert tracker.found == 10
    assert counters[0].figures() == {"rose": {"down": 4, "up": 0}, "tulip": {"down": 3, "up": 0}}
    assert counters[1].figures() == {"rose": {"left": 3, "right": 0}}
    # Through the zone come the first four of those that go down, and the last of those that go to the left.
    assert {name: row["distinct"] for name, row in counters[2].figures().items()} == {"rose": 3, "tulip": 2}
