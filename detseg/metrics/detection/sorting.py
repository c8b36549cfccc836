"""Sorting of flat arrays in time that grows with their length, compiled by numba."""

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.detection.loops import Floats, Ints, Starts, compiled

_DIGIT_BITS = 11
_DIGITS = 6  # 66 bits hold a float64
_BUCKETS = 1 << _DIGIT_BITS
_MASK = np.uint64(_BUCKETS - 1)
_LARGEST = np.uint64(2**63 - 1)


def sort_falling(order: Ints, scores: Floats) -> Ints:
    """`order` by falling `scores[order]`, equal scores as they were: a radix sort, 11 bits at a time.

    The scores must hold no NaN and no -0.0.
    """
    bits = scores.view(np.uint64)[order]
    # The bits of positive floats rise with the value, so they are turned round. Negative ones have the top bit
    # set, which places them behind, and their bits already rise as the value falls.
    keys = np.where(bits <= _LARGEST, _LARGEST - bits, bits)
    starts = np.zeros(_DIGITS * _BUCKETS, np.int64)
    result: Ints = _sort_keys(order.copy(), np.empty_like(order), keys, np.empty_like(keys), starts)
    return result


@compiled
def _sort_keys(
    order: Ints, other: Ints, keys: NDArray[np.uint64], other_keys: NDArray[np.uint64], starts: NDArray[np.int64]
) -> Ints:
    """`order` by its rising `keys`; the others are room to work in, `starts` zeros for a histogram a digit."""
    count = len(order)
    for key in keys:
        for digit in range(_DIGITS):
            starts[digit * _BUCKETS + np.int64((key >> np.uint64(_DIGIT_BITS * digit)) & _MASK)] += 1
    for digit in range(_DIGITS):
        shift = np.uint64(_DIGIT_BITS * digit)
        first = digit * _BUCKETS
        if count == 0 or starts[first + np.int64((keys[0] >> shift) & _MASK)] == count:
            continue  # all share this digit, as the lowest two do when the scores were float32
        total = 0
        for bucket in range(first, first + _BUCKETS):
            here = starts[bucket]
            starts[bucket] = total
            total += here
        for i in range(count):
            key = keys[i]
            own = first + np.int64((key >> shift) & _MASK)
            at = starts[own]
            starts[own] = at + 1
            other_keys[at] = key
            other[at] = order[i]
        keys, other_keys = other_keys, keys
        order, other = other, order
    return order


def sort_groups(order: Ints, groups: Ints, count: int) -> Ints:
    """`order` by rising `groups[order]` in 0..count-1, equal ones as they were: a counting sort."""
    result = np.empty_like(order)
    _sort_groups(order, groups, np.zeros(count + 1, np.int64), result)
    return result


@compiled
def _sort_groups(order: Ints, groups: Ints, start: Starts, result: Ints) -> None:
    """Fill `result`; `start` (K + 1,) holds zeros."""
    for i in order:
        start[groups[i] + 1] += 1
    for group in range(len(start) - 1):
        start[group + 1] += start[group]
    for i in order:
        group = groups[i]
        result[start[group]] = i
        start[group] += 1


def rank_in_image(label_start: Starts, images: Ints, count: int) -> Ints:
    """(D,) how many earlier detections of the same class lie in the same image; `images` (D,) by class."""
    rank = np.empty(len(images), np.int32)
    _rank_in_image(label_start, images, *np.zeros((2, count), np.int32), rank)
    return rank


@compiled
def _rank_in_image(label_start: Starts, images: Ints, seen: Ints, counted_for: Ints, rank: Ints) -> None:
    """Fill `rank`; `seen` (N,) counts for the class, from 1, that `counted_for` (N,) tells. Both hold zeros."""
    for label in range(len(label_start) - 1):
        for i in range(label_start[label], label_start[label + 1]):
            image = images[i]
            if counted_for[image] != label + 1:
                counted_for[image] = label + 1
                seen[image] = 0
            rank[i] = seen[image]
            seen[image] += 1
