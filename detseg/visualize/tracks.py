"""Followed objects and what is counted, drawn on a frame."""

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from detseg.data.colours import class_color
from detseg.visualize.boxes import draw_boxes
from detseg.visualize.text import Image, checked_image, letter_size, paste, text_patch

Shape = tuple[ArrayLike, str]
"""Points (N, 2) x, y in pixels: two of a line, more of a polygon; and the text beside it."""
INK, PAPER = (255, 255, 255), (0, 0, 0)


def draw_tracks(
    image: Image,
    boxes: ArrayLike,
    labels: Sequence[int],
    names: Sequence[str],
    scores: ArrayLike,
    ids: Sequence[int],
    masks: Any = None,
) -> Image:
    """A copy of `image` with boxes, names, numbers and scores; each number has its colour, in all frames.

    Args:
        boxes, scores, masks: as of `draw_boxes`.
        labels: (M,) class of each.
        names: of classes.
        ids: (M,) number of each; objects with a negative one have none, and the colour of their class.
    """
    # Each object has a name of its own.
    texts = [names[label] if i < 0 else f"{names[label]} #{i}" for label, i in zip(labels, ids, strict=True)]
    colors = [class_color(label if i < 0 else i) for label, i in zip(labels, ids, strict=True)]
    return draw_boxes(image, boxes, range(len(texts)), texts, scores, np.array(colors).reshape(-1, 3), masks=masks)


def draw_counts(image: Image, shapes: Iterable[Shape]) -> Image:
    """A copy of `image` with lines and polygons, and a text at the first point of each, or below where one is."""
    result = checked_image(image).copy()
    size = letter_size(result)
    width = max(1, round(size / 8))
    taken: list[tuple[int, int, int]] = []  # left, right and top of the texts so far
    for points, text in shapes:
        corners = np.rint(np.asarray(points, np.float64)).clip(-(2**15), 2**15).astype(np.int32)
        for color, thick in ((PAPER, width + 2), (INK, width)):  # seen on light and dark ground
            cv2.polylines(result, [corners], len(corners) > 2, color, thick, cv2.LINE_AA)
        patch = text_patch(text, size, INK, PAPER, max(2, size // 4))
        height, wide = patch.shape[:2]
        lowest = max(0, result.shape[0] - height)
        x = int(np.clip(corners[0, 0], 0, max(0, result.shape[1] - wide)))
        first = int(np.clip(corners[0, 1] + width, 0, lowest))
        beside = [top for left, right, top in taken if left < x + wide and x < right]
        # From its place downwards, and then from the top.
        places = [*range(first, lowest + 1), *range(first)]
        y = next((y for y in places if all(abs(y - top) >= height for top in beside)), first)
        taken.append((x, x + wide, y))
        paste(result, patch, x, y)
    return result
