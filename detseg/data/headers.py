"""The size of JPEG and PNG images from the headers of their files, several times as fast as Pillow tells it.

What is read is understood as Pillow understands it, or not at all: the caller asks Pillow then. Formats: JPEG
https://www.w3.org/Graphics/JPEG/itu-t81.pdf (B.1, B.2), EXIF https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf
(4.5, 4.6), PNG https://www.w3.org/TR/png-3/ (5.3, 11).
"""

from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from struct import error, iter_unpack, unpack
from zlib import crc32

from detseg.reading import require_file

Size = tuple[int, int]

START = 4096  # bytes that are read at first, the header of most images
ORIENTATION = 0x0112  # the EXIF tag
SHORT = 3
UNITS = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)  # bytes of a value of each type of EXIF

FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15
SCAN, QUANTIZATION, EXIF, PARTS, FILL = 0xDA, 0xDB, 0xE1, 0xE2, 0xFF
SEGMENTS = FRAMES | {0xC4, 0xCC, SCAN, QUANTIZATION, 0xDD, *range(0xE0, 0xF0), 0xFE}  # DHT, DAC, DRI, APP0..15, COM

DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # of PNG's types of colour
CHUNKS = frozenset(b"IDAT IEND PLTE tRNS gAMA cHRM sRGB iCCP sBIT pHYs bKGD hIST tIME tEXt".split())
TURNING = (b"exif", b"Raw profile type", b"xmp", b"XML:com.adobe.xmp")  # texts that may tell an orientation


class _Unusual(ValueError):
    """A header that is left to Pillow."""


def header_size(path: str | Path) -> Size | None:
    """(width, height) of an upright JPEG or PNG image; None for other files and whatever is unusual or cut short."""
    try:
        with FileIO(require_file(path)) as file:
            header = _Header(file)
            if header.start[:3] == b"\xff\xd8\xff":
                size = _jpeg_size(header)
            elif header.start[:8] == b"\x89PNG\r\n\x1a\n":
                size = _png_size(header)
            else:
                return None
    except (OSError, ValueError, error):  # ValueError: also of a pipe, and of a path with a zero byte
        return None
    return size if min(size) > 0 else None


class _Header:
    """The bytes of a file, the first of which are read at once."""

    def __init__(self, file: FileIO) -> None:
        self.file, self.start = file, file.read(START)

    def at(self, place: int, count: int) -> bytes:
        """`count` bytes from a place of the file; fewer at its end."""
        if place + count <= len(self.start):
            return self.start[place : place + count]
        self.file.seek(place)
        return self.file.read(count)


def _jpeg_size(header: _Header) -> Size:
    size, turn, turned_by_xmp = (0, 0), None, False
    for kind, place, count in _segments(header):
        if kind in FRAMES:
            bits, height, width, layers = unpack(">BHHB", header.at(place, 6))
            if bits != 8 or layers not in (1, 3, 4) or count != 6 + 3 * layers:
                raise _Unusual
            size = width, height
        elif kind == QUANTIZATION:
            tables = header.at(place, count)
            if count % 65 or max(tables[::65], default=0) > 15:  # 16 bits
                raise _Unusual
        elif kind == EXIF:
            content = header.at(place, count)
            if content.startswith(b"Exif\0\0"):
                if turn is not None:  # in several parts
                    raise _Unusual
                turn = _orientation(content[6:])
            turned_by_xmp |= b"tiff:Orientation" in content
        elif kind == PARTS and header.at(place, 4) == b"MPF\0":  # several images in one file
            raise _Unusual
    if turned_by_xmp and not turn:
        raise _Unusual
    return size[::-1] if turn in (5, 6, 7, 8) else size


def _segments(header: _Header) -> Iterator[tuple[int, int, int]]:
    """The marker of each segment up to the pixels, where its content begins, and how many bytes that has."""
    place, kind = 2, 0
    while kind != SCAN:
        mark, kind, length = unpack(">BBH", header.at(place, 4))
        if mark != FILL or (kind != FILL and (kind not in SEGMENTS or length < 2)):
            raise _Unusual
        if kind == FILL:
            place += 1
        else:
            yield kind, place + 4, length - 2
            place += 2 + length
    if not header.at(place - 1, 1):
        raise _Unusual


def _orientation(exif: bytes) -> int:
    """What the tag says, 0 if there is none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        raise _Unusual
    (start,) = unpack(order + "I", exif[4:8])
    (count,) = unpack(order + "H", exif[start : start + 2])
    table = exif[start + 2 : start + 2 + 12 * count]
    if len(table) < 12 * count:
        raise _Unusual
    for tag, kind, values, place in iter_unpack(order + "HHII", table):
        if tag == ORIENTATION:
            if (kind, values) != (SHORT, 1):
                raise _Unusual
            return place & 0xFFFF if order == "<" else place >> 16
        size = values * UNITS[kind] if kind < len(UNITS) else 0
        if size > 4 and place + size > len(exif):  # Pillow reads no further
            raise _Unusual
    return 0


def _png_size(header: _Header) -> Size:
    length, name, width, height, depth, colour, *methods = unpack(">I4sIIBBBBB", header.at(8, 21))
    usual = length == 13 and name == b"IHDR" and depth in DEPTHS.get(colour, ()) and methods in ([0, 0, 0], [0, 0, 1])
    if not usual or crc32(header.at(12, 17)) != int.from_bytes(header.at(29, 4), "big"):
        raise _Unusual
    place, coded = 33, False
    while name != b"IEND":  # an orientation may be anywhere
        length, name = unpack(">I4s", header.at(place, 8))
        if name not in CHUNKS or (name == b"tEXt" and header.at(place + 8, 20).startswith(TURNING)):
            raise _Unusual
        coded |= name == b"IDAT"
        if not coded:
            content = header.at(place + 4, 8 + length)  # with its name and checksum
            if crc32(content[:-4]) != int.from_bytes(content[-4:], "big"):
                raise _Unusual
        place += 12 + length
    if not coded:
        raise _Unusual
    return width, height
