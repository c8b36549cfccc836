"""The one in-memory form of an annotated dataset: flat numpy arrays over images and over objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.data.pack.rows import PackRows, take_rows
from detseg.data.polygons import Segments


class AnnotationError(ValueError):
    """An annotation file that cannot be read, or a dataset with problems that must stop the work."""


class Category(NamedTuple):
    """One kind of object: the dataset's own id and name."""

    id: int
    name: str


REPAIRABLE = frozenset(
    {
        # objects that are left out
        "not-finite", "reversed-box", "zero-size-box", "box-outside", "unknown-category", "unknown-image",
        "duplicate-object", "malformed-object",
        # images that are left out, or joined
        "missing-image", "damaged-image", "duplicate-image-id", "in-both-splits", "duplicate-path",
        "missing-mask", "damaged-mask",
        # changed in place
        "box-over-border", "duplicate-object-id", "unrotated", "malformed-outline", "mask-size",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a dataset, and how to mend it.

    Attributes:
        file: the annotation file (for VOC and YOLO the image's own file).
        image: path of the image, or "" when the problem concerns no single image.
        object: annotation id, or None when the problem concerns no single object.
        what: what is wrong.
        remedy: what to do about it.
        severity: "error" stops training, "warning" is only told.
        kind: a short fixed name of the problem, for code.
        image_index, object_index: positions in the `Annotations`, for `repair`; -1 for none.
    """

    file: str
    image: str
    object: int | None
    what: str
    remedy: str
    severity: Literal["error", "warning"] = "error"
    kind: str = ""
    image_index: int = field(default=-1, repr=False)
    object_index: int = field(default=-1, repr=False)

    @property
    def repairable(self) -> bool:
        """Whether `detseg.data.repair` can mend it."""
        return self.kind in REPAIRABLE

    def __str__(self) -> str:
        place = [self.file] if self.file else []
        if self.image:
            place.append(self.image)
        if self.object is not None:
            place.append(f"object {self.object}")
        return f"{', '.join(place)}: {self.what} ({self.remedy})"


@dataclass(frozen=True, eq=False)
class Annotations:
    """A whole dataset split: N images and M objects of K categories.

    Objects are grouped by image: `image_index` never falls, so image i owns the slice `objects(i)`.
    Boxes are xyxy in absolute pixels, half-open, in the files' own precision. `labels` count 0..K-1 in
    the order of `categories`; -1 marks a category id that the file does not list (validation reports it).
    """

    categories: tuple[Category, ...]
    image_ids: NDArray[np.int64]  # (N,) the dataset's own ids
    paths: NDArray[np.str_]  # (N,) ready to open; of a packed set the names the images had
    sizes: NDArray[np.int32]  # (N, 2) width, height; 0 where unknown
    image_index: NDArray[np.int32]  # (M,)
    boxes: NDArray[np.float64]  # (M, 4) xyxy
    labels: NDArray[np.int32]  # (M,)
    iscrowd: NDArray[np.bool_]  # (M,) crowd, or "difficult" in VOC: ignored, not background
    ids: NDArray[np.int64]  # (M,) annotation ids
    areas: NDArray[np.float64]  # (M,) pixels; of the mask where the dataset has one
    segments: Segments | None = None
    source: str = ""  # the file or folder it was read from
    label_files: NDArray[np.str_] | None = None  # (N,) where every image has its own annotation file
    read_problems: tuple[Problem, ...] = ()  # what the reader had to leave out
    pack: PackRows | None = None  # where the images are, if not in files

    def __post_init__(self) -> None:
        images, objects = len(self.image_ids), len(self.image_index)
        expected: dict[str, tuple[int, ...]] = {
            "paths": (images,),
            "sizes": (images, 2),
            "boxes": (objects, 4),
            "labels": (objects,),
            "iscrowd": (objects,),
            "ids": (objects,),
            "areas": (objects,),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Annotations.{name} has shape {getattr(self, name).shape}, expected {shape}")
        if self.pack is not None and len(self.pack.rows) != images:
            raise ValueError(f"Annotations.pack has {len(self.pack.rows)} rows, expected {images}")
        if self.segments is not None and len(self.segments) != objects:
            raise ValueError(f"Annotations.segments describes {len(self.segments)} objects, expected {objects}")
        if objects and (np.diff(self.image_index) < 0).any():
            raise ValueError("Annotations.image_index must not fall: group the objects by image first")
        if objects and not 0 <= self.image_index[0] <= self.image_index[-1] < images:
            raise ValueError(f"Annotations.image_index must lie in 0..{images - 1}")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __repr__(self) -> str:
        return (
            f"Annotations({len(self)} images, {len(self.image_index)} objects, "
            f"{len(self.categories)} categories, source={self.source!r})"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Category names in label order."""
        return tuple(category.name for category in self.categories)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(N + 1,): image i owns objects offsets[i] up to offsets[i + 1]."""
        return np.searchsorted(self.image_index, np.arange(len(self) + 1)).astype(np.int64)

    def objects(self, index: int) -> slice:
        """The objects of image `index`, as a slice into the arrays over objects."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def subset(self, image_indices: ArrayLike) -> Annotations:
        """The images at these positions (integers, or a boolean mask over all), in that order."""
        chosen = np.asarray(image_indices)
        if chosen.dtype == np.bool_:
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64)
        if len(chosen) and not -len(self) <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"image positions must lie in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        chosen = chosen % max(1, len(self))
        counts = np.diff(self.offsets)[chosen]
        starts = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(starts[-1]) + np.repeat(self.offsets[chosen] - starts[:-1], counts)
        kept = self.take_objects(rows, np.repeat(np.arange(len(chosen)), counts), check=False)
        position = {int(image): row for row, image in enumerate(chosen)} if self.read_problems else {}
        return replace(
            self,
            image_ids=self.image_ids[chosen],
            paths=self.paths[chosen],
            sizes=self.sizes[chosen],
            label_files=None if self.label_files is None else self.label_files[chosen],
            read_problems=tuple(
                replace(p, image_index=position.get(p.image_index, -1))
                for p in self.read_problems
                if p.image_index < 0 or p.image_index in position
            ),
            pack=take_rows(self.pack, chosen),
            **kept,
        )

    def take_objects(
        self, rows: NDArray[Any], image_index: NDArray[Any] | None = None, *, check: bool = True
    ) -> dict[str, Any]:
        """The arrays over objects for the objects `rows` (K,), as keyword arguments for `replace`."""
        index = self.image_index[rows] if image_index is None else image_index
        if check and len(index) and (np.diff(index) < 0).any():
            raise ValueError("rows must keep the objects grouped by image")
        return {
            "image_index": index.astype(np.int32),
            "boxes": self.boxes[rows],
            "labels": self.labels[rows],
            "iscrowd": self.iscrowd[rows],
            "ids": self.ids[rows],
            "areas": self.areas[rows],
            "segments": None if self.segments is None else self.segments.take(rows),
        }

    def validate(self, check_images: bool = True, other: Annotations | None = None) -> list[Problem]:
        """Every problem of this dataset; see `detseg.data.checks.validate.validate`."""
        from detseg.data.checks.validate import validate

        return validate(self, check_images=check_images, other=other)

    def repair(self, problems: Iterable[Problem]) -> tuple[Annotations, list[str]]:
        """With what is safely mended; see `detseg.data.checks.validate.repair`."""
        from detseg.data.checks.validate import repair

        return repair(self, problems)


def match_categories(reference: Sequence[Category], annotations: Annotations) -> Annotations:
    """Give `annotations` the category order of `reference`, so that equal labels mean equal things.

    Raises:
        AnnotationError: the two lists differ in more than their order; the message names the difference.
    """
    wanted, found = tuple(reference), annotations.categories
    if wanted == found:
        return annotations
    if set(wanted) != set(found) or len(wanted) != len(found):
        raise AnnotationError(category_difference(wanted, found, annotations.source))
    position = {category: label for label, category in enumerate(wanted)}
    # One entry more than categories: label -1 (unknown) picks the last one and stays -1.
    table = np.array([position[category] for category in found] + [-1], dtype=np.int32)
    return replace(annotations, categories=wanted, labels=table[annotations.labels])


def category_difference(wanted: Sequence[Category], found: Sequence[Category], source: str) -> str:
    """What differs between the categories of training and those of `source`, as the text of an error."""

    def listing(categories: set[Category]) -> str:
        shown = ", ".join(f"{c.id} {c.name!r}" for c in sorted(categories)[:10])
        return f"{shown}{', ...' if len(categories) > 10 else ''}" or "nothing"

    missing, extra = set(wanted) - set(found), set(found) - set(wanted)
    return (
        f"{source}: its categories differ from the training categories. "
        f"Only in training: {listing(missing)}. Only here: {listing(extra)}. "
        "Both files must list the same ids and names (their order may differ)."
    )
