"""Shards of results as the detections of annotated images, whose metrics they give."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detseg.cluster.manifest import read_manifest
from detseg.cluster.results import read_all
from detseg.data.coco_ids import TextIds
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
    ids = ImageIds(names)
    seen: dict[int, str | None] = {}  # of the ground truth's images that came: why they could not be read
    others: list[str] = []
    parts: list[Detections] = []
    for address, shard in read_all(folder):
        if len(shard.boxes) != len(shard.scores):
            raise FileError(f"{address}: classes of images and no boxes; `detseg evaluate RUN` measures a classifier")
        numbers = [ids.of(image) for image in shard.images]
        for image, number, error in zip(shard.images, numbers, shard.errors, strict=True):
            if number is None:
                others.append(image)
            elif number in seen:
                raise FileError(f"{address}: {image}: the image with the id {number} has results twice")
            else:
                seen[number] = error
        owners = np.repeat(np.array([-1 if n is None else n for n in numbers], np.int64), shard.counts)
        kept = np.repeat(np.array([n is not None for n in numbers], bool), shard.counts)
        masks = None if shard.masks is None else [mask for mask, keep in zip(shard.masks, kept, strict=True) if keep]
        with reading(address):
            labels = categories[shard.labels[kept]]
            parts.append(Detections(owners[kept], labels, shard.boxes[kept], shard.scores[kept], masks))
    if not seen:
        raise ValueError(f"{folder}: no image of the ground truth has results ({len(others)} other images have)")
    missing = [name for name, number in names.items() if seen.get(number, "") is not None]
    unreadable = [name for name, number in names.items() if seen.get(number) is not None]
    return Matched(_joined(parts), len(names) - len(missing), missing, unreadable, others)


def _joined(parts: list[Detections]) -> Detections:
    def column(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    masks = None
    if any(part.masks is not None for part in parts):
        masks = [mask for part in parts for mask in part.masks or ()]
    return Detections(column("image_ids"), column("category_ids"), column("boxes"), column("scores"), masks)
