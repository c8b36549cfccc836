"""Annotations from records: a reader says what its files hold, image by image, and this page does the rest.

The rest: images are found and measured, shares become pixels, class names get labels that agree over all splits, and
what a reader cannot use is reported as a problem.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations, Category
from detseg.data.formats.assemble import Assembler, box_areas
from detseg.data.formats.format import Sources
from detseg.data.formats.locate import locate_images, measure_images
from detseg.data.polygons import can_be_drawn

NO_BOX = (0.0, 0.0, 0.0, 0.0)


class RunLengths(NamedTuple):
    """A mask of `height` x `width` as COCO's run lengths, compressed (text) or plain (numbers)."""

    height: int
    width: int
    counts: str | bytes | Sequence[int]


class Item(NamedTuple):
    """An object: its class by name and a box, polygons, or a mask."""

    name: str
    box: Sequence[float] | None = None  # xyxy, half-open; None: the box of its polygons or mask
    polygons: Sequence[Sequence[float]] = ()  # each x1, y1, x2, y2, ...
    mask: RunLengths | None = None
    iscrowd: bool = False  # ignored: neither object nor background


class Fault(NamedTuple):
    """What stands in the place of an object that cannot be used."""

    what: str
    remedy: str = "correct or remove it"
    kind: str = "malformed-object"


class Record(NamedTuple):
    """An image and its objects, as the files have them."""

    image: str  # its name, with folders or a web address as it may come
    items: Sequence[Item | Fault] = ()
    size: tuple[int, int] = (0, 0)  # width, height; zeros: measure the image
    file: str = ""  # its annotation file, where it is not the set's
    shares: bool = False  # coordinates are shares of width and height, not pixels


Records = Iterable[Record]


def read_records(
    records: Records, source: Path, folders: Sequence[Path], names: Sequence[str] | None = None
) -> Annotations:
    """The data set that records describe.

    Args:
        source: its file or folder, for messages.
        folders: where its images may lie, likeliest first.
        names: its classes, in order; by default the names that occur, in alphabetical order. Their ids are 1..K.
    """
    assembler = Assembler()
    labels = {} if names is None else {name: label for label, name in enumerate(names)}
    images, shares = [], []
    for record in records:
        images.append(record.image)
        shares.append(record.shares)
        assembler.add_image(record.image, record.file or str(source), record.size)
        for item in record.items:
            if isinstance(item, Fault):
                assembler.add_problem(item.what, item.remedy, item.kind, of_next_object=True)
            else:
                label = labels.setdefault(item.name, len(labels)) if names is None else labels.get(item.name, -1)
                _add(assembler, item, label)
    found = list(labels) if names is None else names
    data = assembler.build([Category(number, name) for number, name in enumerate(found, 1)], source)
    paths = locate_images(images, folders)
    data = replace(data, paths=np.array(paths, np.str_), sizes=measure_images(paths, data.sizes))
    data = replace(data, read_problems=tuple(replace(p, image=paths[p.image_index]) for p in data.read_problems))
    data = _in_pixels(data, np.array(shares, bool))
    return data if names is not None else with_names(data, sorted(found))


def _add(assembler: Assembler, item: Item, label: int) -> None:
    if label < 0:
        what, remedy = f"the class {item.name!r} is not in the list of classes", "add it to the list, or correct it"
        assembler.add_problem(what, remedy, "unknown-category", of_next_object=True)
    usable = [polygon for polygon in item.polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
    usable = [polygon for polygon in usable if can_be_drawn(polygon)]
    if len(usable) < len(item.polygons):
        what = f"{len(item.polygons) - len(usable)} of {len(item.polygons)} polygons enclose nothing or are not finite"
        assembler.add_problem(what, "correct them; they are left out", "malformed-outline", of_next_object=True)
    box = item.box
    if box is None:
        box = _box_of(usable, item.mask)
    if box is None:
        assembler.add_problem(
            f"{item.name!r} has neither box nor polygon nor mask", "draw it, or remove it", "malformed-object"
        )
        return
    assembler.add_object(box, label, item.iscrowd)
    if item.mask is not None:
        assembler.segments.add_rle(*item.mask)
    else:
        assembler.segments.add_polygons(usable)


def _box_of(polygons: Sequence[Sequence[float]], mask: RunLengths | None) -> Sequence[float] | None:
    if polygons:
        xs, ys = ([v for polygon in polygons for v in polygon[axis::2]] for axis in (0, 1))
        return min(xs), min(ys), max(xs), max(ys)
    if mask is None:
        return None
    from pycocotools import mask as coco

    code = {"size": [mask.height, mask.width], "counts": mask.counts}
    if not isinstance(mask.counts, (str, bytes)):
        code = coco.frPyObjects({**code, "counts": list(mask.counts)}, mask.height, mask.width)
    x, y, width, height = coco.toBbox(code).tolist()
    return x, y, x + width, y + height


def _in_pixels(data: Annotations, shares: NDArray[np.bool_]) -> Annotations:
    """The set with boxes and polygons of the images in `shares` (N,) multiplied by the image's size.

    The size of an image that cannot be read is unknown: its boxes stay shares, validation reports it.
    """
    if not shares.any():
        return data
    scale = np.where(shares[:, None] & (data.sizes > 0), data.sizes, 1).astype(np.float64)
    boxes = data.boxes * np.tile(scale, 2)[data.image_index]
    segments = data.segments
    if segments is not None:
        owners = np.repeat(data.image_index, np.diff(segments.polygon_offsets))
        owners = np.repeat(owners, np.diff(segments.point_offsets))
        segments = replace(segments, points=segments.points * scale[owners])
    return replace(data, boxes=boxes, areas=box_areas(boxes), segments=segments)


def with_names(data: Annotations, names: Sequence[str]) -> Annotations:
    """The set with these classes, which hold all of its own, as 1..K."""
    position = {name: label for label, name in enumerate(names)}
    table = np.array([*(position[name] for name in data.names), -1], np.int32)
    categories = tuple(Category(number, name) for number, name in enumerate(names, 1))
    return replace(data, categories=categories, labels=table[data.labels])


def record_sources(
    splits: Mapping[str, Callable[[], Records]],
    source: Path,
    folders: Callable[[str], Sequence[Path]],
    names: Sequence[str] | None = None,
) -> Sources:
    """The splits, each with its reader; classes that no file lists are those of all splits together.

    `folders(split)` says where the images of a split may lie.
    """

    def read(split: str) -> Annotations:
        return read_records(splits[split](), source, folders(split), names)

    if names is not None or len(splits) == 1:
        return {split: partial(read, split) for split in splits}

    @cache
    def everything() -> dict[str, Annotations]:
        found = {split: read(split) for split in splits}
        union = sorted({name for data in found.values() for name in data.names})
        return {split: with_names(data, union) for split, data in found.items()}

    return {split: partial(lambda split: everything()[split], split) for split in splits}
