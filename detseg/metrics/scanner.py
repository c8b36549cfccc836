"""A compiled reader of COCO results: from the bytes of a JSON file to columns, without Python objects.

It knows one thing: a list of records, each with `image_id`, `category_id`, `score` and a `bbox` of four numbers or a
`segmentation` of compressed run lengths, and anything else besides, which it skips. At whatever it does not expect
it gives up, and the file is read another way.

Numbers are rounded as Python's `float` rounds them, to the last bit: Lemire 2021, "Number Parsing at a Gigabyte
per Second".
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.checks import RunLengths
from detseg.metrics.kernels import compiled

Bytes = NDArray[np.uint8]

_SHORTEST = 50  # a record has more characters
_LOWEST, _HIGHEST = -290, 290  # powers of ten, far from subnormal numbers and from infinity
_TEN = np.array([10.0**power for power in range(23)])  # exact
_IMAGE_ID, _CATEGORY_ID, _SCORE, _BBOX, _SEGMENTATION, _SIZE, _COUNTS = (
    np.frombuffer(key, np.uint8)
    for key in (b"image_id", b"category_id", b"score", b"bbox", b"segmentation", b"size", b"counts")
)
_QUOTE, _BACKSLASH, _COMMA, _COLON, _MINUS, _POINT = (ord(c) for c in '"\\,:-.')
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST, _ZERO, _NINE = (ord(c) for c in "{}[]09")
_BAD = -1
_LOW_HALF, _HALF = np.uint64(2**32 - 1), np.uint64(32)
_ONE, _THREE, _TOP = np.uint64(1), np.uint64(3), np.uint64(2**63)
_PRECISE = np.uint64(2**9 - 1)  # the bits of a high half that 55 bits of precision leave over


class Scanned(NamedTuple):
    """D results."""

    image_ids: NDArray[np.int64]  # (D,)
    category_ids: NDArray[np.int64]  # (D,)
    scores: NDArray[np.float64]  # (D,)
    boxed: NDArray[np.int64]  # (B,) the results with a box
    boxes: NDArray[np.float64]  # (B, 4) xywh
    masks: RunLengths | None


def scan_results(content: bytes, masks: bool = False) -> Scanned | None:
    """The columns of a JSON file; None if it is not that simple. With `masks` the boxes may be missing."""
    most = len(content) // _SHORTEST + 1
    # Memory that is not written is not taken.
    ids, numbers, seen = np.empty(2 * most, np.int64), np.empty(5 * most), np.empty(most, bool)
    rows = most if masks else 0
    texts = np.empty(len(content) if masks else 0, np.uint8)
    start, sizes = np.zeros(rows + 1, np.int64), np.empty(2 * rows, np.int64)
    text = np.frombuffer(content, np.uint8)
    count = _scan(text, masks, ids, numbers, seen, texts, start, sizes, _FIVE_HIGH, _FIVE_LOW)
    if count == _BAD:
        return None
    image_ids, category_ids = ids[: 2 * count].reshape(-1, 2).T.copy()
    boxed, table = np.flatnonzero(seen[:count]), numbers[: 5 * count].reshape(-1, 5)
    runs = None
    if masks:
        runs = RunLengths(texts[: start[count]].copy(), start[: count + 1].copy(), sizes[: 2 * count].reshape(-1, 2))
    boxes = table[:, :4].copy() if len(boxed) == count else table[boxed, :4]
    return Scanned(image_ids, category_ids, table[:, 4].copy(), boxed, boxes, runs)


def _powers_of_five() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first 128 bits of 5^q for each power q, in two halves; for negative q rounded up."""
    high, low = [], []
    for power in range(_LOWEST, _HIGHEST + 1):
        five = 5 ** abs(power)
        if power < 0:
            bits = (five - 1).bit_length()
            value = 2 ** (bits + 127 if power >= -27 else 2 * bits + 128) // five + 1
        else:
            value = five << max(0, 128 - five.bit_length())
        value >>= max(0, value.bit_length() - 128)
        high.append(value >> 64)
        low.append(value & (2**64 - 1))
    return np.array(high, dtype=np.uint64), np.array(low, dtype=np.uint64)


_FIVE_HIGH, _FIVE_LOW = _powers_of_five()


@compiled
def _scan(
    text: Bytes,
    masks: bool,
    ids: NDArray[np.int64],
    numbers: NDArray[np.float64],
    boxed: NDArray[np.bool_],
    texts: Bytes,
    text_start: NDArray[np.int64],
    sizes: NDArray[np.int64],
    five_high: NDArray[np.uint64],
    five_low: NDArray[np.uint64],
) -> int:
    """Fill the columns; the number of records, or _BAD.

    `ids` gets image and category of each record, `numbers` its box and score.
    """
    end = len(text)
    i = _skip_space(text, 0)
    if i >= end or text[i] != _OPEN_LIST:
        return _BAD
    i = _skip_space(text, i + 1)
    count = 0
    if i < end and text[i] == _CLOSE_LIST:
        return 0 if _skip_space(text, i + 1) == end else _BAD
    while True:
        if i >= end or text[i] != _OPEN or count == len(boxed):
            return _BAD
        seen = 0
        while True:
            key = _skip_space(text, i + 1)
            if key >= end or text[key] != _QUOTE:
                return _BAD
            key += 1
            stop = key
            while stop < end and text[stop] != _QUOTE and text[stop] != _BACKSLASH:
                stop += 1
            i = _skip_space(text, stop + 1)
            if i >= end or text[stop] == _BACKSLASH or text[i] != _COLON:
                return _BAD
            i = _skip_space(text, i + 1)
            # One call for several keys: the compiler copies what is called, and takes its time over it.
            category, box = _is_key(text, key, stop, _CATEGORY_ID), _is_key(text, key, stop, _BBOX)
            if category or _is_key(text, key, stop, _IMAGE_ID):
                i = _whole(text, i, ids, 2 * count + (1 if category else 0))
                seen |= 2 if category else 1
            elif box or _is_key(text, key, stop, _SCORE):
                for side in range(4 if box else 1):
                    if box:
                        if i >= end or text[i] != (_COMMA if side else _OPEN_LIST):
                            return _BAD
                        i = _skip_space(text, i + 1)
                    i = _number(text, i, numbers, 5 * count + (side if box else 4), five_high, five_low)
                    if i == _BAD:
                        return _BAD
                    i = _skip_space(text, i)
                if box:
                    if i >= end or text[i] != _CLOSE_LIST:
                        return _BAD
                    i += 1
                seen |= 8 if box else 4
            elif masks and _is_key(text, key, stop, _SEGMENTATION):
                i = _run_lengths(text, i, texts, text_start, sizes, count)
                seen |= 16
            else:
                i = _skip_value(text, i)
            if i == _BAD:
                return _BAD
            i = _skip_space(text, i)
            if i >= end:
                return _BAD
            if text[i] == _CLOSE:
                break
            if text[i] != _COMMA:
                return _BAD
        if seen & 7 != 7 or seen & (16 if masks else 8) == 0:
            return _BAD
        boxed[count] = seen & 8 != 0
        count += 1
        i = _skip_space(text, i + 1)
        if i >= end:
            return _BAD
        if text[i] == _CLOSE_LIST:
            return count if _skip_space(text, i + 1) == end else _BAD
        if text[i] != _COMMA:
            return _BAD
        i = _skip_space(text, i + 1)


@compiled
def _skip_space(text: Bytes, i: int) -> int:
    while i < len(text) and (text[i] == 32 or 9 <= text[i] <= 10 or text[i] == 13):
        i += 1
    return i


@compiled
def _is_key(text: Bytes, start: int, stop: int, key: Bytes) -> bool:
    if stop - start != len(key):
        return False
    for i in range(len(key)):  # noqa: SIM110  (numba compiles loops)
        if text[start + i] != key[i]:
            return False
    return True


@compiled
def _skip_value(text: Bytes, i: int) -> int:
    """The place behind any value; text in quotes may hold brackets."""
    depth, quoted, start = 0, False, i
    while i < len(text):
        c = text[i]
        if quoted:
            if c == _BACKSLASH:
                i += 1
            elif c == _QUOTE:
                quoted = False
        elif c == _QUOTE:
            quoted = True
        elif c in (_OPEN, _OPEN_LIST):
            depth += 1
        elif c in (_CLOSE, _CLOSE_LIST):
            if depth == 0:
                return i if i > start else _BAD
            depth -= 1
        elif c == _COMMA and depth == 0:
            return i if i > start else _BAD
        i += 1
    return _BAD


@compiled
def _run_lengths(
    text: Bytes, i: int, texts: Bytes, text_start: NDArray[np.int64], sizes: NDArray[np.int64], row: int
) -> int:
    """Copy the run lengths and their size from the object at `i`; the place behind it, or _BAD."""
    end = len(text)
    if i >= end or text[i] != _OPEN:
        return _BAD
    seen = 0
    while True:
        key = _skip_space(text, i + 1)
        if key >= end or text[key] != _QUOTE:
            return _BAD
        key += 1
        stop = key
        while stop < end and text[stop] != _QUOTE:
            stop += 1
        i = _skip_space(text, stop + 1)
        if i >= end or text[i] != _COLON:
            return _BAD
        i = _skip_space(text, i + 1)
        if i >= end:
            return _BAD
        if _is_key(text, key, stop, _SIZE) and text[i] == _OPEN_LIST:
            for side in range(2):
                i = _whole(text, _skip_space(text, i + 1), sizes, 2 * row + side)
                if i == _BAD:
                    return _BAD
                i = _skip_space(text, i)
                if i >= end or text[i] != (_CLOSE_LIST if side else _COMMA):
                    return _BAD
            seen |= 1
        elif _is_key(text, key, stop, _COUNTS) and text[i] == _QUOTE:
            at = text_start[row]
            i += 1
            while i < end and text[i] != _QUOTE:
                if text[i] == _BACKSLASH:  # one of the characters of run lengths, which JSON writes twice
                    i += 1
                    if i >= end or text[i] != _BACKSLASH:
                        return _BAD
                texts[at] = text[i]
                at += 1
                i += 1
            text_start[row + 1] = at
            seen |= 2
        else:
            return _BAD
        i = _skip_space(text, i + 1)
        if i >= end:
            return _BAD
        if text[i] == _CLOSE:
            return i + 1 if seen == 3 else _BAD
        if text[i] != _COMMA:
            return _BAD


@compiled
def _whole(text: Bytes, i: int, target: NDArray[np.int64], row: int) -> int:
    """Write the whole number at `i`; the place behind it, or _BAD if it is none or has more than 18 digits."""
    negative = i < len(text) and text[i] == _MINUS
    if negative:
        i += 1
    start, value = i, np.int64(0)
    while i < len(text) and _ZERO <= text[i] <= _NINE and i - start < 18:
        value = value * 10 + (np.int64(text[i]) - _ZERO)
        i += 1
    digits = i - start
    if digits == 0 or (digits > 1 and text[start] == _ZERO) or i >= len(text):
        return _BAD
    if _ZERO <= text[i] <= _NINE or text[i] == _POINT or text[i] | 32 == 101:
        return _BAD  # 19 digits, a fraction, or an exponent
    target[row] = -value if negative else value
    return i


@compiled
def _number(
    text: Bytes,
    i: int,
    target: NDArray[np.float64],
    row: int,
    five_high: NDArray[np.uint64],
    five_low: NDArray[np.uint64],
) -> int:
    """Write the number at `i`; the place behind it, or _BAD if it is none or has more than 19 digits."""
    end = len(text)
    negative = i < end and text[i] == _MINUS
    if negative:
        i += 1
    mantissa, digits, exponent = np.uint64(0), 0, 0
    value: Any = 0
    start = i
    while i < end and _ZERO <= text[i] <= _NINE:
        mantissa = mantissa * np.uint64(10) + np.uint64(text[i] - _ZERO)
        digits += int(mantissa > 0)
        i += 1
    if i == start or (i - start > 1 and text[start] == _ZERO):
        return _BAD
    if i < end and text[i] == _POINT:
        start = i + 1
        i = start
        while i < end and _ZERO <= text[i] <= _NINE:
            mantissa = mantissa * np.uint64(10) + np.uint64(text[i] - _ZERO)
            digits += int(mantissa > 0)
            i += 1
        exponent = start - i
        if i == start:
            return _BAD
    if i < end and text[i] | 32 == 101:  # e or E
        i += 1
        minus = i < end and text[i] == _MINUS
        if i < end and (text[i] == _MINUS or text[i] == 43):
            i += 1
        start = i
        while i < end and _ZERO <= text[i] <= _NINE and i - start < 4:
            value = value * 10 + (np.int64(text[i]) - _ZERO)
            i += 1
        if i == start:
            return _BAD
        exponent += -value if minus else value
    if digits > 19 or i >= end:
        return _BAD
    if mantissa == 0:
        value_found = 0.0
    elif mantissa < np.uint64(2**53) and -22 <= exponent <= 22:
        # Both numbers are exact, so one operation rounds correctly.
        whole = np.float64(mantissa)
        value_found = whole / _TEN[-exponent] if exponent < 0 else whole * _TEN[exponent]
    elif _LOWEST <= exponent <= _HIGHEST:
        value_found = _rounded(mantissa, exponent, five_high[exponent - _LOWEST], five_low[exponent - _LOWEST])
    else:
        return _BAD
    target[row] = -value_found if negative else value_found
    return i


@compiled
def _rounded(mantissa: np.uint64, exponent: int, high_five: np.uint64, low_five: np.uint64) -> float:
    """The float64 nearest to mantissa * 10^exponent, ties to even."""
    zeros = 0
    while mantissa < _TOP:
        mantissa <<= _ONE
        zeros += 1
    high, low = _product(mantissa, high_five)
    if high & _PRECISE == _PRECISE:
        more, _ = _product(mantissa, low_five)
        low += more
        if more > low:
            high += _ONE
    upper = high >> np.uint64(63)
    shift = upper + np.uint64(9)
    fraction = high >> shift
    power = ((217706 * exponent) >> 16) + 63 + np.int64(upper) - zeros + 1023
    # Exactly between two numbers: only then the last bit may not be rounded up.
    if low <= _ONE and -4 <= exponent <= 23 and fraction & _THREE == _ONE and fraction << shift == high:
        fraction &= ~_ONE
    fraction += fraction & _ONE
    fraction >>= _ONE
    if fraction >= np.uint64(2**53):
        fraction = np.uint64(2**52)
        power += 1
    cell = np.empty(1, np.uint64)
    cell[0] = (fraction & np.uint64(2**52 - 1)) | (np.uint64(power) << np.uint64(52))
    return cell.view(np.float64)[0]


@compiled
def _product(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """High and low half of the 128 bits of a * b."""
    a_low, a_high, b_low, b_high = a & _LOW_HALF, a >> _HALF, b & _LOW_HALF, b >> _HALF
    low, left, right = a_low * b_low, a_low * b_high, a_high * b_low
    middle = (low >> _HALF) + (left & _LOW_HALF) + (right & _LOW_HALF)
    high = a_high * b_high + (left >> _HALF) + (right >> _HALF) + (middle >> _HALF)
    return high, (low & _LOW_HALF) | (middle << _HALF)
