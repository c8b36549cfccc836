"""Boxes, masks and labels of objects drawn on an image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.data.colours import Color, class_color, instance_colors
from detseg.visualize.overlay import draw_objects
from detseg.visualize.text import Image, checked_image, fit_text, letter_size, paste, text_color, text_mask, text_patch

PixelBox = tuple[int, int, int, int]


def draw_boxes(
    image: Image,
    boxes: ArrayLike,
    labels: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    scores: ArrayLike | None = None,
    colors: ArrayLike | None = None,
    iscrowd: ArrayLike | None = None,
    line_width: int | None = None,
    masks: ArrayLike | Sequence[Any] | None = None,
) -> Image:
    """A copy of `image` with boxes and their labels; lines and letters grow with the image.

    Lines lie inside the boxes, so without labels and masks no pixel outside a box changes. Where boxes overlap, the
    first is on top (detections come best first). Boxes without a visible area (empty, reversed, NaN, outside the
    image) are left out. A shape that does not fit, or a label without a name, raises ValueError.

    Args:
        boxes: (M, 4) xyxy in pixels of `image`.
        labels: (M,) class 0..K-1; chooses the colour and the text. None draws plain boxes.
        names: K class names in any script; without them the text is "class 3".
        scores: (M,) shown with two digits behind the name.
        colors: (M, 3) RGB, or (3,) for all; the default is `class_color` of the label, with masks `instance_colors`.
        iscrowd: (M,) bool; True (a crowd, or "difficult") is drawn dashed and thin.
        line_width: in pixels.
        masks: (M, H, W), not 0 where the object is, or M COCO run lengths; laid under the boxes in their colours.
    """
    image = checked_image(image)
    box = _per_box("boxes", boxes, len(np.asarray(boxes)), 4)
    count = len(box)
    label = None if labels is None else _per_box("labels", labels, count).astype(np.int64).tolist()
    score = [""] * count if scores is None else [f"{s:.2f}" for s in _per_box("scores", scores, count)]
    crowd = [False] * count if iscrowd is None else _per_box("iscrowd", iscrowd, count).astype(bool).tolist()
    palette = _box_colors(colors, label or [0] * count, each=masks is not None)
    name = [""] * count if label is None else [_class_name(i, k, names) for i, k in enumerate(label)]

    result = image.copy() if masks is None else draw_objects(image, masks, palette)
    side = float(np.sqrt(image.shape[0] * image.shape[1]))
    width = max(1 if side < 150 else 2, round(side / 240)) if line_width is None else max(1, int(line_width))
    visible = [(i, p) for i, b in enumerate(box.tolist()) if (p := _pixel_box(*b, *image.shape[:2])) is not None]
    for i, pixels in reversed(visible):
        _draw_outline(result, pixels, palette[i], width, dashed=crowd[i])
    taken: list[PixelBox] = []
    for i, pixels in visible:
        _draw_label(result, pixels, name[i], score[i], palette[i], taken)
    return result


def _per_box(name: str, values: ArrayLike, count: int, columns: int | None = None) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    shape = (count,) if columns is None else (count, columns)
    if array.size == 0 and count == 0:
        return array.reshape(shape)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return array


def _box_colors(colors: ArrayLike | None, labels: list[int], *, each: bool) -> list[Color]:
    if colors is None:
        return instance_colors(labels) if each else [class_color(label) for label in labels]
    rgb = np.asarray(colors, dtype=np.int64)
    count = len(labels)
    if rgb.size == 0 and count == 0:
        return []
    if rgb.shape not in ((3,), (count, 3)):
        raise ValueError(f"colors must have shape (3,) or {(count, 3)}, got {rgb.shape}")
    if rgb.min() < 0 or rgb.max() > 255:
        raise ValueError(f"colors must be RGB values 0..255, got {int(rgb.min())}..{int(rgb.max())}")
    return [(r, g, b) for r, g, b in np.broadcast_to(rgb, (count, 3)).tolist()]


def _class_name(i: int, label: int, names: Sequence[str] | None) -> str:
    if names is None:
        return f"class {label}"
    if not 0 <= label < len(names):
        raise ValueError(f"box {i} has label {label}, but there are {len(names)} names (0..{len(names) - 1})")
    return " ".join(str(names[label]).split())


def _pixel_box(x1: float, y1: float, x2: float, y2: float, height: int, width: int) -> PixelBox | None:
    """Whole pixels (x1, y1, x2, y2), half-open and inside the image; None where nothing is to be seen."""
    if not (x2 > x1 and y2 > y1 and x2 > 0 and y2 > 0 and x1 < width and y1 < height):  # catches NaN too
        return None
    left, top = min(round(max(x1, 0)), width - 1), min(round(max(y1, 0)), height - 1)
    return left, top, max(round(min(x2, width)), left + 1), max(round(min(y2, height)), top + 1)


def _draw_outline(image: Image, box: PixelBox, color: Color, width: int, *, dashed: bool) -> None:
    x1, y1, x2, y2 = box
    if dashed:
        width = max(1, width // 2)
    # A line may take a quarter of a small object on each side, so that something of it stays visible.
    width = min(width, max(1, min(x2 - x1, y2 - y1) // 4))
    view = image[y1:y2, x1:x2]
    inside = np.zeros(view.shape[:2], bool)
    inside[width:-width, width:-width] = True
    if dashed:
        period = max(6, 8 * width)
        rows, columns = np.ogrid[: y2 - y1, : x2 - x1]
        gap = (rows + columns) % period >= 0.6 * period
        view[~inside & gap] //= 2  # dark gaps keep the dashes visible on any background
        inside |= gap
    view[~inside] = color


def _draw_label(image: Image, box: PixelBox, name: str, score: str, color: Color, taken: list[PixelBox]) -> None:
    """Write name and score at the first place by the box that is free and in the image; note it in `taken`.

    A name too long for the image is shortened, its score is not.
    """
    size = letter_size(image)
    padding = max(2, size // 4)
    room = image.shape[1] - 2 * padding
    if name and score:
        score = f" {score}"
        room -= text_mask(score, size).shape[1]
    line = (fit_text(name, size, room) + score).strip()
    if not line:
        return
    patch = text_patch(line, size, text_color(color), color, padding)
    h, w = patch.shape[:2]
    x1, y1, x2, y2 = box
    left, right = min(x1, image.shape[1] - w), max(0, x2 - w)
    places = [(left, y1 - h), (left, y1), (left, y2), (right, y2 - h), (right, y1 - h), (left, y2 - h)]
    inside = [(x, y) for x, y in places if y >= 0 and y + h <= image.shape[0]] or [(left, 0)]

    def covered(place: tuple[int, int]) -> int:
        x, y = place
        shared = [max(0, min(x + w, c) - max(x, a)) * max(0, min(y + h, d) - max(y, b)) for a, b, c, d in taken]
        return sum(shared)

    x, y = min(inside, key=covered)  # the first of the best places
    taken.append((x, y, x + w, y + h))
    paste(image, patch, x, y)
