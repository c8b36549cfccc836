"""Masks laid over images: semantic ones, and those of single objects; truth beside prediction."""

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.data.index_png import is_background, mask_palette
from detseg.data.letterbox import resize_mask
from detseg.data.object_masks import number_map
from detseg.data.sample import IGNORE
from detseg.visualize.sheets import (
    Entry,
    check_count,
    grid,
    legend_strip,
    on_paper,
    row_width,
    scaled,
    side_by_side,
    swatch_width,
)
from detseg.visualize.text import Image, checked_image, fit_text, letter_size, paste, text_mask

OPACITY = 0.5  # of a class's colour
LEGEND_SHARE = 0.5  # of the image's height and width, at most


def draw_mask(image: Image, mask: ArrayLike, names: Sequence[str], *, legend: bool = True) -> Image:
    """A copy of `image` in which every class but the background has its colour, half transparent, with a thin border.

    The background is a first class of that name; without one all classes are coloured. The pixels that count for no
    class (255) are hatched. A mask of another size or with a label that has no name raises ValueError.

    Args:
        mask: (H, W) labels 0..K-1 or 255.
        names: of the K classes, in any script.
        legend: name the classes that are there, the largest first, in the corner where that hides least of them.
    """
    image = checked_image(image)
    labels = _checked_mask(mask, image.shape[:2], len(names))
    colors = mask_palette(names)
    covered = labels != 0 if names and is_background(names[0]) else np.ones(labels.shape, bool)
    ignored = labels == IGNORE
    result = _tinted(image, labels, colors, covered, covered & ~ignored)
    line = _border_width(labels)
    if ignored.any():
        rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
        gap = ignored & ((rows + columns) % (8 * line) >= 3 * line)
        result[gap] = image[gap] // 2  # dark gaps keep the hatching visible on any ground
    if legend:
        _draw_legend(result, _entries(np.bincount(labels.ravel(), minlength=IGNORE + 1), names), covered & ~ignored)
    return result


def draw_objects(image: Image, masks: ArrayLike | Sequence[Any], colors: ArrayLike) -> Image:
    """A copy of `image` with the masks of single objects laid over it; where they overlap, the first is on top.

    Args:
        masks: (M, H, W), not 0 where the object is, or M COCO run lengths; others raise ValueError.
        colors: (M, 3) RGB.
    """
    palette = np.asarray([(0, 0, 0), *np.reshape(colors, (-1, 3))], np.uint8)
    expected = (len(palette) - 1, *image.shape[:2])
    if len(masks) != len(palette) - 1:  # type: ignore[arg-type]
        raise ValueError(f"masks must have shape {expected}, got {np.shape(masks)}")
    owner = number_map(masks, image.shape)
    return _tinted(image, owner, palette, owner > 0, owner > 0)


def mask_sheet(
    images: Iterable[tuple[Image, *tuple[ArrayLike, ...]]],
    names: Sequence[str],
    *,
    captions: Sequence[str] | None = None,
    remark: str = "",
    bare: bool = False,
    columns: int = 2,
    tile: int = 240,
) -> Image:
    """Images with masks laid over them, those of one image side by side, under a legend.

    Args:
        images: (image (H, W, 3), labels (H, W), …), as many masks for each; a generator is taken one by one.
        remark: before the legend.
        bare: each image is also shown as it is, first.
        columns: images in a row, each with all its masks.
        tile: long side of one image in pixels.
    """
    cells = []
    counts = np.zeros(IGNORE + 1, np.int64)
    across = 1
    for image, *masks in images:
        small = scaled(checked_image(image), tile)[0]  # drawn after scaling: lines fit the tile
        shown = [small] if bare else []
        for mask in masks:
            labels = resize_mask(_checked_mask(mask, image.shape[:2], len(names)), small.shape[1::-1])
            counts += np.bincount(labels.ravel(), minlength=len(counts))
            shown.append(draw_mask(small, labels, names, legend=False))
        across = len(shown)
        cells.append(side_by_side(shown, tile))
    check_count("captions", captions, len(cells))
    legend = ([(None, remark)] if remark else []) + _entries(counts, names)
    return grid(cells, columns, row_width(across, tile), captions, legend=legend, text=tile)


def _tinted(
    image: Image,
    labels: NDArray[np.unsignedinteger],
    colors: NDArray[np.uint8],
    covered: NDArray[np.bool_],
    bordered: NDArray[np.bool_],
) -> Image:
    """A copy with the colour of each label where `covered`, half transparent, and full along borders in `bordered`."""
    shade = colors[labels]
    result = image.copy()
    result[covered] = cv2.addWeighted(image, 1 - OPACITY, shade, OPACITY, 0)[covered]
    width = _border_width(labels)
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    border = (cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)) & bordered  # the image's edge is none
    result[border] = shade[border]
    return result


def _border_width(labels: NDArray[Any]) -> int:
    return max(1, round(float(np.sqrt(labels.size)) / 480))


def _checked_mask(mask: ArrayLike, shape: tuple[int, ...], classes: int) -> NDArray[np.uint8]:
    labels = np.asarray(mask)
    if labels.shape != shape or labels.dtype.kind not in "iu":
        raise ValueError(
            f"a mask must hold whole numbers and be as large as its image {shape}, got {labels.dtype} {labels.shape}"
        )
    wrong = (labels != IGNORE) & ((labels < 0) | (labels >= classes))
    if wrong.any():
        raise ValueError(f"the mask holds the label {labels[wrong][0]}, but there are {classes} names")
    return labels.astype(np.uint8, copy=False)


def _entries(counts: NDArray[np.int64], names: Sequence[str]) -> list[Entry]:
    """Colour and name of each class that has pixels, the largest first; the background has no colour to explain."""
    colors = mask_palette(names)
    order = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
    shown = [k for k in order if k != IGNORE and not (k == 0 and is_background(names[0]))]
    entries: list[Entry] = [(colors[k], " ".join(str(names[k]).split())) for k in shown]
    return entries + ([(colors[IGNORE], "ignored")] if counts[IGNORE] else [])


def _draw_legend(image: Image, entries: Sequence[Entry], covered: NDArray[np.bool_]) -> None:
    """Write what there is room for into the corner of `image` that hides least of what is `covered`."""
    size = letter_size(image)
    line, padding = text_mask("", size).shape[0], max(2, size // 4)
    room = int(image.shape[0] * LEGEND_SHARE - 2 * padding) // line
    if not entries or room < 1:
        return
    if len(entries) > room:
        entries = [*entries[: room - 1], (None, f"{len(entries) - room + 1} more")]
    wide = int(image.shape[1] * LEGEND_SHARE) - swatch_width(size) - 2 * padding
    texts = [fit_text(text, size, wide) for _, text in entries]
    if not all(texts):
        return
    width = swatch_width(size) + max(text_mask(text, size).shape[1] for text in texts)
    rows = np.vstack([legend_strip([entry], width, size) for entry in entries])
    panel = on_paper(len(rows) + 2 * padding, width + 2 * padding, (rows, padding, padding))
    height, width = panel.shape[:2]
    bottom, right = image.shape[0] - height, image.shape[1] - width
    corners = [(0, bottom), (right, bottom), (0, 0), (right, 0)]
    x, y = min(corners, key=lambda c: int(covered[c[1] : c[1] + height, c[0] : c[0] + width].sum()))
    paste(image, panel, x, y)
