"""Opening image files with Pillow, also those that are larger than its limit."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from PIL import Image

MAX_PIXELS = 2**30
"""As many as OpenCV decodes."""

# Pillow takes more than 179 million pixels for an attack, and aerial images and slides have as many. The limit is one
# of the whole process; it is raised once, since images are read in several threads. No limit at all stays none.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)


def open_image(source: str | Path | BinaryIO) -> Image.Image:
    """`PIL.Image.open` for images of up to `MAX_PIXELS`.

    Raises:
        ValueError: it has more.
        OSError: and whatever else Pillow raises, for files that are missing or no images.
    """
    try:
        image = Image.open(source)
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large()) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(_too_large())
    return image


def _too_large() -> str:
    return f"it has more than {MAX_PIXELS} pixels, the most that can be read; cut it into several images"
