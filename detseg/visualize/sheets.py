"""Contact sheets: many images on one."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from detseg.data.letterbox import resized
from detseg.visualize.text import Color, Image, checked_image, fit_text, paste, text_mask, text_patch

PAPER: Color = (250, 250, 248)
INK: Color = (34, 34, 34)
QUIET: Color = (110, 110, 110)

Entry = tuple[ArrayLike | None, str]  # of a legend: an RGB colour and what it means; a remark has no colour


def contact_sheet(
    images: Sequence[Image], columns: int, tile: int = 320, captions: Sequence[str] | None = None
) -> Image:
    """Images side by side, `columns` to a row, each scaled to fit a square of `tile` pixels.

    Captions stand below the images, shortened where they do not fit. No images give a small sheet that says so.
    """
    check_count("captions", captions, len(images))
    return grid([scaled(checked_image(image), tile)[0] for image in images], columns, tile, captions)


def check_count(name: str, values: Sequence[Any] | None, count: int, of: str = "images") -> None:
    """Raise ValueError unless there are `count` values or none at all (None)."""
    if values is not None and len(values) != count:
        raise ValueError(f"there are {count} {of} but {len(values)} {name}: give one for each")


def on_paper(height: int, width: int, *patches: tuple[Image, int, int]) -> Image:
    """A strip of paper with patches, (image, x, y) each, in front of it."""
    strip = np.full((height, width, 3), PAPER, np.uint8)
    for patch, x, y in patches:
        paste(strip, patch, x, y)
    return strip


def scaled(image: Image, tile: int, enlarging: int = cv2.INTER_CUBIC) -> tuple[Image, float, float]:
    """The image scaled so that its long side is `tile`, with the factors of x and y."""
    height, width = image.shape[:2]
    if height == 0 or width == 0:
        raise ValueError(f"an image of {width} x {height} pixels cannot be shown")
    factor = tile / max(height, width)
    w, h = max(1, round(width * factor)), max(1, round(height * factor))
    method = cv2.INTER_AREA if factor < 1 else enlarging
    small = image.copy() if factor == 1 else resized(image, (w, h), method)
    return small.astype(np.uint8, copy=False), w / width, h / height


def grid(
    cells: Sequence[Image],
    columns: int,
    width: int,
    captions: Sequence[str] | None,
    *,
    legend: Sequence[Entry] | None = None,
    text: int | None = None,
) -> Image:
    """Cells at most `width` wide in rows on paper, each centred over its caption, under an optional legend.

    Letters and gaps follow `text`, the width of one image (default `width`).
    """
    tile = width if text is None else text
    if columns < 1 or tile < 1:
        raise ValueError(f"columns and tile must be at least 1, got {columns} and {tile}")
    gap, size = max(4, round(tile / 40)), sheet_letter_size(tile)
    columns = min(columns, max(1, len(cells)))
    sheet_width = columns * (width + gap) + gap
    strips = [] if legend is None else [legend_strip(legend, columns * width, size)]
    if not cells:
        strips.append(text_patch(fit_text("no images", size, width), size, QUIET, PAPER))
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        height = max(cell.shape[0] for cell in row)
        line = 0 if captions is None else text_mask("", size).shape[0] + gap // 2
        strip = on_paper(height + line, sheet_width)
        for i, cell in enumerate(row):
            left = gap + i * (width + gap)
            paste(strip, cell, left + (width - cell.shape[1]) // 2, (height - cell.shape[0]) // 2)
            if captions is not None:
                caption = fit_text(" ".join(str(captions[start + i]).split()), size, width)
                patch = text_patch(caption, size, INK, PAPER)
                paste(strip, patch, left + (width - patch.shape[1]) // 2, height + gap // 2)
        strips.append(strip)
    sheet = on_paper(sum(len(strip) + gap for strip in strips) + gap, sheet_width)
    y = gap
    for strip in strips:
        paste(sheet, strip, (sheet_width - strip.shape[1]) // 2, y)
        y += len(strip) + gap
    return sheet


def legend_strip(entries: Sequence[Entry], width: int, size: int) -> Image:
    """Words with the colours they explain, side by side on as many lines as they need."""
    height, square = text_mask("", size).shape[0], round(size * 0.8)
    rows = [on_paper(height, width)]
    x = 0
    for color, text in entries:
        indent = 0 if color is None else swatch_width(size)
        text = fit_text(text, size, width - indent)
        patch = text_patch(text, size, QUIET if color is None else INK, PAPER)
        if x and x + indent + patch.shape[1] > width:
            rows.append(on_paper(height, width))
            x = 0
        if color is not None:
            swatch = np.full((square, square, 3), color, np.uint8)
            paste(rows[-1], swatch, x, (height - square) // 2)
        paste(rows[-1], patch, x + indent, 0)
        x += indent + patch.shape[1] + round(1.6 * size)
    return np.vstack(rows)


def swatch_width(size: int) -> int:
    """Pixels from the left of a legend's colour to its words."""
    return round(size * 0.8) + size // 3


def sheet_letter_size(tile: int) -> int:
    """Height of letters on a sheet of images that are `tile` pixels wide."""
    return max(10, min(28, round(tile / 24)))


def side_by_side(images: Sequence[Image], tile: int) -> Image:
    """Images of one size that belong together, each in the middle of a tile; see `row_width`."""
    step = tile + _tile_gap(tile)
    placed = [(image, i * step + (tile - image.shape[1]) // 2, 0) for i, image in enumerate(images)]
    return on_paper(images[0].shape[0], row_width(len(images), tile), *placed)


def row_width(count: int, tile: int) -> int:
    """Pixels across of so many images `side_by_side`."""
    return count * tile + (count - 1) * _tile_gap(tile)


def _tile_gap(tile: int) -> int:
    return max(2, tile // 90)
