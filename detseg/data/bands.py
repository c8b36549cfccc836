"""Images of other than three channels: grey, and the bands of TIFF files (infrared, elevation, ...).

TIFF files of bands are read by tifffile, which comes with the extra `bands`: OpenCV knows four at most, and takes the
fourth for transparency. The rest is read by OpenCV.
"""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.claims import decode_opencv, too_short
from detseg.reading import FileError


def decode_bands(data: bytes, path: str | Path, channels: int) -> NDArray[np.uint8]:
    """All bands of an image as uint8 (H, W, channels), in the file's order (colours as red, green, blue).

    One channel is grey, of colours their brightness. 16-bit values are scaled to 8 bits (65535 becomes 255). The EXIF
    orientation is not applied: files of bands have none.

    Args:
        data: the content of the file.
        path: what messages call it.
        channels: how many bands are wanted.

    Raises:
        ValueError: the content cannot be read, or has another number of bands; the message names it.
    """
    tiff = data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    pixels = _by_tifffile(data, path) if tiff and channels != 1 else _by_opencv(data, path)
    if channels == 1 and pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels[..., :3], cv2.COLOR_RGB2GRAY)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if pixels.shape[2] != channels:
        raise FileError(
            f"{path}: has {pixels.shape[2]} channels where {channels} are wanted (--channels); give all images the same"
        )
    if pixels.dtype == np.uint16:
        pixels = (pixels.astype(np.uint32) + 128) // 257
    elif pixels.dtype != np.uint8:
        raise FileError(f"{path}: pixels are {pixels.dtype}; save the image with 8 or 16 bits per channel")
    return np.ascontiguousarray(pixels, np.uint8)


def _by_opencv(data: bytes, path: str | Path) -> NDArray[Any]:
    """(H, W) or (H, W, C), as stored."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = decode_opencv(data, flags)
    if pixels is None:
        raise FileError(f"{path}: not a readable image; is it damaged?")
    if pixels.ndim == 3 and pixels.shape[2] >= 3:  # OpenCV gives blue first
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return np.asarray(pixels)


def _by_tifffile(data: bytes, path: str | Path) -> NDArray[Any]:
    try:
        import tifffile
    except ImportError as error:
        needed = "the bands of TIFF files are read by tifffile: pip install 'detseg[bands]'"
        raise FileError(f"{path}: {needed}") from error
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            width = max(1, file.pages.first.imagewidth)
            if lacking := too_short("TIFF", width, series.size // width, len(data)):  # the bands beneath each other
                raise ValueError(lacking)
            pixels, axes = series.asarray(), series.axes.replace("S", "C").replace("Q", "C").replace("I", "C")
    except Exception as error:  # it raises many kinds, of struct, zlib and its own
        raise FileError(f"{path}: not a readable TIFF file of bands: {error}") from error
    if sorted(axes) != ["C", "X", "Y"]:
        raise FileError(f"{path}: holds an array {pixels.shape} ({series.axes}), not one image of bands")
    return np.asarray(np.transpose(pixels, [axes.index(axis) for axis in "YXC"]))


def shown(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image (H, W, C) of any number of channels as RGB (H, W, 3), to look at: the first three, or grey."""
    if image.shape[2] == 3:
        return image
    return np.ascontiguousarray(image[..., :3] if image.shape[2] > 3 else np.repeat(image[..., :1], 3, 2))
