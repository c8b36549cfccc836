"""Puts what a reader collects into a data set: images with objects (VOC, YOLO), images with one class each."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import AnnotationError, Annotations, Category, Problem
from detseg.data.formats.locate import first_file, measure_images, read_names
from detseg.data.polygons import SegmentsBuilder

if TYPE_CHECKING:
    from detseg.data.labels import LabelledImages


MOST_SIDE = 2**31 - 1  # pixels, as int32 holds


def known_size(size: tuple[int, int]) -> tuple[int, int]:
    """The width and height that a file gives; zeros, to measure the image, where no image has them."""
    return size if all(0 < side <= MOST_SIDE for side in size) else (0, 0)


class Assembler:
    """Collects images one after another, each with its objects, and builds `Annotations`."""

    def __init__(self) -> None:
        self.segments = SegmentsBuilder()
        self.problems: list[Problem] = []
        self._paths: list[str] = []
        self._files: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        self._image_index = array("i")
        self._boxes = array("d")
        self._labels = array("i")
        self._iscrowd = array("b")

    def add_image(self, path: str, file: str, size: tuple[int, int]) -> None:
        """Add an image: its path, the annotation file it may have, its width and height as that gives them."""
        self._paths.append(path)
        self._files.append(file)
        self._sizes.append(known_size(size))

    def add_object(self, box: Sequence[float], label: int, iscrowd: bool = False) -> None:
        """Add an object to the latest image. The caller adds its polygons, or nothing, to `segments`."""
        self._image_index.append(len(self._paths) - 1)
        self._boxes.extend(box)
        self._labels.append(label)
        self._iscrowd.append(iscrowd)

    def add_boxes(self, boxes: Sequence[Sequence[float]], labels: Sequence[int], iscrowd: Sequence[bool]) -> None:
        """Add objects that are nothing but boxes to the latest image, and nothing to `segments` for each."""
        self._image_index.extend([len(self._paths) - 1] * len(boxes))
        self._boxes.extend(chain.from_iterable(boxes))
        self._labels.extend(labels)
        self._iscrowd.extend(iscrowd)
        self.segments.add_nothing(len(boxes))

    def add_problem(
        self, what: str, remedy: str, kind: str, *, of_next_object: bool = False, category: int | None = None
    ) -> None:
        """Note an error of the latest image, or of the object that is added to it next, of an unknown `category`."""
        row = len(self._paths) - 1
        number = len(self._image_index) + 1 if of_next_object else None
        place = (self._files[row], self._paths[row], number)
        self.problems.append(Problem(*place, what, remedy, kind=kind, image_index=row, category=category))

    def build(self, categories: Sequence[Category], source: Path) -> Annotations:
        """The dataset. Images and objects are numbered from 1 in reading order."""
        boxes = np.array(self._boxes, dtype=np.float64).reshape(-1, 4)
        return Annotations(
            categories=tuple(categories),
            image_ids=np.arange(1, len(self._paths) + 1, dtype=np.int64),
            paths=np.array(self._paths, dtype=np.str_),
            sizes=np.array(self._sizes, dtype=np.int32).reshape(-1, 2),
            image_index=np.array(self._image_index, dtype=np.int32),
            boxes=boxes,
            labels=np.array(self._labels, dtype=np.int32),
            iscrowd=np.array(self._iscrowd, dtype=np.bool_),
            ids=np.arange(1, len(boxes) + 1, dtype=np.int64),
            areas=box_areas(boxes),
            segments=self.segments.build(),
            source=str(source),
            label_files=np.array(self._files, dtype=np.str_),
            read_problems=tuple(self.problems),
        )


def box_areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas (M,) of boxes (M, 4) xyxy."""
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf; validation reports such boxes
        return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


# ------------------------------------------------------------------ one class an image


def label_classes(found: set[str], root: Path) -> tuple[Category, ...]:
    """The classes in the order of a class file; without one sorted, as numbers if all are numbers."""
    file = first_file([root], ("classes.txt", "labels.txt"))
    numbers = {number: word for word in sorted(found) if (number := _number(word)) is not None}
    all_numbers = all(_number(word) is not None for word in found)
    if file is None and all_numbers:
        return tuple(Category(number, numbers[number]) for number in sorted(numbers))
    names = sorted(found) if file is None else read_names(file)
    categories = tuple(Category(position, name) for position, name in enumerate(names))
    unknown = sorted(found - set(names))
    if len(unknown) == len(found) and all_numbers and all(0 <= number < len(names) for number in numbers):
        return categories  # numbers that count the list from 0
    if unknown:
        shown = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        raise AnnotationError(f"{file}: does not list the classes {shown}; add them, or remove the file")
    return categories


def _number(word: str) -> int | None:
    digits = word.removeprefix("-")
    return int(word) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None  # as an int64 holds


def labelled_images(
    paths: Sequence[str],
    words: Sequence[str],
    categories: tuple[Category, ...],
    source: str,
    problems: tuple[Problem, ...] = (),
) -> LabelledImages:
    """The images at `paths` (N,) with the classes that `words` (N,) name, by name or number."""
    from detseg.data.labels import LabelledImages  # here: it brings OpenCV

    by_name = {category.name: position for position, category in enumerate(categories)}
    by_id = {category.id: position for position, category in enumerate(categories)}
    labels = [by_name[word] if word in by_name else by_id[_number(word)] for word in words]  # type: ignore[index]
    return LabelledImages(
        categories=categories,
        image_ids=np.arange(len(paths), dtype=np.int64),
        paths=np.array(paths, dtype=np.str_),
        sizes=measure_images(paths, np.zeros((len(paths), 2), np.int32)),
        labels=np.array(labels, dtype=np.int64),
        source=source,
        read_problems=problems,
    )
