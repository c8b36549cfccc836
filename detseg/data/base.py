"""What the in-memory forms of all tasks have in common: a list of images, as flat arrays, and a list of categories."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.data.checks.problems import AnnotationError, Problem

Track = Callable[[Iterable[int], int], Iterable[int]]
"""Wraps an iterable of known length to show progress."""


class Category(NamedTuple):
    """One kind of object: the dataset's own id and name."""

    id: int
    name: str


class PackRows(NamedTuple):
    """Rows of a split of a packed file, one for each of N images; see `detseg.data.pack.file`."""

    file: str
    split: str
    rows: NDArray[np.int64]  # (N,)
    labels: NDArray[np.uint8] | None = None  # (256,) of masks: the label that a stored one means, if not itself


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSet:
    """N images of one split, with K categories. Flat arrays: worker processes share their memory."""

    categories: tuple[Category, ...]
    image_ids: NDArray[np.int64]  # (N,) the dataset's own ids
    paths: NDArray[np.str_]  # (N,) ready to open; of a packed set the names the images had
    sizes: NDArray[np.int32]  # (N, 2) width, height of the upright image; 0 where unknown
    source: str = ""  # the file or folder it was read from
    read_problems: tuple[Problem, ...] = ()  # what the reader had to leave out
    pack: PackRows | None = None  # where the images are, if not in files
    channels: int = 3  # that images are read with: 3 for RGB, 1 for grey, more for the bands of TIFF files

    def __post_init__(self) -> None:
        self._require_shapes(paths=(len(self),), sizes=(len(self), 2))
        if self.pack is not None and len(self.pack.rows) != len(self):
            raise ValueError(f"{type(self).__name__}.pack has {len(self.pack.rows)} rows, expected {len(self)}")

    def _require_shapes(self, **expected: tuple[int, ...]) -> None:
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{type(self).__name__}.{name} has shape {array.shape}, expected {shape}")

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def names(self) -> tuple[str, ...]:
        """Category names in label order."""
        return tuple(category.name for category in self.categories)

    def file_of(self, image: int) -> str:
        """The file with the annotations of the image at a position."""
        return self.source

    def subset(self, images: ArrayLike) -> Self:
        """The images at these positions (integers, or a boolean mask over all), in that order; or IndexError."""
        chosen = np.asarray(images)
        if chosen.dtype == np.bool_:
            if chosen.shape != (len(self),):
                raise IndexError(f"the mask has shape {chosen.shape}, expected ({len(self)},)")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64).reshape(-1)
        if len(chosen) and not -len(self) <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"image positions must lie in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        return replace(self, **self._take(chosen % max(1, len(self))))

    def _take(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        """The fields that belong to images, for those at positions `chosen` (n,), 0..N-1."""
        position = {int(image): row for row, image in enumerate(chosen)} if self.read_problems else {}
        return {
            "image_ids": self.image_ids[chosen],
            "paths": self.paths[chosen],
            "sizes": self.sizes[chosen],
            "read_problems": tuple(
                replace(problem, image_index=position.get(problem.image_index, -1))
                for problem in self.read_problems
                if problem.image_index < 0 or problem.image_index in position
            ),
            "pack": None if self.pack is None else self.pack._replace(rows=self.pack.rows[chosen]),
        }

    def match(self, reference: Iterable[Category]) -> Self:
        """The same with the category order of `reference`, so that equal labels mean equal things.

        AnnotationError names the difference if the two lists differ in more than their order.
        """
        wanted = tuple(reference)
        if wanted == self.categories:
            return self
        if set(wanted) != set(self.categories) or len(wanted) != len(self.categories):
            raise AnnotationError(category_difference(wanted, self.categories, self.source))
        position = {category: label for label, category in enumerate(wanted)}
        return self._relabel(wanted, np.array([position[category] for category in self.categories], np.int64))

    def _relabel(self, categories: tuple[Category, ...], table: NDArray[np.int64]) -> Self:
        """The same with other categories; `table` (K,) has the new label of each old one."""
        raise NotImplementedError


Set = TypeVar("Set", bound=ImageSet)


def match_categories(reference: Iterable[Category], data: Set) -> Set:
    """`ImageSet.match`, for where a function is wanted."""
    return data.match(reference)


def with_channels(data: Set, channels: int) -> Set:
    """The set, its images read with so many channels; ValueError if it is packed with other ones."""
    if data.pack is not None and channels != 3:
        raise ValueError(
            f"{data.pack.file}: packed images have 3 channels, not {channels}; train on the files themselves"
        )
    return replace(data, channels=channels)


def refuse_pack(pack: PackRows | None) -> None:
    """Raise ValueError if images are packed, where the files they were made from are needed."""
    if pack is not None:
        raise ValueError(f"{pack.file}: holds resized images, not their files; give the data that it was made from")


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
