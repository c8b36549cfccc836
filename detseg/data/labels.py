"""Images with one class each: the in-memory form of a classification set, its checks, and its division."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os.path import realpath

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.data.annotations import Annotations, Category, Problem
from detseg.data.checks.annotation_checks import equal_files, image_problem, image_problems, sharing_problems
from detseg.data.pack.rows import PackRows, take_rows

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """N images of K classes, one class to an image.

    `labels` count 0..K-1 in the order of `categories`.
    """

    categories: tuple[Category, ...]
    image_ids: NDArray[np.int64]  # (N,)
    paths: NDArray[np.str_]  # (N,) ready to open; of a packed set the names the images had
    sizes: NDArray[np.int32]  # (N, 2) width, height; 0 where unknown
    labels: NDArray[np.int64]  # (N,)
    source: str = ""  # the file or folder it was read from
    read_problems: tuple[Problem, ...] = ()  # what the reader had to leave out
    pack: PackRows | None = None  # where the images are, if not in files

    def __post_init__(self) -> None:
        images = len(self.image_ids)
        expected = {"paths": (images,), "sizes": (images, 2), "labels": (images,)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"LabelledImages.{name} has shape {getattr(self, name).shape}, expected {shape}")
        if self.pack is not None and self.pack.rows.shape != (images,):
            raise ValueError(f"LabelledImages.pack has {len(self.pack.rows)} rows, expected {images}")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __repr__(self) -> str:
        return f"LabelledImages({len(self)} images of {len(self.categories)} classes, source={self.source!r})"

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(category.name for category in self.categories)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(K,) images of each class."""
        known = self.labels[(self.labels >= 0) & (self.labels < len(self.categories))]
        return np.bincount(known, minlength=len(self.categories)).astype(np.int64)

    def subset(self, indices: ArrayLike) -> LabelledImages:
        """The images at these positions (integers, or a boolean mask over all), in that order.

        Raises:
            IndexError: a position is outside 0..N-1, or the mask has another length.
        """
        chosen = np.asarray(indices)
        if chosen.dtype == np.bool_:
            if chosen.shape != (len(self),):
                raise IndexError(f"the mask has shape {chosen.shape}, expected ({len(self)},)")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64).reshape(-1)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"positions must lie in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        position = {int(image): row for row, image in enumerate(chosen)} if self.read_problems else {}
        return replace(
            self,
            image_ids=self.image_ids[chosen],
            paths=self.paths[chosen],
            sizes=self.sizes[chosen],
            labels=self.labels[chosen],
            read_problems=tuple(
                replace(problem, image_index=position.get(problem.image_index, -1))
                for problem in self.read_problems
                if problem.image_index < 0 or problem.image_index in position
            ),
            pack=take_rows(self.pack, chosen),
        )

    def validate(self, check_images: bool = True, other: LabelledImages | None = None) -> list[Problem]:
        """Every problem of this set, errors first.

        Args:
            check_images: also open every image: it exists, is complete and has the size that was read; and
                find equal files. Without it no image is touched. (Packed images were checked when packed.)
            other: the training set, when this is another split: images in both, and classes that it has no
                images of, are errors.
        """
        as_annotations = _without_objects(self)
        problems = [*self.read_problems, *_class_problems(self, as_annotations, other)]
        problems += _repeats(self, as_annotations)
        if self.pack is None and check_images:
            problems += image_problems(as_annotations)
            problems += _equal_images(self, as_annotations)
        if other is not None:
            shared = sharing_problems(as_annotations, _without_objects(other), read_files=check_images)
            problems += [problem for problem in shared if problem.kind != "duplicate-image"]  # told above
        return sorted(problems, key=lambda problem: problem.severity != "error")

    def repair(self, problems: Iterable[Problem]) -> tuple[LabelledImages, list[str]]:
        """Without the images that have errors, and a sentence about it if there are any."""
        bad = {problem.image_index for problem in problems if problem.severity == "error" and problem.image_index >= 0}
        if not bad:
            return self, []
        told = f"{self.source}: {len(bad)} of {len(self)} images, which have errors, left out"
        return self.subset([row for row in range(len(self)) if row not in bad]), [told]


def _without_objects(images: LabelledImages) -> Annotations:
    """The same images as annotations without objects, for the checks that look at images only."""
    none = np.zeros(0, np.int64)
    return Annotations(
        categories=images.categories,
        image_ids=images.image_ids,
        paths=images.paths,
        sizes=images.sizes,
        image_index=none.astype(np.int32),
        boxes=np.zeros((0, 4)),
        labels=none.astype(np.int32),
        iscrowd=none.astype(bool),
        ids=none,
        areas=none.astype(np.float64),
        source=images.source,
        pack=images.pack,
    )


def _class_problems(
    images: LabelledImages, as_annotations: Annotations, other: LabelledImages | None
) -> Iterator[Problem]:
    """Too few classes, classes without images, labels of no class, classes that training has none of."""
    classes = len(images.categories)
    for row in np.flatnonzero((images.labels < 0) | (images.labels >= classes)):
        what = f"label {images.labels[row]} is not among the {classes} classes"
        yield image_problem(as_annotations, int(row), what, "add the class or remove the image", "unknown-category")
    if classes < 2:
        what, remedy = f"a classifier needs at least two classes, there is {classes or 'none'}", "add another class"
        yield Problem(images.source, "", None, what, remedy, kind="one-class")
    names = images.names
    for name in sorted({name for name in names if names.count(name) > 1}):
        what = f"{names.count(name)} classes are named {name!r}"
        yield Problem(images.source, "", None, what, "give each its own name", "warning", "category")
    there = None if other is None else dict(zip(other.names, other.counts.tolist(), strict=True))
    for name, count in zip(names, images.counts.tolist(), strict=True):
        if not count:
            remedy = "add images of it, or nothing can be learnt or told of it"
            yield Problem(images.source, "", None, f"there are no images of {name!r}", remedy, "warning", "no-images")
        elif there is not None and other is not None and not there.get(name):
            what = f"{count} images of {name!r}, of which {other.source} has none"
            yield Problem(images.source, "", None, what, "add it to both or remove it", kind="not-in-training")


def _repeats(images: LabelledImages, as_annotations: Annotations) -> Iterator[Problem]:
    """Images and image ids listed twice."""
    first_id: dict[int, int] = {}
    first_path: dict[str, int] = {}
    # A packed set's paths are names only; what is not a file has no place to compare.
    places = images.paths.tolist() if images.pack else [realpath(path) for path in images.paths.tolist()]
    for row, (image_id, place) in enumerate(zip(images.image_ids.tolist(), places, strict=True)):
        if first_id.setdefault(image_id, row) != row:
            what = f"image id {image_id} is given to an earlier image too"
            yield image_problem(as_annotations, row, what, "give every image its own id", "duplicate-image-id")
        first = first_path.setdefault(place, row)
        if first != row:
            yield _same_image(images, as_annotations, first, row, "the image is listed twice", "duplicate-path")


def _equal_images(images: LabelledImages, as_annotations: Annotations) -> Iterator[Problem]:
    """Different files with the same content."""
    paths = images.paths.tolist()
    for group in equal_files(paths):
        for row in group[1:]:
            if realpath(paths[row]) != realpath(paths[group[0]]):
                what = f"the same image as {paths[group[0]]}"
                yield _same_image(images, as_annotations, group[0], row, what, "duplicate-image")


def _same_image(
    images: LabelledImages, as_annotations: Annotations, first: int, row: int, what: str, kind: str
) -> Problem:
    """An image that is there twice: harmless with the same class, a contradiction with two."""
    a, b = int(images.labels[first]), int(images.labels[row])
    if a == b:
        return image_problem(as_annotations, row, what, "keep one of the two", kind, "warning")
    names = dict(enumerate(images.names))
    what += f", as {names.get(a, a)!r} and as {names.get(b, b)!r}"
    return image_problem(as_annotations, row, what, "keep the one that is right", "two-classes")


# ------------------------------------------------------------------ division


def divide(keys: Sequence[str], labels: NDArray[np.int64], shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Divide images into splits by rule: which split each of them belongs to.

    Stratified: every class is divided in these shares, to the nearest image, and the rounding of one class is
    made good in the next. Training comes first: of a class with one image it gets that one, and no split with a
    share goes without a class that has enough images for all.

    Which images of a class go where is decided by hashes of `seed` and their keys. So the same images are
    divided alike on every machine, whatever the order in which its file system lists them.

    Args:
        keys: N names, such as paths within the data set, each another.
        labels: (N,).
        shares: of the splits; above 0, together 1.
        seed: another one divides otherwise.

    Returns:
        (N,) positions in `shares`.

    Raises:
        ValueError: the shares are not such.
    """
    portions = np.asarray(shares, np.float64)
    if portions.ndim != 1 or not len(portions) or not (portions > 0).all() or abs(portions.sum() - 1) > 1e-6:
        raise ValueError(f"shares of the splits must be above 0 and together 1, such as 0.75 0.15 0.10, not {shares}")
    hashes = [hashlib.blake2b(f"{seed}/{unicodedata.normalize('NFC', key)}".encode()).hexdigest() for key in keys]
    order = np.array(sorted(range(len(keys)), key=lambda row: (labels[row], hashes[row])), np.int64)
    result = np.zeros(len(keys), np.int64)
    owed = np.zeros(len(portions))
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        exact = len(members) * portions
        counts = np.floor(exact + 1e-9).astype(np.int64)
        owed += exact - counts
        for _ in range(len(members) - int(counts.sum())):
            most = int(np.argmax(owed - (counts > exact)))  # of one class no split gets two to make good
            counts[most] += 1
            owed[most] -= 1
        _leave_none_empty(counts)
        result[members] = np.repeat(np.arange(len(portions)), counts)
    return result


def _leave_none_empty(counts: NDArray[np.int64]) -> None:
    """Give each split one image of a class, the first ones first, while another has one to spare; in place."""
    for split in range(len(counts)):
        richest = int(counts.argmax())
        if counts[split] == 0 and counts[richest] > 1:
            counts[richest] -= 1
            counts[split] += 1
    if counts[0] == 0 and counts.sum():  # a single image
        counts[:] = np.eye(1, len(counts), dtype=np.int64)[0]
