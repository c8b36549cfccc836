"""Numba set-up, and the compiled loops that several rooms share: IoU of two boxes, the radix and the counting sort.

Numba takes half a second to load: import pages that import this one where they are first needed.
"""

import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_njit: Any = numba.njit  # its types know no options that are passed on


def njit(*signature: str, **options: Any) -> Callable[[Any], Any]:
    """`numba.njit(cache=True)`, or without a cache where numba finds no folder that it may write to.

    So it is in a container with read-only packages and a user without a home: there each process compiles for itself.
    """

    def decorate(function: Any) -> Any:
        try:
            return _njit(*signature, cache=True, **options)(function)
        except RuntimeError:
            return _njit(*signature, **options)(function)

    return decorate


# Compiled when first called, for the types at hand. That first call comes sooner without the wrapper for other compiled
# languages, without one for Python where only kernels call, and when arrays are not made in the kernels: callers bring
# the room to work in (numpy also gives large arrays large pages).
_OPTIONS: Any = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
compiled, helper = njit(**_OPTIONS), njit(**_OPTIONS, no_cpython_wrapper=True)
# For what is done so often, and is so little, that a call would cost as much.
inlined: Any = _njit(forceinline=True, error_model="numpy")


def shares(length: int, worth: int) -> int:
    """Into how many parts to divide work of this length: one for each core, of at least `worth`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, length // worth))


# ------------------------------------------------------------------ two boxes


@inlined
def shared_area(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2):
    """Area that two boxes xyxy share, in the precision of their corners."""
    zero = np.float32(0)
    return max(zero, min(ax2, bx2) - max(ax1, bx1)) * max(zero, min(ay2, by2) - max(ay1, by1))


@inlined
def box_iou(a, i, b, j):
    """IoU of a[i] and b[j], of (N, 4) and (M, 4) xyxy; 0 where both have no area."""
    shared = shared_area(a[i, 0], a[i, 1], a[i, 2], a[i, 3], b[j, 0], b[j, 1], b[j, 2], b[j, 3])
    if shared == 0:  # as most are
        return shared
    return shared / ((a[i, 2] - a[i, 0]) * (a[i, 3] - a[i, 1]) + (b[j, 2] - b[j, 0]) * (b[j, 3] - b[j, 1]) - shared)


# ------------------------------------------------------------------ sorting, in time that grows with the length


@inlined
def radix_sort(keys, other_keys, items, other_items, starts, lowest, bits, digits):
    """Keys (N,) uint64 and the items (N,) that go with them, by rising key; equal keys as they were.

    Args:
        items: or None, where the keys tell everything.
        other_keys, other_items: room to work in; the result is there or in `keys` and `items`.
        starts: (digits, 2 ** bits) int64 zeros.
        lowest, bits, digits: the lowest bit that counts, bits a digit, digits; constants, for loops to be unrolled.
    """
    mask = np.uint64((1 << bits) - 1)
    source, target = items, other_items
    for key in keys:
        for digit in range(digits):
            starts[digit, (key >> np.uint64(lowest + bits * digit)) & mask] += 1
    for digit in range(digits):
        shift = np.uint64(lowest + bits * digit)
        if len(keys) == 0 or starts[digit, (keys[0] >> shift) & mask] == len(keys):
            continue  # all share this digit, as the lowest two do when float64 scores were float32
        before = 0
        for bucket in range(1 << bits):
            here = starts[digit, bucket]
            starts[digit, bucket] = before
            before += here
        for i in range(len(keys)):
            key = keys[i]
            own = (key >> shift) & mask
            at = starts[digit, own]
            starts[digit, own] = at + 1
            other_keys[at] = key
            if items is not None:
                target[at] = source[i]
        keys, other_keys = other_keys, keys
        source, target = target, source
    return keys, source


_DIGIT_BITS, _DIGITS = 11, 6  # 66 bits hold a float64
_LARGEST = np.uint64(2**63 - 1)


def sort_falling(order: NDArray[np.int32], scores: NDArray[np.float64]) -> NDArray[np.int32]:
    """`order` by falling `scores[order]`, equal scores as they were; the scores hold no NaN and no -0.0."""
    bits = scores.view(np.uint64)[order]
    # The bits of positive floats rise with the value, so they are turned round. Negative ones have the top bit
    # set, which places them behind, and their bits already rise as the value falls.
    keys = np.where(bits <= _LARGEST, _LARGEST - bits, bits)
    starts = np.zeros((_DIGITS, 1 << _DIGIT_BITS), np.int64)
    result: NDArray[np.int32] = _sort_keys(order.copy(), np.empty_like(order), keys, np.empty_like(keys), starts)
    return result


@compiled
def _sort_keys(order, other, keys, other_keys, starts):
    return radix_sort(keys, other_keys, order, other, starts, 0, _DIGIT_BITS, _DIGITS)[1]


def sort_groups(order: NDArray[np.int32], groups: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """`order` by rising `groups[order]` in 0..count-1, equal ones as they were."""
    result = np.empty_like(order)
    counting_sort(order, groups, 0, np.zeros(count + 1, np.int64), result)
    return result


@compiled
def counting_sort(order, groups, lowest, starts, result):
    """Write `order` (N,) to `result` (N,) by rising group, equal ones as they were.

    Args:
        groups: (M,) of what `order` tells the indices of, from `lowest` to `lowest` + K - 1.
        starts: (K + 1,) zeros; gets where each group starts in the result.
    """
    for i in order:
        starts[groups[i] - lowest + 1] += 1
    for group in range(1, len(starts)):
        starts[group] += starts[group - 1]
    for i in order:
        group = groups[i] - lowest
        result[starts[group]] = i
        starts[group] += 1
    for group in range(len(starts) - 1, 0, -1):
        starts[group] = starts[group - 1]
    starts[0] = 0
