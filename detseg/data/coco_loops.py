"""Compiled loops over the text of COCO results; see `detseg.data.coco_scan`.

A bracket ends the text: where a loop stops at it, positions need no other bound. -1 means: read this file otherwise.
"""

import numpy as np

from detseg.kernels import compiled, helper

_IMAGE, _CATEGORY, _SCORE, _BOX, _MASK = 1, 2, 4, 8, 16  # bits: which keys an object has
_SIGN, _POINT, _QUOTE, _BACKSLASH, _COMMA, _COLON = (ord(c) for c in '-."\\,:')
_LEFT, _RIGHT, _OPEN, _CLOSE = (ord(c) for c in "[]{}")


@helper
def _skip(text, i):
    """The next position that is no white space, or the text's last, a bracket."""
    while i < len(text) - 1 and text[i] <= 32:
        i += 1
    return min(i, len(text) - 1)


@helper
def _expect(text, i, character):
    """The position after white space and this character, or -1."""
    i = _skip(text, i)
    return i + 1 if text[i] == character else -1


@helper
def _key(text, i, table):
    """Number of the key that begins after its quote at i (-1: another), and the position after the colon, or -1."""
    begin = i
    while i < len(text) and text[i] != _QUOTE:
        if text[i] == _BACKSLASH:
            return -1, -1
        i += 1
    if i >= len(text):
        return -1, -1
    found = -1
    for k in range(len(table)):
        if table[k, 0] == i - begin:
            same = True
            for j in range(i - begin):
                if table[k, 1 + j] != text[begin + j]:
                    same = False
                    break
            if same:
                found = k
                break
    return found, _expect(text, i + 1, _COLON)


@helper
def _digits(text, i, mantissa):
    """Read digits on to a mantissa; the position after them. A bracket ends the text, so that it needs no bound."""
    # Unsigned positions: of signed ones the compiler asks each time whether they count from the end.
    place, one, ten, zero = np.uint64(i), np.uint64(1), np.uint64(10), np.uint64(48)
    while True:
        digit = np.uint64(text[place]) - zero  # enormous for what comes before the digits
        if digit > np.uint64(9):
            break
        mantissa = mantissa * ten + digit
        place += one
    return mantissa, np.int64(place)


@helper
def _whole(text, i):
    """A whole number of at most 18 digits, and the position after it, or -1."""
    negative = text[i] == _SIGN
    i += negative
    begin = i
    digits, i = _digits(text, i, np.uint64(0))
    wrong = not 0 < i - begin < 19 or text[i] == _POINT or text[i] == 69 or text[i] == 101
    wrong = wrong or (text[begin] == 48 and i - begin > 1)
    value = np.int64(digits)
    return -value if negative else value, -1 if wrong else i


@helper
def _number(text, i, powers):
    """A number, the position after it (or -1), and whether it is rounded as it should be for certain."""
    negative = text[i] == _SIGN
    begin = i + negative
    mantissa, i = _digits(text, begin, np.uint64(0))
    digits = i - begin
    if digits == 0 or (text[begin] == 48 and digits > 1):  # 012 is no JSON
        return 0.0, -1, False
    exponent = 0
    if text[i] == _POINT:
        i += 1
        point = i
        if mantissa == 0:
            digits = 0
            while text[i] == 48:
                i += 1
        first = i
        mantissa, i = _digits(text, i, mantissa)
        digits += i - first
        exponent = point - i
        if exponent == 0:
            return 0.0, -1, False
    if text[i] == 69 or text[i] == 101:
        i += 1
        down = text[i] == _SIGN
        i += down or text[i] == 43
        power, end = _digits(text, i, np.uint64(0))
        if not 0 < end - i < 5:
            return 0.0, -1, False
        exponent += -np.int64(power) if down else np.int64(power)
        i = end
    value, sure = _scaled(mantissa, exponent, powers)
    return -value if negative else value, i, sure and digits <= 19


@helper
def _scaled(mantissa, exponent, powers):
    """mantissa · 10^exponent, and whether it is rounded for certain.

    Up to 2^53 and 10^22 both are exact, and one operation rounds once (Clinger 1990). Beyond, the quotient is computed
    to twice the digits (Dekker 1971); it is uncertain only where what is left lies at the middle of two numbers.
    """
    high = np.float64(mantissa)
    if exponent == 0 or mantissa == 0:
        return high, True
    small = mantissa <= np.uint64(2**53)
    if exponent > 0:
        fits = small and exponent <= 22
        return high * powers[min(exponent, 22)], fits
    if exponent < -22:
        return 0.0, False
    power = powers[-exponent]
    quotient = high / power
    if small:
        return quotient, True
    low = np.float64(np.int64(mantissa - np.uint64(high)))
    a = quotient * 134217729.0
    a_high = a - (a - quotient)
    a_low = quotient - a_high
    b = power * 134217729.0
    b_high = b - (b - power)
    b_low = power - b_high
    product = quotient * power
    rest = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    correction = (((high - product) - rest) + low) / power
    value = quotient + correction
    left = correction - (value - quotient)
    return value, value + left * 1.000000000001 == value


@helper
def _skip_value(text, i):
    """The position after a value of any kind, or -1."""
    depth = 0
    while i < len(text):
        c = text[i]
        if c == _QUOTE:
            i += 1
            while i < len(text) and text[i] != _QUOTE:
                i += 2 if text[i] == _BACKSLASH else 1
        elif c in (_LEFT, _OPEN):
            depth += 1
        elif c in (_RIGHT, _CLOSE):
            if depth == 0:
                return i
            depth -= 1
        elif c == _COMMA and depth == 0:
            return i
        i += 1
    return -1


@helper
def _run_lengths(text, i, table, whole, row):
    """Read {"size": [height, width], "counts": text} in any order; the position after it, or -1."""
    seen = 0
    i = _expect(text, i, _OPEN)
    while i > 0:
        i = _expect(text, i, _QUOTE)
        if i < 0:
            return -1
        key, i = _key(text, i, table)
        if i < 0:
            return -1
        if key == 5 and not seen & 1:
            seen |= 1
            i = _expect(text, i, _LEFT)
            for side in range(2):
                if i >= 0:
                    whole[row, 2 + side], i = _whole(text, _skip(text, i))
                if i >= 0:
                    i = _expect(text, i, _RIGHT if side else _COMMA)
        elif key == 6 and not seen & 2:
            seen |= 2
            i = _expect(text, i, _QUOTE)
            whole[row, 4] = i
            i = _end_of_run_lengths(text, i) if i >= 0 else i
            whole[row, 5] = i - 1
        else:
            return -1
        if i < 0:
            return -1
        i = _skip(text, i)
        if text[i] == _CLOSE:
            return i + 1 if seen == 3 else -1
        if text[i] != _COMMA:
            return -1
        i += 1
    return -1


@helper
def _end_of_run_lengths(text, i):
    """The position after the quote that ends compressed run lengths, or -1 for other characters than theirs."""
    place, one, end = np.uint64(i), np.uint64(1), np.uint64(len(text))
    while place < end:
        c = text[place]
        if c == _QUOTE:
            return np.int64(place + one)
        if c < 48 or c > 111:  # 0 to o
            return -1
        if c == _BACKSLASH:
            place += one
            if place >= end or text[place] != _BACKSLASH:
                return -1
        place += one
    return -1


@compiled
def unescape(text, wholes):
    """Write a back slash for each two of them, in place; the run lengths end earlier then."""
    for row in range(len(wholes)):
        first, last = wholes[row, 4], wholes[row, 5]
        i = first
        while i < last and text[i] != _BACKSLASH:
            i += 1
        to = i
        while i < last:
            text[to] = text[i]
            i += 2 if text[i] == _BACKSLASH else 1
            to += 1
        wholes[row, 5] = to


@compiled
def scan(text, i, stop, table, powers, numbers, wholes, has_box, slow, masks):
    """Fill the columns with the objects from i to `stop`, where another begins or the text ends.

    Returns how many there are (-1: read them otherwise), and how many numbers are in `slow`.
    """
    needed = _IMAGE | _CATEGORY | _SCORE | (_MASK if masks else _BOX)
    count, odd = 0, 0
    while True:
        i = _expect(text, i, _OPEN)
        if i < 0 or count + 1 >= len(numbers):
            return -1, 0
        seen = 0
        while True:
            i = _expect(text, i, _QUOTE)
            if i < 0:
                return -1, 0
            key, i = _key(text, i, table)
            if i < 0:
                return -1, 0
            i = _skip(text, i)
            if 0 <= key < 5:
                if seen & (1 << key):
                    return -1, 0  # twice
                seen |= 1 << key
            if key == 0 or key == 1:
                wholes[count, key], i = _whole(text, i)
            elif key == 2:
                place = i
                numbers[count, 0], i, sure = _number(text, i, powers)
                if not sure:
                    slow[odd, 0], slow[odd, 1] = place, count * 5
                    odd += 1
            elif key == 3:
                i = _expect(text, i, _LEFT)
                for side in range(4):
                    if i < 0:
                        return -1, 0
                    place = _skip(text, i)
                    numbers[count, 1 + side], i, sure = _number(text, place, powers)
                    if not sure:
                        slow[odd, 0], slow[odd, 1] = place, count * 5 + 1 + side
                        odd += 1
                    if i >= 0:
                        i = _expect(text, i, _RIGHT if side == 3 else _COMMA)
            elif key == 4 and masks:
                i = _run_lengths(text, i, table, wholes, count)
            else:
                i = _skip_value(text, i)
            if i < 0:
                return -1, 0
            i = _skip(text, i)
            if text[i] == _CLOSE:
                break
            if text[i] != _COMMA:
                return -1, 0
            i += 1
        if seen & needed != needed:
            return -1, 0
        has_box[count] = seen & _BOX != 0
        if not seen & _BOX:
            numbers[count, 1:] = 0
        count += 1
        i = _skip(text, i + 1)
        if text[i] == _RIGHT:
            return (count if i + 1 == stop == len(text) else -1), odd
        if text[i] != _COMMA:
            return -1, 0
        i = _skip(text, i + 1)
        if i >= stop:
            return (count if i == stop else -1), odd
