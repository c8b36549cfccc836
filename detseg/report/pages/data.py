"""What a data set looks like: sheets of images with what is annotated, plots, tables, and one page with them all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detseg.data.annotations import Annotations
from detseg.data.base import ImageSet, Track
from detseg.data.cache import full_images
from detseg.data.colours import class_color
from detseg.data.labels import LabelledImages
from detseg.data.mask_drawing import draw_objects
from detseg.data.masks import SemanticMasks
from detseg.data.statistics import Counts, box_sides, count, learnt_boxes
from detseg.files import make_folder
from detseg.report.pages.html import ClassTable, Page, Table, write_page
from detseg.report.pictures import write_picture
from detseg.report.plots import data as plots
from detseg.report.plots.style import save
from detseg.report.tables import data as tables
from detseg.visualize import contact_sheet, draw_boxes, mask_sheet
from detseg.visualize.sheets import Entry, grid, scaled
from detseg.visualize.text import Image

if TYPE_CHECKING:
    from rich.console import RenderableType

logger = logging.getLogger(__name__)

COLUMNS, TILE = 4, 360
NAMED = 12  # objects in an image up to which names stand at the boxes; the legend has them in any case
LEGEND = 40  # classes in a legend


class DataPage:
    """The drawings, the tables and the page of a data set.

    Args:
        splits: by name, all with the same categories.
        name: of the data set.
        track: shows the progress of reading masks.
    """

    def __init__(self, splits: Mapping[str, ImageSet], name: str, *, track: Track | None = None) -> None:
        self.splits, self.name = splits, name
        first = next(iter(splits.values()))
        self.names = first.names
        self.unit = {Annotations: "objects", SemanticMasks: "pixels", LabelledImages: "images"}[type(first)]
        self.counts: dict[str, Counts] = {split: count(data, track=track) for split, data in splits.items()}
        self.boxes = {split: learnt_boxes(d) for split, d in splits.items() if isinstance(d, Annotations)}

    @property
    def sides(self) -> dict[str, Any]:
        """Sides of the boxes of each split."""
        return {split: box_sides(boxes) for split, (boxes, _, _) in self.boxes.items()}

    def table(self) -> RenderableType:
        """What is printed: splits, then classes."""
        return tables.tables(self.names, self.counts, self.unit, self.sides)

    def write(self, folder: Path, *, images: int, seed: int) -> list[tuple[str, Path]]:
        """Write the drawings and `index.html`, which holds them all, into a folder; (caption, path), the page first.

        Args:
            images: so many of each split are drawn.
            seed: of the choice of them.
        """
        make_folder(folder)
        drawings = self._sheets(folder, images, seed) | self._plots(folder)
        heads = ["Split", *(head[:1].upper() + head[1:] for head in tables.split_heads(self.unit))]
        rows = tables.split_rows(self.counts, self.unit, self.sides)
        page = Page(
            title=self.name,
            about="The data",
            summary={
                "Source": next(iter(self.splits.values())).source,
                "Problems while reading": sum(len(data.read_problems) for data in self.splits.values()),
            },
            pictures=[(caption, path.name) for caption, path in drawings.items()],
            cards=self._cards(),
            tables=[Table("Splits", [(split, "", cells) for split, cells in rows], heads)],
            classes=ClassTable(self.names, tables.class_columns(self.counts, self.unit)),
        )
        return [("page", write_page(folder, page, "index.html", embed=True)), *drawings.items()]

    def _cards(self) -> list[tuple[str, str, str]]:
        counts = list(self.counts.values())
        images, total = sum(c.images for c in counts), sum(c.total for c in counts)
        cards = [("images", f"{images:,}", ""), ("classes", str(len(self.names)), "")]
        if self.unit == "images":
            return cards
        without = sum(c.without for c in counts)
        if self.unit == "objects":
            ignored = sum(c.ignored for c in counts)
            cards += [("objects", f"{total:,}", ""), ("objects in an image", f"{total / max(1, images):.1f}", "")]
            return [*cards, ("images without objects", f"{without:,}", ""), ("objects ignored", f"{ignored:,}", "")]
        ignored = sum(c.ignored for c in counts)
        share = f"{100 * ignored / max(1, total + ignored):.1f} %"
        return [*cards, ("images of background only", f"{without:,}", ""), ("of the pixels ignored", share, "")]

    # ------------------------------------------------------------------ drawings

    def _sheets(self, folder: Path, images: int, seed: int) -> dict[str, Path]:
        drawn = {}
        for split, data in self.splits.items():
            rows = some_images(data, images, seed)
            sheet = draw_sheet(data, rows)
            caption = f"{split}: {len(rows)} of {len(data)} images"
            drawn[caption] = write_picture(sheet, folder / f"{split}.jpg")
        return drawn

    def _plots(self, folder: Path) -> dict[str, Path]:
        figure = plots.classes_figure(self.names, self.counts, self.unit)
        drawn = {f"{self.unit} of each class": save(figure, folder / "classes.png")}
        if not self.boxes:
            return drawn
        boxes, _, sizes = (np.concatenate(part) for part in zip(*self.boxes.values(), strict=True))
        drawn["objects in an image"] = save(plots.per_image_figure(self.counts), folder / "objects.png")
        if len(boxes):
            drawn["sizes of the boxes"] = save(plots.sizes_figure(boxes), folder / "sizes.png")
            drawn["positions of the boxes"] = save(plots.positions_figure(boxes, sizes), folder / "positions.png")
            drawn["aspect ratios of the boxes"] = save(plots.aspects_figure(boxes), folder / "aspects.png")
        return drawn


def some_images(data: ImageSet, most: int, seed: int) -> list[int]:
    """At most so many images of a set, at random, those that can be read; of labelled ones each class in turn."""
    order = np.random.default_rng(seed).permutation(len(data))
    if isinstance(data, LabelledImages):
        turn = np.zeros(len(data), np.int64)  # how many of its class come before an image
        for label in np.unique(data.labels):
            mine = order[data.labels[order] == label]
            turn[mine] = np.arange(len(mine))
        order = order[np.lexsort((data.labels[order], turn[order]))]
    chosen: list[int] = []
    errors: list[str] = []
    for row in order.tolist():
        if len(chosen) == most:
            break
        try:
            next(full_images(data, [row]))
            if isinstance(data, SemanticMasks):
                data.mask(row)
        except ValueError as error:
            errors.append(str(error))
        else:
            chosen.append(row)
    if errors:
        logger.warning("%d images cannot be drawn and are left out, the first: %s", len(errors), errors[0])
    return chosen


def draw_sheet(data: ImageSet, rows: Sequence[int]) -> Image:
    """Images of a set with their boxes and polygons, masks or classes, under a legend."""
    captions = [Path(str(data.paths[row])).name for row in rows]
    images = full_images(data, rows)
    if isinstance(data, SemanticMasks):
        pairs = ((image, data.mask(row)) for row, image in zip(rows, images, strict=True))
        return mask_sheet(pairs, data.names, captions=captions, columns=COLUMNS, tile=TILE)
    if isinstance(data, LabelledImages):
        classes = [data.names[data.labels[row]] for row in rows]
        return contact_sheet([scaled(image, TILE)[0] for image in images], COLUMNS, TILE, classes)
    assert isinstance(data, Annotations)
    cells = [_with_objects(data, row, image) for row, image in zip(rows, images, strict=True)]
    shown = sorted({int(k) for row in rows for k in data.labels[data.objects(row)] if k >= 0})
    legend: list[Entry] = []
    legend += [(class_color(k), data.names[k]) for k in shown[:LEGEND]]
    if len(shown) > LEGEND:
        legend.append((None, f"{len(shown) - LEGEND} more"))
    return grid(cells, COLUMNS, TILE, captions, legend=legend or None)


def _with_objects(data: Annotations, row: int, image: Image) -> Image:
    """An image at the size of a tile with what is annotated in it: lines and letters fit the tile."""
    small, x, y = scaled(image, TILE)
    mine = data.objects(row)
    known = np.flatnonzero(data.labels[mine] >= 0)
    masks: Any = None
    if data.drawn[mine].any() and (data.sizes[row] > 0).all():
        masks = draw_objects(data, row, (small.shape[1], small.shape[0]))[0][known]
    labels = data.labels[mine][known]
    boxes = data.boxes[mine][known] * (x, y, x, y)
    named = len(labels) <= NAMED
    return draw_boxes(
        small,
        boxes,
        labels if named else None,
        data.names if named else None,
        colors=np.array([class_color(int(k)) for k in labels]).reshape(-1, 3),
        iscrowd=data.iscrowd[mine][known],
        masks=masks,
    )
