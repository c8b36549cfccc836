"""What a detector looked at, drawn: the heat of a detection over the image, with its box."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.visualize.boxes import draw_boxes
from detseg.visualize.heat import TEXT, Box, Floats, captioned, draw_heat, heat_heading, stack, tile_width
from detseg.visualize.sheets import check_count, grid, scaled
from detseg.visualize.text import Color, Image, checked_image

COLUMNS = 3
# No heat is blue.
BOX: Color = (0, 190, 255)


def draw_detection_heat(image: Image, heat: Floats, box: ArrayLike, area: Box | None = None) -> Image:
    """`draw_heat` with a box (4,) xyxy in pixels of `image`."""
    return draw_boxes(draw_heat(image, heat, area), np.reshape(box, (1, 4)), colors=BOX)


def detection_heat_picture(image: Image, heat: Floats, box: ArrayLike, caption: str, area: Box | None = None) -> Image:
    """`draw_detection_heat` in the image's own size, over a line with the caption and what the colours mean."""
    return captioned(draw_detection_heat(image, heat, box, area), caption)


def small_detection_heat(image: Image, heat: Floats, box: NDArray[np.floating], area: Box, tile: int) -> Image:
    """`draw_detection_heat` of an image scaled so that its long side is `tile`: lines fit that size."""
    small, x, y = scaled(checked_image(image), tile)
    left, upper, right, lower = area
    return draw_detection_heat(small, heat, box * (x, y, x, y), (left * x, upper * y, right * x, lower * y))


def detection_heat_sheet(
    image: Image,
    heat: Sequence[Floats],
    boxes: NDArray[np.floating],
    captions: Sequence[str],
    area: Box,
    *,
    first: Image,
    note: str = "",
) -> Image:
    """`first`, the image (H, W, 3) with all detections, then the heat (h, w) of each with its box; see `draw_heat`.

    Args:
        boxes: (T, 4) xyxy in the image's pixels.
        captions: one for each detection.
    """
    for name, values in (("boxes", list(boxes)), ("captions", list(captions))):
        check_count(name, values, len(heat), of="heats")
    tile = tile_width(COLUMNS)
    cells = [scaled(checked_image(first), tile)[0]]
    cells += [small_detection_heat(image, one, box, area, tile) for one, box in zip(heat, boxes, strict=True)]
    title = heat_heading("What speaks for each detection", note)
    texts = ["the image", *captions]
    return stack([title, grid(cells, min(COLUMNS, len(cells)), tile, texts, text=TEXT)])
