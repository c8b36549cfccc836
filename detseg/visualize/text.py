"""Text in any script written into images."""

import bisect
import importlib.util
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
from numpy.typing import NDArray
from PIL import ImageFont

from detseg.console import one_line
from detseg.data.bands import shown
from detseg.data.colours import Color, luminance

Image = NDArray[np.uint8]

LONGEST = 4000  # letters of a line; more is no text to be read, and would take memory without bounds


def checked_image(image: Image) -> Image:
    """`image` itself, or ValueError if it is not uint8 (H, W, 3); of grey and of many bands what `shown` shows."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or not image.shape[2]:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"an image must be a uint8 array (height, width, 3) in RGB, got {got}")
    return shown(image)


def text_color(background: Color) -> Color:
    """Black or white, whichever has the higher WCAG contrast on `background`."""
    # The contrasts (L + 0.05) / 0.05 with black and 1.05 / (L + 0.05) with white are equal at L = 0.179.
    return (0, 0, 0) if luminance(background) > 0.179 else (255, 255, 255)


def letter_size(image: Image) -> int:
    """Height of letters, in pixels, that can be read on an image of this size."""
    return max(10, round(5 + float(np.sqrt(image.shape[0] * image.shape[1])) * 0.017))


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans out of matplotlib's data (found without importing it), else Pillow's own ASCII font."""
    spec = importlib.util.find_spec("matplotlib")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def _has_glyph(character: str) -> bool:
    font = _font(16)
    drawn, missing = font.getmask(character), font.getmask("\uffff")
    return drawn.size != missing.size or bytes(drawn) != bytes(missing)


@lru_cache(maxsize=1024)
def text_mask(text: str, size: int) -> NDArray[np.uint8]:
    """Coverage 0..255 (h, w) of text on one line, whatever it holds; the height depends on `size` only."""
    text = one_line(text[:LONGEST])  # halves of characters and others that are none break the library that draws
    # cv2.putText knows ASCII only before OpenCV 5, which carries a font with Chinese, Japanese and Korean.
    if not all(_has_glyph(c) for c in text if not c.isspace()) and hasattr(cv2, "FontFace"):
        return _text_mask_cv2(text, size)
    font = _font(size)
    ascent, descent = font.getmetrics() if isinstance(font, ImageFont.FreeTypeFont) else (size, size // 4)
    canvas = np.zeros((ascent + descent, max(1, int(np.ceil(font.getlength(text))))), np.uint8)
    if text.strip():
        picture = PIL.Image.new("L", canvas.shape[::-1])
        PIL.ImageDraw.Draw(picture).text((0, 0), text, fill=255, font=font)
        canvas = np.asarray(picture)
    return canvas


def _text_mask_cv2(text: str, size: int) -> NDArray[np.uint8]:
    face = cv2.FontFace("uni")
    ascent, descent = round(size * 0.93), round(size * 0.24)  # DejaVu Sans' proportions
    start = (0, ascent)
    box = cv2.getTextSize((0, 0), text, start, face, size, 400)
    canvas = np.zeros((ascent + descent, max(1, int(box[2]) + 1), 3), np.uint8)
    cv2.putText(canvas, text, start, (255, 255, 255), face, size, 400)
    return canvas[:, :, 0].copy()


def fit_text(text: str, size: int, width: int) -> str:
    """`text`, or as much of it as fits into `width` pixels with an ellipsis; may be empty."""
    whole = text = one_line(text)
    text = text[: max(1, width)]  # letters are wider than a pixel
    if text == whole and text_mask(text, size).shape[1] <= width:
        return text

    def shorter(end: int) -> str:
        return text[:end].rstrip() + "…"

    ends = range(1, len(text))
    fitting = bisect.bisect_right(ends, width, key=lambda end: text_mask(shorter(end), size).shape[1])
    return shorter(ends[fitting - 1]) if fitting else ""


def paste(target: NDArray[np.uint8], patch: NDArray[np.uint8], x: int, y: int) -> None:
    """Copy `patch` into `target` at (x, y) in place; what leaves it is cut off."""
    x1, y1 = max(0, x), max(0, y)
    x2, y2 = min(target.shape[1], x + patch.shape[1]), min(target.shape[0], y + patch.shape[0])
    if x2 > x1 and y2 > y1:
        target[y1:y2, x1:x2] = patch[y1 - y : y2 - y, x1 - x : x2 - x]


def text_patch(text: str, size: int, color: Color, background: Color, padding: int = 0) -> Image:
    """One line of text as a small image, with `padding` pixels of background left and right."""
    mask = np.pad(text_mask(text, size), ((0, 0), (padding, padding)))
    share = mask[:, :, None].astype(np.float32) / 255
    blend = share * np.array(color, np.float32) + (1 - share) * np.array(background, np.float32)
    return np.rint(blend).astype(np.uint8)
