"""Every class has its share in every part, groups stay whole."""

import numpy as np
import pytest

from detseg.data.stratify import stratify


def images(*classes):
    """(image, label) pairs of images with these classes."""
    pairs = [(i, k) for i, found in enumerate(classes) for k in found]
    rows, labels = np.array(pairs, np.int64).reshape(-1, 2).T
    return np.arange(len(classes)), rows, labels


def test_classes_and_images_without_any_are_split_by_share():
    part = stratify(*images(*[[0]] * 10, *[[1]] * 20, *[[0, 1]] * 10, *[[]] * 10), [0.8, 0.1, 0.1])
    for kind in (slice(0, 10), slice(10, 30), slice(30, 40), slice(40, 50)):
        counts = np.bincount(part[kind], minlength=3)
        share = np.array([0.8, 0.1, 0.1]) * (kind.stop - kind.start)
        assert np.abs(counts - share).max() <= 1
    assert np.bincount(part).tolist() == [40, 5, 5]


@pytest.mark.parametrize("shares", [[0.8, 0.1, 0.1], [0.7, 0.3], [0.2] * 5])
def test_many_labels_an_image_come_within_two_images_of_their_share(shares):
    rng = np.random.default_rng(1)
    has = rng.random((1000, 15)) < np.minimum(0.6, 1 / np.arange(1, 16))
    rows, labels = np.nonzero(has)
    part = stratify(np.arange(1000), rows, labels, shares)
    for place, share in enumerate(shares):
        assert np.abs(has[part == place].sum(0) - share * has.sum(0)).max() <= 2
        assert abs((part == place).sum() - 1000 * share) <= 2


def test_rare_classes_are_in_every_part_where_there_are_enough():
    for count in (3, 4, 5):
        part = stratify(*images(*[[0]] * 100, *[[0, 1]] * count), [0.8, 0.1, 0.1])
        assert set(part[100:].tolist()) == {0, 1, 2}
    part = stratify(*images(*[[0]] * 100, [1], [2], [2]), [0.8, 0.1, 0.1])
    assert part[100] == 0  # one image of a class is for training
    assert 0 in part[101:] and part[101] != part[102]


def test_of_equal_folds_none_gets_all_that_is_rare():
    part = stratify(*images(*[[k] for k in range(50)]), [0.2] * 5)
    assert np.bincount(part).tolist() == [10] * 5


def test_groups_are_whole_and_of_even_size():
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, 40, 400))
    groups = np.unique(groups, return_inverse=True)[1]
    rows, labels = np.arange(400), rng.integers(0, 3, 400)
    part = stratify(groups, rows, labels, [0.75, 0.25])
    assert len(part) == groups.max() + 1
    assert abs(np.mean(part[groups] == 1) - 0.25) < 0.02
    for k in range(3):
        assert abs(np.mean(part[groups][labels == k] == 1) - 0.25) < 0.05


def test_pairs_may_repeat_and_one_image_is_for_the_first_part():
    twice = stratify(np.arange(2), np.array([0, 0, 0, 1]), np.array([3, 3, 3, 3]), [0.5, 0.5])
    assert sorted(twice.tolist()) == [0, 1]
    nothing = np.zeros(0, np.int64)
    assert stratify(np.zeros(1, np.int64), nothing, nothing, [0.5, 0.3, 0.2]).tolist() == [0]
    assert stratify(nothing, nothing, nothing, [0.5, 0.5]).tolist() == []


@pytest.mark.parametrize("shares", [[0.5, 0.6], [1.0, 0.0], [], [float("nan"), 1.0]])
def test_shares_that_are_none(shares):
    with pytest.raises(ValueError, match="above 0 and together 1"):
        stratify(*images([0]), shares)
