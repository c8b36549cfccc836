"""Label Studio's code of brush masks: run lengths of the bytes of an RGBA image, packed into bits.

A head says how many bytes follow (32 bits), how many bits each has (5 bits, less 1) and four sizes of numbers (4 bits
each, less 1). Then come blocks: a bit that says whether one value is repeated, which of the four sizes the length has
(2 bits), the length less 1, and the value or values. The mask is the fourth byte of each pixel.
Code: https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHANNELS = 4
WORD = 8
SIZES = (3, 4, 8, 16)
MOST_VALUES = 2**30


def decode_brush(code: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of an image of `size` (width, height); ValueError for a code that is none of it."""
    width, height = size
    bits = _Bits(code)
    count = bits.read(32)
    if not 0 < count <= MOST_VALUES or count != width * height * CHANNELS:
        raise ValueError(f"its brush mask has {count} bytes; an image of {width} x {height} pixels has 4 each")
    word = bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in SIZES]
    if word != WORD:
        raise ValueError(f"its brush mask has values of {word} bits, expected {WORD}")
    values = np.zeros(count, np.uint8)
    place = 0
    while place < count:
        repeated = bits.read(1)
        end = place + 1 + bits.read(sizes[bits.read(2)])
        if repeated:
            values[place:end] = bits.read(word)
        else:
            found = bits.read_bytes(end - place)
            values[place:end] = found[: count - place]
        place = end
    return values[CHANNELS - 1 :: CHANNELS].reshape(height, width) > 0


class _Bits:
    """Reads numbers of any width, one after another, highest bit first."""

    def __init__(self, code: Sequence[int]) -> None:
        self._bytes = bytes(code)  # ValueError: a number is no byte
        self._place = 0

    def read(self, width: int) -> int:
        start, end = self._place, self._place + width
        if end > 8 * len(self._bytes):
            raise ValueError("its brush mask ends too early")
        self._place = end
        last = (end + 7) // 8
        return (int.from_bytes(self._bytes[start // 8 : last]) >> (8 * last - end)) & ((1 << width) - 1)

    def read_bytes(self, count: int) -> NDArray[np.uint8]:
        start, end = self._place, self._place + 8 * count
        if end > 8 * len(self._bytes):
            raise ValueError("its brush mask ends too early")
        self._place = end
        part = np.frombuffer(self._bytes[start // 8 : (end + 7) // 8], np.uint8)
        return np.packbits(np.unpackbits(part)[start % 8 :][: 8 * count])


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """The code of a mask (H, W), as numbers 0 to 255."""
    values = np.repeat(np.where(mask, 255, 0).astype(np.uint8).ravel(), CHANNELS)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1])
    lengths = np.diff(np.append(starts, len(values)))
    parts = [f"{len(values):032b}{WORD - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    for length, value in zip(lengths.tolist(), values[starts].tolist(), strict=True):
        while length > 0:
            taken = min(length, 1 << SIZES[-1])
            which = next(number for number, size in enumerate(SIZES) if taken <= 1 << size)
            parts.append(f"1{which:02b}{taken - 1:0{SIZES[which]}b}{value:08b}")
            length -= taken
    bits = "".join(parts)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8))
