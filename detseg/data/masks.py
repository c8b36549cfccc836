"""The one in-memory form of a set of semantic masks: which class every pixel of every image belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.base import Category, ImageSet
from detseg.data.checks.problems import AnnotationError
from detseg.data.images import inspect_image
from detseg.data.index_png import MaskError, is_background
from detseg.data.mask_drawing import draw_labels
from detseg.data.mask_reading import STORED, MaskReading, is_soft, soft_edges
from detseg.data.pack.reader import OriginalMasks
from detseg.data.sample import IGNORE

BACKGROUND = "background"
MAX_VALUE = 65535  # in a 16-bit file


@dataclass(frozen=True, eq=False, kw_only=True)
class SemanticMasks(ImageSet):
    """A whole split: N images, each with a map of K classes.

    Labels count 0..K-1 in the order of `categories`, 255 is "ignore". A category's id is its value in the mask
    files, or, for masks that are drawn from polygons, the id its objects have. Masks are read or drawn when
    asked for; they come from `mask_paths`, `objects` or `pack`, one of the three.
    """

    mask_paths: NDArray[np.str_] | None = None  # (N,) the label maps
    ignore_values: tuple[int, ...] = (IGNORE,)  # values in these files that mean "ignore"
    reading: MaskReading = STORED  # how these values are found in the files
    objects: Annotations | None = None  # whose polygons are drawn

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_shapes(mask_paths=(len(self),))
        if sum(origin is not None for origin in (self.mask_paths, self.objects, self.pack)) != 1:
            raise ValueError("SemanticMasks needs mask_paths, objects or pack, one of the three")
        if not 1 <= len(self.categories) <= IGNORE:
            raise AnnotationError(
                f"{self.source}: has {len(self.categories)} classes; a mask can hold 1 to {IGNORE}, its values are "
                f"8 bits and {IGNORE} means 'ignore'"
            )

    @classmethod
    def from_annotations(cls, annotations: Annotations) -> SemanticMasks:
        """Masks drawn from the polygons or run lengths of objects, see `detseg.data.mask_drawing.draw_labels`.

        Label 0 is the background, the dataset's categories follow; if its first category is named "background",
        that one is label 0. AnnotationError: objects have boxes only.
        """
        segments = annotations.segments
        if segments is None and (~annotations.iscrowd).any():
            raise AnnotationError(
                f"{annotations.source}: its {len(annotations.ids)} objects have boxes but no polygons, so there are no "
                "masks to draw. Give a file with polygons or run lengths ('segmentation'), or a folder with masks/, "
                "or name the folders by --images and --masks"
            )
        categories = annotations.categories
        if not categories or not is_background(categories[0].name):
            taken = {category.id for category in categories}
            categories = (Category(0 if 0 not in taken else min(taken) - 1, BACKGROUND), *categories)
        return cls(
            categories=categories,
            image_ids=annotations.image_ids,
            paths=annotations.paths,
            sizes=annotations.sizes,
            objects=annotations,
            source=annotations.source,
        )

    def __repr__(self) -> str:
        return f"SemanticMasks({len(self)} images, {len(self.categories)} classes, source={self.source!r})"

    def file_of(self, image: int) -> str:
        """The mask of the image at a position, or the file with its objects."""
        if self.objects is not None:
            return self.objects.file_of(image)
        return self.source if self.mask_paths is None else str(self.mask_paths[image])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The class of every pixel (H, W) of image `index`: 0..K-1, or 255 for "ignore".

        MaskError: the mask is missing, damaged, of another size than the image, or holds values that are no class.
        """
        if self._packed is not None:
            return self._packed[index]
        if self.mask_paths is None:
            assert self.objects is not None
            return draw_labels(self.objects, index, len(self.categories) - len(self.objects.categories))
        path = str(self.mask_paths[index])
        values = self.reading.values(path)
        self._check_size(index, values.shape)
        labels = np.take(self._table[:256] if values.dtype == np.uint8 else self._table, values)
        if labels.min(initial=0) < 0:
            raise self._unknown_values(path, values[labels < 0])
        return labels.astype(np.uint8)

    @cached_property
    def _packed(self) -> OriginalMasks | None:
        return None if self.pack is None else OriginalMasks(*self.pack)

    @cached_property
    def _table(self) -> NDArray[np.int16]:
        """(65536,): value in the file -> label, -1 for those that are no class."""
        table = np.full(MAX_VALUE + 1, -1, np.int16)
        table[list(self.ignore_values)] = IGNORE
        table[[category.id for category in self.categories]] = np.arange(len(self.categories))
        return table

    def _check_size(self, index: int, shape: tuple[int, ...]) -> None:
        width, height = (int(side) for side in self.sizes[index])
        if shape == (height, width) or 0 in (width, height):  # an unknown size: the image itself is at fault
            return
        what = f"the mask is {shape[1]} x {shape[0]} pixels, its image {width} x {height}"
        remedy = "use the image that was annotated, or bring the mask to its size (nearest neighbour)"
        image = str(self.paths[index])
        if shape == (width, height):
            try:
                info = inspect_image(image)
            except ValueError:  # reported when the image is checked
                info = None
            if info is not None and info.stored_size == (shape[1], shape[0]):
                what += f" once turned upright (EXIF orientation {info.orientation}): drawn on the unturned pixels"
                remedy = "turn the mask as viewers turn the image, or remove the image's EXIF tag"
        assert self.mask_paths is not None
        raise MaskError(str(self.mask_paths[index]), what, remedy, "mask-size-differs")

    def _unknown_values(self, path: str, values: NDArray[np.uint8] | NDArray[np.uint16]) -> MaskError:
        found, counts = np.unique(values, return_counts=True)
        if len(self.categories) == 2 and is_soft({*found.tolist(), 0, IGNORE}):
            return soft_edges(path, len(found))
        order = np.argsort(-counts, kind="stable")
        shown = ", ".join(f"{found[i]} ({counts[i]} pixels)" for i in order[:5])
        what = f"values that are no class: {shown}{', ...' if len(order) > 5 else ''}"
        ids = sorted(category.id for category in self.categories)
        listed = f"{ids[0]} to {ids[-1]}" if ids == list(range(ids[0], ids[-1] + 1)) else ", ".join(map(str, ids[:20]))
        remedy = f"the classes have the values {listed}: add to the list of classes, or correct the mask"
        return MaskError(path, what, remedy, "mask-values")

    def _take(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        return super()._take(chosen) | {
            "mask_paths": None if self.mask_paths is None else self.mask_paths[chosen],
            "objects": None if self.objects is None else self.objects.subset(chosen),
        }

    def _relabel(self, categories: tuple[Category, ...], table: NDArray[np.int64]) -> SemanticMasks:
        if self.pack is not None:
            before = np.arange(IGNORE + 1) if self.pack.labels is None else self.pack.labels
            labels = np.where(before < len(table), table[np.minimum(before, len(table) - 1)], before).astype(np.uint8)
            return replace(self, categories=categories, pack=self.pack._replace(labels=labels))
        if self.objects is None:
            return replace(self, categories=categories)
        added = len(categories) - len(self.objects.categories)  # the background, if it is not one of theirs
        if categories[:added] != self.categories[:added]:
            raise AnnotationError(f"{self.source}: label 0 of masks drawn from polygons is {self.categories[0]}")
        return replace(self, categories=categories, objects=self.objects.match(categories[added:]))
