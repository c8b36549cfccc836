"""The pictures that explain a detector's detections in one image, written to files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detseg.files import inner_folder, make_folder
from detseg.predict.explain_detections import DetectionExplanation
from detseg.report.pictures import write_picture
from detseg.visualize import draw_boxes
from detseg.visualize.detection_heat import detection_heat_picture, detection_heat_sheet
from detseg.visualize.heat import percent, stack, tile_width, title_strip
from detseg.visualize.sheets import scaled

# What lies in the folder beside a page: for detections 1, 2, 3, …, the best first.
PART = "{}.jpg"


def write_detections(
    seen: DetectionExplanation, image: NDArray[np.uint8], names: Sequence[str], page: Path, *, title: str, remark: str
) -> list[Path]:
    """Write all detections on one page, and each into a folder of the page's name; returns their paths.

    Args:
        seen: of `image` (H, W, 3) uint8 RGB; where nothing was found, there is only the page.
        page: a path that ends in .jpg.
        title, remark: what stands above the page.
    """
    found, captions = seen.found, detection_captions(seen, names)
    make_folder(page.parent)
    small, x, y = scaled(image, tile_width(3))
    first = draw_boxes(small, found.boxes * (x, y, x, y), found.labels, names, found.scores)
    note = f"ODAM of maps of strides {', '.join(map(str, seen.strides))}"
    sheet = detection_heat_sheet(image, list(seen.heat), found.boxes, captions, seen.area, first=first, note=note)
    paths = [write_picture(stack([title_strip(title, remark), sheet]), page)]
    folder = page.with_suffix("")
    for number, (heat, box, caption) in enumerate(zip(seen.heat, found.boxes, captions, strict=True), 1):
        inner_folder(folder)
        picture = detection_heat_picture(image, heat, box.tolist(), caption, seen.area)
        paths.append(write_picture(picture, folder / PART.format(number)))
    return paths


def detection_captions(seen: DetectionExplanation, names: Sequence[str]) -> list[str]:
    """Name, score and how much of the heat is in the box, of each detection."""
    return [
        f"{names[label]} {score:.2f}, {share_text(share)}"
        for label, score, share in zip(seen.found.labels.tolist(), seen.found.scores, seen.shares(), strict=True)
    ]


def share_text(share: float) -> str:
    """How much of the heat is in the box, in words."""
    return "no heat" if share != share else f"{percent(share)} of the heat in the box"
