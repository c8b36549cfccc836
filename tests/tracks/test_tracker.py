"""Numbers that stay with their objects."""

import numpy as np
import pytest

from detseg.box_formats import overlap
from detseg.tracks import Tracker
from detseg.tracks.motion import Motion
from tests.tracks.scenes import Disc, numbers

CROSSING = [
    Disc(0, 20, (30, 100), (4, 0)),  # to the right, behind the next two
    Disc(0, 20, (270, 104), (-4, 0)),  # of the same class, to the left, before it
    Disc(1, 22, (150, 20), (0, 3)),  # down, before both
    Disc(1, 10, (20, 250), (6, -1)),  # small and quick, alone
    Disc(0, 15, (250, 250), (0, 0)),  # at rest
]


def update(tracker, *rows, **options):
    """The numbers of (box, score, label) in a frame."""
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return tracker.update(boxes, scores, labels, **options).ids.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_objects_that_move_cross_and_hide_each_other_keep_their_numbers(seed):
    tracker = Tracker()
    got = numbers(tracker, CROSSING, 60, seed)
    assert [len(set(got[i])) for i in range(5)] == [1] * 5, got
    assert len(set.union(*(set(got[i]) for i in range(5)))) == tracker.found == 5
    assert all(len(got[i]) > 40 for i in range(5)), "also while they are half hidden"


@pytest.mark.parametrize("seed", range(5))
def test_detections_that_are_missing_or_false_change_no_number(seed):
    got = numbers(Tracker(), CROSSING[2:], 60, seed, missed=0.1, false=2)
    assert [len(set(got[i])) for i in range(3)] == [1] * 3, got


@pytest.mark.parametrize("every", [2, 5])
def test_frames_that_are_left_out(every):
    got = numbers(Tracker(), [CROSSING[0], CROSSING[3], CROSSING[4]], 50, every=every)
    assert [set(got[i]) for i in range(3)] == [{got[i][0]} for i in range(3)]
    assert len({got[i][0] for i in range(3)}) == 3


def test_what_moves_by_more_than_its_size_from_the_start():
    tracker = Tracker()
    for frame in range(1, 12):  # nothing is there in the first
        x = 30 * frame
        got = update(tracker, ([x, 10, x + 25, 35], 0.9, 0)) if frame > 1 else update(tracker)
        assert got == ([] if frame == 1 else [-1] if frame == 2 else [1])


def test_the_table_of_the_docstring():
    rose, tulip, leaf = [0, 0, 10, 10], [50, 0, 60, 10], [0, 50, 10, 60]
    tracker = Tracker()
    assert update(tracker, (rose, 0.9, 0), (tulip, 0.9, 1)) == [1, 2]
    assert update(tracker, (rose, 0.8, 0), (tulip, 0.2, 1), (leaf, 0.4, 2)) == [1, 2, -1]
    assert update(tracker, (tulip, 0.7, 1)) == [2]
    assert update(tracker, (rose, 0.9, 0), (tulip, 0.9, 1)) == [1, 2]
    assert update(tracker, (leaf, 0.4, 2)) == [-1], "begins anew"
    assert tracker.found == 2


def test_new_objects_get_numbers_when_seen_again_and_unsure_ones_never():
    tracker = Tracker(threshold=0.5)
    assert update(tracker) == []
    assert update(tracker, ([0, 0, 9, 9], 0.5, 0), ([50, 0, 59, 9], 0.49, 0)) == [-1, -1]
    assert update(tracker, ([0, 0, 9, 9], 0.5, 0), ([50, 0, 59, 9], 0.49, 0)) == [1, -1]
    assert update(tracker, ([0, 0, 9, 9], 0.2, 0), ([50, 0, 59, 9], 0.49, 0)) == [1, -1]


@pytest.mark.parametrize(("hidden", "number"), [(4, 1), (5, 1), (6, -1)])
def test_patience_with_what_is_hidden(hidden, number):
    tracker = Tracker(patience=5)
    update(tracker, ([0, 0, 9, 9], 0.9, 0))
    for _ in range(hidden):
        assert update(tracker) == []
    assert update(tracker, ([0, 0, 9, 9], 0.9, 0)) == [number]


def test_patience_counts_frames_that_were_left_out():
    tracker = Tracker(patience=5)
    update(tracker, ([0, 0, 9, 9], 0.9, 0))
    update(tracker, frames=6)
    assert update(tracker, ([0, 0, 9, 9], 0.9, 0)) == [-1]


def test_the_class_is_that_of_most_frames():
    tracker = Tracker()
    labels = [3, 3, 7, 3, 3]
    got = [tracker.update([[0, 0, 9, 9]], [0.9], [label]) for label in labels]
    assert [one.labels.tolist() for one in got] == [[3]] * 5
    assert [one.ids.tolist() for one in got] == [[1]] * 5
    # Unless another one, only near it, is there in the same frame.
    assert update(tracker, ([0, 5, 9, 14], 0.9, 7), ([0, 1, 9, 10], 0.9, 3)) == [-1, 1]


def test_ties_go_to_the_first():
    tracker = Tracker()
    box = [0, 0, 9, 9]
    assert update(tracker, (box, 0.9, 0), (box, 0.9, 0)) == [1, 2]
    assert sorted(update(tracker, (box, 0.9, 0), (box, 0.9, 0))) == [1, 2]


def test_input_that_does_not_fit():
    tracker = Tracker()
    with pytest.raises(ValueError, match="1 boxes, 2 scores and 1 labels"):
        tracker.update([[0, 0, 1, 1]], [1, 1], [0])
    with pytest.raises(ValueError, match="box 1 is not finite"):
        tracker.update([[0, 0, 1, 1], [0, 0, np.nan, 1]], [1, 1], [0, 0])
    with pytest.raises(ValueError, match="patience must be at least 1 frame, not 0"):
        Tracker(patience=0)
    assert update(tracker, ([5, 5, 5, 5], 0.9, 0)) == [1], "a box without area is one"
    assert update(tracker, ([5, 5, 5, 5], 0.9, 0)) in ([1], [-1])


def test_many_objects_and_what_is_known_of_them_is_forgotten():
    tracker = Tracker(patience=3)
    rng = np.random.default_rng(0)
    for _ in range(30):  # new ones each time
        corner = rng.uniform(0, 1e5, (80, 2))
        tracker.update(np.concatenate([corner, corner + 20], 1), np.full(80, 0.9), np.zeros(80, int))
    assert len(tracker._tracks) == len(tracker._motion) <= 2 * 80


def slow_filter(boxes, frames):
    """The Kalman filter of one box as its textbook has it, with matrices 8 x 8; the place after each correction."""
    from detseg.tracks.motion import FIRST_SPEED, MEASURED, MOVES, SPEEDS

    def measured(box):
        return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]])

    see = np.eye(4, 8)
    state = np.concatenate([measured(boxes[0]), np.zeros(4)])
    size = np.sqrt(state[2] * state[3])
    spread = np.diag(np.concatenate([np.full(4, 2 * MEASURED), FIRST_SPEED]) * size) ** 2
    places = [state[:4].copy()]
    for box, passed in zip(boxes[1:], frames, strict=True):
        size = np.sqrt(state[2] * state[3])
        step = np.eye(8) + passed * np.eye(8, k=4)
        state = step @ state
        noise = np.diag([(MOVES * size) ** 2] * 4 + [(SPEEDS * size) ** 2] * 4)
        spread = step @ spread @ step.T + passed * noise
        size = np.sqrt(state[2] * state[3])
        gain = spread @ see.T @ np.linalg.inv(see @ spread @ see.T + np.eye(4) * (MEASURED * size) ** 2)
        state = state + gain @ (measured(box) - see @ state)
        spread = (np.eye(8) - gain @ see) @ spread
        places.append(state[:4].copy())
    return np.array(places)


def test_the_filter_is_that_of_the_textbook():
    rng = np.random.default_rng(1)
    corners = np.array([[20 + 5 * i, 30 - 2 * i] for i in range(12)]) + rng.normal(0, 1, (12, 2))
    boxes = np.concatenate([corners, corners + np.array([30, 20]) + rng.normal(0, 1, (12, 2))], 1)
    frames = rng.integers(1, 4, 11).tolist()
    motion, other = Motion(), np.array([[0, 0, 50, 50.0]])
    motion.start(other)
    motion.start(boxes[:1])
    places = [motion.place[1].copy()]
    for box, passed in zip(boxes[1:], frames, strict=True):
        motion.predict(passed, np.array([False, False]))
        motion.correct(np.array([1]), box[None])
        places.append(motion.place[1].copy())
    np.testing.assert_allclose(places, slow_filter(boxes, frames), rtol=1e-9)
    motion.keep(np.array([1]))
    assert len(motion) == 1


def test_overlap_is_the_iou_that_all_use():
    from detseg.boxes import box_iou

    rng = np.random.default_rng(2)
    corner = rng.uniform(0, 50, (2, 20, 2))
    a, b = np.concatenate([corner, corner + rng.uniform(0, 40, (2, 20, 2))], 2)
    np.testing.assert_allclose(overlap(a, b), box_iou(a, b), atol=1e-12)
    assert overlap(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0.0]]
