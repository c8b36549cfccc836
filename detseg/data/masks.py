"""The one in-memory form of a set of semantic masks: which class every pixel of every image belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.data.annotations import (
    AnnotationError,
    Annotations,
    Category,
    Problem,
    category_difference,
    match_categories,
)
from detseg.data.images import inspect_image
from detseg.data.index_png import MaskError, is_background, read_index_image
from detseg.data.mask_drawing import draw_labels
from detseg.data.pack.packed import OriginalMasks
from detseg.data.pack.rows import PackRows, take_rows
from detseg.data.sample import IGNORE

BACKGROUND = "background"
MAX_VALUE = 65535  # in a 16-bit file


@dataclass(frozen=True, eq=False)
class SemanticMasks:
    """A whole split: N images, each with a map of K classes.

    Labels count 0..K-1 in the order of `categories`, 255 is "ignore". A category's id is its value in the mask
    files, or, for masks that are drawn from outlines, the id its objects have. Masks are read or drawn when
    asked for.
    """

    categories: tuple[Category, ...]
    image_ids: NDArray[np.int64]  # (N,)
    paths: NDArray[np.str_]  # (N,) the images, ready to open; of a packed set the names they had
    sizes: NDArray[np.int32]  # (N, 2) width, height of the upright image; 0 where unknown
    mask_paths: NDArray[np.str_] | None = None  # (N,) the label maps
    ignore_values: tuple[int, ...] = (IGNORE,)  # values in these files that mean "ignore"
    objects: Annotations | None = None  # or the outlines that masks are drawn from
    pack: PackRows | None = None  # or the packed file that images and masks are in
    source: str = ""  # the file or folder it was read from

    def __post_init__(self) -> None:
        images = len(self.image_ids)
        for name, shape in {"paths": (images,), "sizes": (images, 2), "mask_paths": (images,)}.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"SemanticMasks.{name} has shape {array.shape}, expected {shape}")
        if self.pack is not None and len(self.pack.rows) != images:
            raise ValueError(f"SemanticMasks.pack has {len(self.pack.rows)} rows, expected {images}")
        if sum(origin is not None for origin in (self.mask_paths, self.objects, self.pack)) != 1:
            raise ValueError("SemanticMasks needs mask_paths, objects or pack, one of the three")
        if not 1 <= len(self.categories) <= IGNORE:
            raise AnnotationError(
                f"{self.source}: has {len(self.categories)} classes; a mask can hold 1 to {IGNORE}, its values are "
                f"8 bits and {IGNORE} means 'ignore'"
            )

    @classmethod
    def from_annotations(cls, annotations: Annotations) -> SemanticMasks:
        """Masks drawn from the outlines of objects, see `detseg.data.mask_drawing.draw_labels`.

        Label 0 is the background, the dataset's categories follow; if its first category is named "background",
        that one is label 0.

        Raises:
            AnnotationError: no object has an outline.
        """
        segments = annotations.segments
        if segments is None and (~annotations.iscrowd).any():
            raise AnnotationError(
                f"{annotations.source}: its {len(annotations.ids)} objects have boxes but no outlines, so there are no "
                "masks to draw. Give a file with polygons or run lengths ('segmentation'), or a folder with masks/"
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

    def __len__(self) -> int:
        return len(self.image_ids)

    def __repr__(self) -> str:
        return f"SemanticMasks({len(self)} images, {len(self.categories)} classes, source={self.source!r})"

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(category.name for category in self.categories)

    @property
    def label_files(self) -> NDArray[np.str_] | None:
        """The mask files, by the name that `Annotations` has for the images' own annotation files."""
        return self.mask_paths if self.objects is None else self.objects.label_files

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The class of every pixel (H, W) of image `index`: 0..K-1, or 255 for "ignore".

        Raises:
            MaskError: the mask is missing, damaged, of another size than the image, or holds values that are
                not among the classes. The message names them.
        """
        if self._packed is not None:
            return self._packed[index]
        if self.mask_paths is None:
            assert self.objects is not None
            return draw_labels(self.objects, index, len(self.categories) - len(self.objects.categories))
        path = str(self.mask_paths[index])
        values = read_index_image(path)
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
            except ValueError:  # told when the image is checked
                info = None
            if info is not None and info.stored_size == (shape[1], shape[0]):
                what += f" once turned upright (EXIF orientation {info.orientation}): drawn on the unturned pixels"
                remedy = "turn the mask as viewers turn the image, or remove the image's EXIF tag"
        assert self.mask_paths is not None
        raise MaskError(str(self.mask_paths[index]), what, remedy, "mask-size-differs")

    def _unknown_values(self, path: str, values: NDArray[np.uint8] | NDArray[np.uint16]) -> MaskError:
        found, counts = np.unique(values, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        shown = ", ".join(f"{found[i]} ({counts[i]} pixels)" for i in order[:5])
        what = f"values that are no class: {shown}{', ...' if len(order) > 5 else ''}"
        ids = sorted(category.id for category in self.categories)
        listed = f"{ids[0]} to {ids[-1]}" if ids == list(range(ids[0], ids[-1] + 1)) else ", ".join(map(str, ids[:20]))
        remedy = f"the classes have the values {listed}: add to the list of classes, or correct the mask"
        return MaskError(path, what, remedy, "mask-values")

    def subset(self, indices: ArrayLike) -> SemanticMasks:
        """The images at these positions (integers, or a boolean mask over all), in that order."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        if len(chosen) and not -len(self) <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"image positions must lie in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        return replace(
            self,
            image_ids=self.image_ids[chosen],
            paths=self.paths[chosen],
            sizes=self.sizes[chosen],
            mask_paths=None if self.mask_paths is None else self.mask_paths[chosen],
            objects=None if self.objects is None else self.objects.subset(chosen),
            pack=take_rows(self.pack, chosen),
        )

    def validate(self, check_images: bool = True, other: SemanticMasks | None = None) -> list[Problem]:
        """Every problem of this set; see `detseg.data.checks.mask_checks.validate_masks`."""
        from detseg.data.checks.mask_checks import validate_masks

        return validate_masks(self, check_images=check_images, other=other)

    def repair(self, problems: Iterable[Problem]) -> tuple[SemanticMasks, list[str]]:
        """Without the images that cannot be used; see `detseg.data.checks.mask_checks.repair_masks`."""
        from detseg.data.checks.mask_checks import repair_masks

        return repair_masks(self, problems)


def match_mask_categories(reference: Sequence[Category], masks: SemanticMasks) -> SemanticMasks:
    """Give `masks` the class order of `reference`, so that equal labels mean equal things.

    Raises:
        AnnotationError: the two lists differ in more than their order; the message names the difference.
    """
    wanted = tuple(reference)
    if wanted == masks.categories:
        return masks
    if set(wanted) != set(masks.categories) or len(wanted) != len(masks.categories):
        raise AnnotationError(category_difference(wanted, masks.categories, masks.source))
    if masks.pack is not None:
        before = np.arange(IGNORE + 1) if masks.pack.labels is None else masks.pack.labels
        now = np.array([wanted.index(category) for category in masks.categories], np.uint8)
        labels = np.where(before < len(now), now[np.minimum(before, len(now) - 1)], before).astype(np.uint8)
        return replace(masks, categories=wanted, pack=masks.pack._replace(labels=labels))
    if masks.objects is None:
        return replace(masks, categories=wanted)
    added = len(wanted) - len(masks.objects.categories)  # the background, if it is not one of theirs
    if wanted[:added] != masks.categories[:added]:
        raise AnnotationError(f"{masks.source}: label 0 of masks drawn from outlines is {masks.categories[0]}")
    return replace(masks, categories=wanted, objects=match_categories(wanted[added:], masks.objects))
