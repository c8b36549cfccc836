"""Shards of results as the detections, or the classes of pixels, of annotated images, whose metrics they give."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detseg.cluster.manifest import read_manifest
from detseg.cluster.results import REMEDY, Columns, read_all
from detseg.data.coco_ids import TextIds
from detseg.data.formats.outlines import is_mask
from detseg.json_text import read_json
from detseg.metrics.detection.inputs import Detections
from detseg.reading import FileError, reading


class _Image(msgspec.Struct):
    id: int | str
    file_name: str = ""


class _Images(msgspec.Struct):
    images: list[_Image]


@dataclass(frozen=True)
class Matched:
    """Detections of the images that the ground truth lists.

    Attributes:
        detections: with the ids of the ground truth's images.
        found: images of the ground truth that have results.
        missing: those that have none, which count as images in which nothing is found.
        unreadable: of the missing ones those that could not be read.
        others: images with results that the ground truth does not list, which are left out.
    """

    detections: Detections
    found: int
    missing: list[str]
    unreadable: list[str]
    others: list[str]


@dataclass(frozen=True)
class ClassMasks:
    """What is seen in an image.

    Attributes:
        address: of the shard.
        labels: (D,) those that are there.
        masks: (D,) COCO run lengths of each.
    """

    address: str
    labels: list[int]
    masks: list[dict[str, Any]]

    def label_map(self, height: int, width: int) -> NDArray[np.uint8]:
        """(H, W) the label of every pixel; raises FileError where the masks are of other images or leave some out."""
        from pycocotools import mask as coco

        result, masks = np.zeros((2, height, width), np.uint8)  # and how many masks each pixel is in
        for label, mask in zip(self.labels, self.masks, strict=True):
            if mask["size"] != [height, width] or not is_mask(height, width, mask["counts"]):
                size = f"the {width} x {height} pixels of its image"
                raise FileError(f"{self.address}: a mask is not of {size} ({REMEDY})")
            inside = coco.decode(mask)
            result[inside > 0] = label
            masks += inside
        if (masks != 1).any():
            raise FileError(f"{self.address}: the masks of an image do not divide its pixels among them ({REMEDY})")
        return result


class ImageIds:
    """The ids of images by what they are called: by the whole name, its last parts, or the file's name if one image
    alone has it; where names are ids, by these.

    Args:
        names: ids by the names that the ground truth has.
    """

    def __init__(self, names: Mapping[str, int]) -> None:
        self.names = {name.replace("\\", "/"): number for name, number in names.items()}
        self._ids = {str(number): number for number in names.values()}
        self._bare: dict[str, int | None] = {}
        for name, number in self.names.items():
            bare = name.rpartition("/")[2]
            self._bare[bare] = None if bare in self._bare else number

    def of(self, image: str) -> int | None:
        """The id of an image, None if there is none of its name, or are several."""
        parts = image.replace("\\", "/").split("/")
        for start in range(len(parts)):
            if (number := self.names.get("/".join(parts[start:]))) is not None:
                return number
        number = self._bare.get(parts[-1])
        return self._ids.get(image) if number is None else number


def image_names(truth: Any) -> dict[str, int]:
    """The ids of the images of a COCO file, given its path, or of `detseg.data.Annotations`, by their names.

    Raises:
        FileError: it is no such file, or two of its images have one name.
    """
    if not isinstance(truth, str | Path):
        return dict(zip(map(str, truth.paths), truth.image_ids.tolist(), strict=True))
    images = read_json(Path(truth), _Images).images
    texts = TextIds.of([image.id for image in images])
    names = {image.file_name or str(image.id): int(texts.number(image.id)) for image in images}
    if len(names) < len(images):
        raise FileError(f"{truth}: images: two have the same file_name; results are matched by it: correct it")
    return names


def detections_in(folder: str, names: Mapping[str, int]) -> Matched:
    """The detections in a folder of shards, whatever their number and order.

    Args:
        folder: of one prediction, see `detseg.cluster.manifest`.
        names: see `image_names`.

    Raises:
        ValueError: a shard cannot be read, an image has results twice, or none is of an image of the ground truth.
    """
    categories = np.array([number for number, _ in read_manifest(folder).categories], np.int64)
    seen, parts = _Seen(names), list[Detections]()
    for address, shard in read_all(folder):
        if len(shard.boxes) != len(shard.scores):
            raise FileError(f"{address}: no boxes of its {len(shard.scores)} results ({REMEDY})")
        _require_labels(shard, len(categories), address)
        numbers = seen.add(address, shard)
        owners = np.repeat(np.array([-1 if n is None else n for n in numbers], np.int64), shard.counts)
        kept = np.repeat(np.array([n is not None for n in numbers], bool), shard.counts)
        masks = None if shard.masks is None else [mask for mask, keep in zip(shard.masks, kept, strict=True) if keep]
        with reading(address):
            labels = categories[shard.labels[kept]]
            parts.append(Detections(owners[kept], labels, shard.boxes[kept], shard.scores[kept], masks))
    missing = seen.missing(folder)
    unreadable = [name for name in missing if seen.errors.get(names[name]) is not None]
    return Matched(_joined(parts), len(names) - len(missing), missing, unreadable, seen.others)


def class_masks_in(folder: str, names: Mapping[str, int]) -> dict[int, ClassMasks]:
    """What is seen in each image of the ground truth, by its id.

    Args:
        folder: of one prediction, see `detseg.cluster.manifest`.
        names: see `image_names`.

    Raises:
        ValueError: a shard cannot be read, or an image has results twice or none.
    """
    seen, found, classes = _Seen(names), dict[int, ClassMasks](), len(read_manifest(folder).categories)
    for address, shard in read_all(folder):
        _require_labels(shard, classes, address)
        numbers = seen.add(address, shard)
        if len(shard.masks or ()) != len(shard.labels):
            raise FileError(f"{address}: no masks of its {len(shard.labels)} classes ({REMEDY})")
        stops = np.cumsum(shard.counts).tolist()
        for number, start, stop in zip(numbers, [0, *stops], stops, strict=False):
            if number is not None:
                own = slice(start, stop)
                found[number] = ClassMasks(address, shard.labels[own].tolist(), (shard.masks or [])[own])
    if missing := seen.missing(folder):
        count = f"{len(missing)} of {len(names)} images of the ground truth"
        raise ValueError(f"{folder}: {count} have no results, or could not be read; the first is {missing[0]}")
    return found


def _require_labels(shard: Columns, classes: int, address: str) -> None:
    """Raise FileError unless every result has a label that the manifest lists."""
    odd = shard.labels[(shard.labels < 0) | (shard.labels >= classes)]
    if len(odd):
        raise FileError(f"{address}: the label {odd[0]}; the manifest lists {classes} categories ({REMEDY})")


class _Seen:
    """The images that have results, by the names that the ground truth has."""

    def __init__(self, names: Mapping[str, int]) -> None:
        self.names, self._ids = names, ImageIds(names)
        self.errors: dict[int, str | None] = {}  # of the ground truth's images that came: why they could not be read
        self.others: list[str] = []  # that it does not list

    def add(self, address: str, shard: Columns) -> list[int | None]:
        """Add a shard; returns the id of each of its images. Raises FileError where one was there already."""
        numbers = [self._ids.of(image) for image in shard.images]
        for image, number, error in zip(shard.images, numbers, shard.errors, strict=True):
            if number is None:
                self.others.append(image)
            elif number in self.errors:
                raise FileError(f"{address}: {image}: the image with the id {number} has results twice")
            else:
                self.errors[number] = error
        return numbers

    def missing(self, folder: str) -> list[str]:
        """The images of which nothing is known in the end; raises ValueError where it is all of them."""
        if not self.errors:
            others = f"{len(self.others)} other images have"
            raise ValueError(f"{folder}: no image of the ground truth has results ({others})")
        return [name for name, number in self.names.items() if self.errors.get(number, "") is not None]


def _joined(parts: list[Detections]) -> Detections:
    def column(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    masks = None
    if any(part.masks is not None for part in parts):
        masks = [mask for part in parts for mask in part.masks or ()]
    return Detections(column("image_ids"), column("category_ids"), column("boxes"), column("scores"), masks)
