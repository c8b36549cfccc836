"""Compiled code with and without a place for its cache; the sorts against numpy's, IoU against `detseg.boxes`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import caching

from detseg import boxes
from detseg.kernels import box_iou, counting_sort, njit, sort_falling, sort_groups


def double(x: float) -> float:
    return 2 * x


def test_kept_on_disk() -> None:
    assert njit()(double)._cache.cache_path


def test_without_a_place_for_the_cache(monkeypatch) -> None:
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert njit()(double)(4.0) == 8.0
    assert njit("float64(float64)")(double)(4.0) == 8.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_iou_of_two_boxes(dtype) -> None:
    rng = np.random.default_rng(0)
    given_boxes = rng.integers(0, 6, (40, 4))  # touching, nested, equal and without area
    given_boxes[:, 2:] += given_boxes[:, :2]
    given_boxes = given_boxes.astype(dtype)
    expected = boxes.box_iou(torch.from_numpy(given_boxes), torch.from_numpy(given_boxes)).numpy()
    found = [[box_iou(given_boxes, i, given_boxes, j) for j in range(40)] for i in range(40)]
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False, width=64), max_size=60), st.booleans())
def test_sort_falling_is_numpys_stable_sort(values: list[float], narrow: bool) -> None:
    with np.errstate(over="ignore"):
        scores = np.array(values, dtype=np.float32 if narrow else np.float64).astype(np.float64) + 0.0
    order = np.arange(len(scores), dtype=np.int32)[::-1].copy()
    expected = order[np.argsort(-scores[order], kind="stable")]
    assert sort_falling(order, scores).tolist() == expected.tolist()
    assert order.tolist() == list(range(len(scores)))[::-1]  # the caller's array stays as it was


def test_sort_falling_of_many() -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.random(5000), rng.random(5000).astype(np.float32), -rng.random(500), np.full(99, 0.5)])
    order = rng.permutation(len(scores)).astype(np.int32)
    expected = order[np.argsort(-scores[order], kind="stable")]
    assert (sort_falling(order, scores) == expected).all()


def test_sort_groups_is_stable() -> None:
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 7, 300).astype(np.int32)
    order = rng.permutation(300).astype(np.int32)
    assert (sort_groups(order, groups, 7) == order[np.argsort(groups[order], kind="stable")]).all()


def test_counting_sort_tells_where_groups_start() -> None:
    order, labels, starts = np.array([3, 0, 2, 1]), np.array([-2, 1, -2, 1]), np.zeros(5, np.int64)
    result = np.empty_like(order)
    counting_sort(order, labels, -2, starts, result)
    assert result.tolist() == [0, 2, 3, 1]
    assert starts.tolist() == [0, 2, 2, 2, 4]
