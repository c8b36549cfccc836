"""The pictures that explain one answer of a classifier, written to files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detseg.files import inner_folder
from detseg.predict.explain import TOP, Explanation
from detseg.report.pictures import write_picture
from detseg.visualize.heat import (
    class_bars,
    filter_sheet,
    heat_picture,
    heat_sheet,
    map_sheet,
    percent,
    stack,
    title_strip,
)

# What lies in the folder beside a page, and what it is; Grad-CAM of the first class alone is as large as the image.
PARTS = {
    "gradcam.jpg": "Grad-CAM of the first class",
    "classes.jpg": "Grad-CAM of each class",
    "maps.jpg": "feature maps",
}


def write_explanation(
    seen: Explanation, image: NDArray[np.uint8], names: Sequence[str], page: Path, *, title: str, remark: str
) -> list[Path]:
    """Write all of it on one page, and its parts into a folder of the page's name; returns their paths.

    Args:
        seen: of `image` (H, W, 3) uint8 RGB, with at least one class explained.
        page: a path that ends in .jpg.
        title, remark: what stands above the page.
    """
    folder = page.with_suffix("")
    inner_folder(folder)
    captions = [
        f"{percent(float(seen.scores[k]))} {names[k]}" + ("" if heat.any() else " (no heat)")
        for k, heat in zip(seen.labels.tolist(), seen.heat, strict=True)
    ]
    rows, columns = seen.cells
    note = f"Grad-CAM of its last maps, {columns} × {rows} cells"
    x1, y1, x2, y2 = seen.area
    if x1 > 0 or y1 > 0 or x2 < image.shape[1] or y2 < image.shape[0]:
        note += "; what is dark it was not shown"
    heat = heat_sheet(image, list(seen.heat), captions, seen.area, note=note)
    stages = []
    for s in seen.stages:
        count, high, wide = s.maps.shape
        stages.append((f"stride {s.stride}: {count} of {s.channels} maps, {wide} × {high} cells", s.maps))
    maps = map_sheet(stages)
    shown = shown_labels(seen)
    bars = class_bars([names[k] for k in shown], seen.scores[shown].tolist())
    whole = stack([title_strip(title, remark), bars, heat, maps, filter_sheet(seen.filters)])
    sheets = (heat_picture(image, seen.heat[0], captions[0], seen.area), heat, maps)
    parts = [write_picture(sheet, folder / name) for name, sheet in zip(PARTS, sheets, strict=True)]
    return [write_picture(whole, page), *parts]


def shown_labels(seen: Explanation) -> list[int]:
    """The likeliest classes, then those of the explained ones that are not among them."""
    best = seen.ranking[:TOP].tolist()
    return best + [k for k in seen.labels.tolist() if k not in best]
