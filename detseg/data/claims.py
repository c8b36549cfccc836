"""What an image file claims of itself, held against its length: a few bytes may ask for gigabytes of memory.

Formats: PNG https://www.w3.org/TR/png-3/ (5.3), GIF https://www.w3.org/Graphics/GIF/spec-gif89a.txt (appendix F).
"""

import mmap
from struct import unpack_from
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MANY = 2**26  # pixels; of fewer no claim takes more memory than photos of large cameras do
# Pixels that a byte of a file may make. Deflate makes 1032 bytes of one, and 8 pixels of 1 bit may be in one.
PNG_PIXELS = 8 * 1032
# Of the others beyond `MANY` pixels only, since parts that are not in the file may be left blank.
MOST_PIXELS = {
    "GIF": 4096,  # a code of 12 bits stands for at most 4096 pixels, and is one of 2560 on average
    "JPEG": 4096,  # a bit for each block of 8 x 8 makes 512; arithmetic coding needs less
    "MPO": 4096,  # JPEG
    "raw TIFF": 8,  # of 1 bit, not compressed
    "BMP": 1024,  # run lengths make 255 of 2 bytes
}
OTHER_PIXELS = 2**20  # JPEG 2000, AVIF, WebP and fax have no bound; blank images of theirs are written with a quarter


def too_short(kind: str | None, width: int, height: int, length: int) -> str:
    """Why a file of `length` bytes cannot hold the pixels that it claims; "" if it can.

    Args:
        kind: the format as Pillow names it; "raw TIFF" for one that is not compressed.
        width: of the image.
        height: of the image.
        length: of the file, in bytes.
    """
    pixels = width * height
    if kind != "PNG" and pixels <= MANY:
        return ""
    if pixels <= length * (PNG_PIXELS if kind == "PNG" else MOST_PIXELS.get(kind or "", OTHER_PIXELS)):
        return ""
    return f"its header says {width} x {height} pixels, and the file is too short for them"


def chunks_fit(data: bytes | mmap.mmap) -> bool:
    """Whether a PNG file has all the bytes that its chunks claim; what follows the last of these is no chunk."""
    place, name = 8, b""
    while name != b"IEND" and place + 8 <= len(data):
        length, name = unpack_from(">I4s", data, place)
        place += 12 + length
    return place <= len(data)


def decode_opencv(data: bytes, flags: int) -> NDArray[Any] | None:
    """`cv2.imdecode`; None where OpenCV cannot read it, or would take memory for chunks that are not there."""
    if not data or (data[:4] == b"\x89PNG" and not chunks_fit(data)):
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # of headers with sizes that no image has
        return None
