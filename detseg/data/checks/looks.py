"""How images look, each decoded once and small: thumbnails to compare, brightness, contrast and colourfulness."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.base import Track
from detseg.data.claims import decode_opencv
from detseg.data.crops import map_images
from detseg.data.images import read_header, read_image
from detseg.data.shard_members import read_content

SIDE = 48  # pixels of a square thumbnail


class Looks(NamedTuple):
    """How N images look; zeros where one cannot be read."""

    readable: NDArray[np.bool_]  # (N,)
    sides: NDArray[np.int32]  # (N,) pixels of the shorter side, as far as they were decoded
    thumbnails: NDArray[np.uint8]  # (N, SIDE, SIDE) grey, stretched to a square
    brightness: NDArray[np.float64]  # (N,) mean grey level, 0..255
    contrast: NDArray[np.float64]  # (N,) its standard deviation
    colour: NDArray[np.float64]  # (N,) mean distance of the most different two channels, 0 for grey


def read_looks(paths: Sequence[str], track: Track | None = None) -> Looks:
    """Look at images, in threads; large JPEG files are decoded at a quarter of their size."""
    found = map_images(lambda row: _look(str(paths[row])), len(paths), track)
    nothing = (0, np.zeros((SIDE, SIDE), np.uint8), 0.0, 0.0, 0.0)
    columns = zip(*(look or nothing for look in found), strict=True) if found else ([], [], [], [], [])
    sides, thumbnails, brightness, contrast, colour = map(list, columns)
    return Looks(
        np.array([look is not None for look in found], bool),
        np.array(sides, np.int32),
        np.array(thumbnails, np.uint8).reshape(-1, SIDE, SIDE),
        np.array(brightness, np.float64),
        np.array(contrast, np.float64),
        np.array(colour, np.float64),
    )


def _look(path: str) -> tuple[int, NDArray[np.uint8], float, float, float] | None:
    """Shorter side, thumbnail, brightness, contrast and colourfulness; None where the image cannot be read."""
    try:
        content = read_content(path)
        read_header(content, path)
    except (OSError, ValueError):  # ValueError: of a path with a zero byte, or a shard
        return None
    pixels = decode_opencv(content, cv2.IMREAD_REDUCED_COLOR_4)
    if pixels is not None and min(pixels.shape[:2]) < 2 * SIDE:
        pixels = decode_opencv(content, cv2.IMREAD_COLOR)
    if pixels is None:
        try:
            pixels = read_image(path)[..., ::-1]  # which knows more formats
        except ValueError:
            return None
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    spread = small.max(2).astype(np.float64) - small.min(2)
    return min(pixels.shape[:2]), grey, float(grey.mean()), float(grey.std()), float(spread.mean())  # type: ignore[return-value]
