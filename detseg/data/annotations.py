"""The one in-memory form of an annotated dataset: flat numpy arrays over images and over objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.base import Category, ImageSet, category_difference, match_categories
from detseg.data.checks.problems import AnnotationError, Problem
from detseg.data.coco_ids import NUMBERS, TextIds
from detseg.data.polygons import Segments

__all__ = ["AnnotationError", "Annotations", "Category", "Problem", "category_difference", "match_categories"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotations(ImageSet):
    """A whole dataset split: N images and M objects of K categories.

    Objects are grouped by image: `image_index` never falls, so image i owns the slice `objects(i)`.
    Boxes are xyxy in absolute pixels, half-open, in the files' own precision. `labels` count 0..K-1 in
    the order of `categories`; -1 marks a category id that the file does not list (validation reports it).
    """

    image_index: NDArray[np.int32]  # (M,)
    boxes: NDArray[np.float64]  # (M, 4) xyxy
    labels: NDArray[np.int32]  # (M,)
    iscrowd: NDArray[np.bool_]  # (M,) crowd, or "difficult" in VOC: ignored, not background
    ids: NDArray[np.int64]  # (M,) annotation ids
    areas: NDArray[np.float64]  # (M,) pixels; of the mask where the dataset has one
    segments: Segments | None = None
    label_files: NDArray[np.str_] | None = None  # (N,) where every image has its own annotation file
    image_texts: TextIds = NUMBERS  # the ids that are texts in the file, and the numbers they have here
    category_texts: TextIds = NUMBERS

    def __post_init__(self) -> None:
        super().__post_init__()
        images, objects = len(self), len(self.image_index)
        row = (objects,)
        self._require_shapes(boxes=(objects, 4), labels=row, iscrowd=row, ids=row, areas=row)
        if self.segments is not None and len(self.segments) != objects:
            raise ValueError(f"Annotations.segments describes {len(self.segments)} objects, expected {objects}")
        if objects and (np.diff(self.image_index) < 0).any():
            raise ValueError("Annotations.image_index must not fall: group the objects by image first")
        if objects and not 0 <= self.image_index[0] <= self.image_index[-1] < images:
            raise ValueError(f"Annotations.image_index must lie in 0..{images - 1}")

    def __repr__(self) -> str:
        return (
            f"Annotations({len(self)} images, {len(self.image_index)} objects, "
            f"{len(self.categories)} categories, source={self.source!r})"
        )

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(N + 1,): image i owns objects offsets[i] up to offsets[i + 1]."""
        return np.searchsorted(self.image_index, np.arange(len(self) + 1)).astype(np.int64)

    def objects(self, index: int) -> slice:
        """The objects of image `index`, as a slice into the arrays over objects."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    @property
    def drawn(self) -> NDArray[np.bool_]:
        """(M,) True where the object has polygons or a mask."""
        segments = self.segments
        return np.zeros(len(self.ids), bool) if segments is None else segments.has_polygons | segments.has_rle

    def file_of(self, image: int) -> str:
        """The file with the annotations of the image at a position."""
        return self.source if self.label_files is None else str(self.label_files[image])

    def _take(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        counts = np.diff(self.offsets)[chosen]
        starts = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(starts[-1]) + np.repeat(self.offsets[chosen] - starts[:-1], counts)
        label_files = None if self.label_files is None else self.label_files[chosen]
        objects = self.take_objects(rows, np.repeat(np.arange(len(chosen)), counts))
        return super()._take(chosen) | objects | {"label_files": label_files}

    def take_objects(self, rows: NDArray[Any], image_index: NDArray[Any] | None = None) -> dict[str, Any]:
        """The fields that belong to objects, for the objects `rows` (K,), as keyword arguments for `replace`."""
        index = self.image_index[rows] if image_index is None else image_index
        taken = {name: getattr(self, name)[rows] for name in ("boxes", "labels", "iscrowd", "ids", "areas")}
        segments = None if self.segments is None else self.segments.take(rows)
        return taken | {"image_index": index.astype(np.int32), "segments": segments}

    def _relabel(self, categories: tuple[Category, ...], table: NDArray[np.int64]) -> Annotations:
        # One entry more than categories: label -1 (unknown) picks the last one and stays -1.
        return replace(self, categories=categories, labels=np.append(table, -1).astype(np.int32)[self.labels])
