"""The page of what was found in a data set: one HTML file that holds its images, cut out and drawn on."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.base import ImageSet, Track
from detseg.data.checks.doubts import Doubt, Kind
from detseg.data.crops import map_images
from detseg.data.images import read_image
from detseg.data.masks import SemanticMasks
from detseg.files import write_atomically
from detseg.report.findings import Finding, by_kind, title_of
from detseg.report.pages.html import render
from detseg.visualize import draw_boxes, draw_mask
from detseg.visualize.sheets import scaled, side_by_side
from detseg.visualize.text import Image

SHOWN = 24  # of each kind
TILE = 260  # pixels
QUALITY = 80
SURROUNDINGS = 0.6  # of the boxes' sides, on each side of a crop
LEAST = 120  # pixels of the image in a crop

MEANT = (255, 0, 200)  # the object itself
ELSE = (0, 190, 255)  # what else is meant
AROUND = (255, 255, 255)  # the other annotated boxes


class _Entry(NamedTuple):
    """A finding on the page."""

    finding: Finding
    link: str  # data:, "" where there is nothing to see


def write_findings(
    path: Path,
    splits: Mapping[str, ImageSet],
    findings: Sequence[Finding],
    kinds: Mapping[str, Kind],
    *,
    title: str,
    facts: Mapping[str, Any],
    track: Track | None = None,
) -> Path:
    """Write the page: the worst `SHOWN` of each kind, doubts with a drawing of what is meant; returns its path."""
    groups = by_kind(findings)
    shown = [finding for own in groups.values() for finding in own[:SHOWN]]
    links = iter(map_images(lambda row: _link(splits, shown[row].drawn), len(shown), track))
    sections = [
        (
            title_of(kind, kinds),
            kinds[kind].rule if kind in kinds else own[0].level,
            len(own),
            [_Entry(finding, next(links)) for finding in own[:SHOWN]],
        )
        for kind, own in groups.items()
    ]
    text = render("findings.html.j2", title=title, facts=list(facts.items()), sections=sections, shown=SHOWN)
    write_atomically(path, text)
    return path


def _link(splits: Mapping[str, ImageSet], doubt: Doubt | None) -> str:
    """A drawing within the page; "" where no image is meant, or it cannot be read."""
    if doubt is None or doubt.image < 0:
        return ""
    try:
        image = _drawing(splits, doubt)
    except (ValueError, OSError):
        return ""
    return image_link(image)


def image_link(image: Image) -> str:
    """An image as the link that holds it."""
    content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"


def _drawing(splits: Mapping[str, ImageSet], doubt: Doubt) -> Image:
    """The image, or a crop around what is meant, beside the other image if one is meant."""
    drawn = _annotated(splits[doubt.split], doubt.image, doubt)
    if doubt.other is None:
        return drawn
    other = _annotated(splits[doubt.other[0]], doubt.other[1], None)
    height = max(drawn.shape[0], other.shape[0])
    return side_by_side([_padded(image, height) for image in (drawn, other)], TILE)


def _annotated(data: ImageSet, image: int, doubt: Doubt | None) -> Image:
    """An image with its annotation, small; with a doubt the part that it is about."""
    pixels = read_image(str(data.paths[image]))
    meant = np.zeros((0, 4)) if doubt is None else np.array(doubt.boxes, np.float64).reshape(-1, 4)
    boxes = np.zeros((0, 4))
    own = np.zeros((0, 4))
    if isinstance(data, Annotations):
        rows = data.objects(image)
        boxes = data.boxes[rows]
        if doubt is not None and doubt.object >= 0:
            own = data.boxes[doubt.object : doubt.object + 1]
            boxes = np.delete(boxes, doubt.object - rows.start, 0)
    elif isinstance(data, SemanticMasks):
        pixels = draw_mask(pixels, data.mask(image), data.names, legend=False)
    left, top, right, bottom = _window(np.concatenate([own, meant[: len(meant) if len(own) else 1]]), pixels)
    part, x, y = scaled(np.ascontiguousarray(pixels[top:bottom, left:right]), TILE)
    placed = [(values - [left, top, left, top]) * [x, y, x, y] for values in (own, meant, boxes)]
    colours = [colour for colour, values in zip((MEANT, ELSE, AROUND), placed, strict=True) for _ in values]
    return draw_boxes(part, np.concatenate(placed), colors=np.array(colours).reshape(-1, 3), line_width=2)


def _window(boxes: NDArray[np.float64], pixels: Image) -> tuple[int, int, int, int]:
    """The part of an image around boxes, all of it if there are none."""
    height, width = pixels.shape[:2]
    if not len(boxes):
        return 0, 0, width, height
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    if not (np.isfinite([low, high]).all() and (low < (width, height)).all() and (high > 0).all()):
        return 0, 0, width, height
    half = np.maximum((high - low) * (0.5 + SURROUNDINGS), LEAST / 2)
    middle = (low + high) / 2
    left, top = np.clip(np.floor(middle - half), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(middle + half), (left + 1, top + 1), (width, height)).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _padded(image: Image, height: int) -> Image:
    """On white, with the image in the middle of the height."""
    above = (height - image.shape[0]) // 2
    return np.pad(image, ((above, height - image.shape[0] - above), (0, 0), (0, 0)), constant_values=255)
