"""Which boxes survive a crop."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data.sample import clip_and_filter


def test_clip_and_filter_by_hand() -> None:
    boxes = np.array(
        [
            [10, 10, 20, 20],  # inside
            [-5, 10, 5, 20],  # half visible
            [-8, 10, 2, 20],  # a fifth visible: ignored from here on
            [-9, 10, 1, 20],  # 1 pixel wide: ignored
            [-9, 10, 1, 20],  # the same as crowd
            [-9, 10, 0, 20],  # crowd, outside: dropped
            [120, 10, 130, 20],  # outside
            [40, 40, 41, 49],  # too thin, all of it visible: ignored
            [30, 30, 30, 30],  # nothing
            [-50, -50, 150, 150],  # covers the window: a quarter visible
        ],
        np.float32,
    )
    crowd = np.isin(np.arange(10), [4, 5])
    got, labels, iscrowd, rows = clip_and_filter(boxes, np.arange(10), crowd, (100, 100))
    assert rows.tolist() == labels.tolist()
    assert labels.tolist() == [0, 1, 2, 3, 4, 7, 9]
    assert iscrowd.tolist() == [False, False, True, True, True, True, True]
    assert got.tolist() == [
        [10, 10, 20, 20],
        [0, 10, 5, 20],
        [0, 10, 2, 20],
        [0, 10, 1, 20],
        [0, 10, 1, 20],
        [40, 40, 41, 49],
        [0, 0, 100, 100],
    ]


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_clip_and_filter_against_a_loop(seed: int, count: int, min_visible: float) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-60, 80, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 60, (count, 2))], axis=1)
    crowd = rng.random(count) < 0.3
    expected = []
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        a, b, c, d = max(0, x1), max(0, y1), min(70, x2), min(50, y2)
        width, height = c - a, d - b
        if min(width, height) <= 0:
            continue
        share = width * height / ((x2 - x1) * (y2 - y1))
        expected.append((k, bool(crowd[k]) or share < min_visible - 1e-6 or min(width, height) < 2))
    got, labels, iscrowd, _ = clip_and_filter(boxes, np.arange(count), crowd, (70, 50), min_visible=min_visible)
    assert list(zip(labels.tolist(), iscrowd.tolist(), strict=True)) == expected
    assert got.shape == (len(labels), 4)
