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

from detseg.data.annotations import AnnotationError, Annotations, Category
from detseg.data.formats.assemble import Assembler, box_areas
from detseg.data.formats.format import Sources
from detseg.data.formats.locate import (
    IMAGE_EXTENSIONS,
    WRITTEN_EXTENSIONS,
    FolderCache,
    join,
    locate_images,
    measure_images,
)
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
Locate = Callable[[Sequence[str]], list[str]]


def read_records(
    records: Records, source: Path, folders: Sequence[Path] | Locate, names: Sequence[str] | None = None
) -> Annotations:
    """The data set that records describe.

    Args:
        source: its file or folder, for messages.
        folders: where its images may lie, likeliest first; or what finds the path of each `Record.image`.
        names: its classes, in order; by default the names that occur, in alphabetical order. Their ids are 1..K.
    """
    assembler = Assembler()
    labels = {} if names is None else {name: label for label, name in enumerate(names)}
    images, shares = [], []
    for record in records:
        images.append(record.image)
        shares.append(record.shares)
        assembler.add_image(record.image, record.file or str(source), record.size)
        columns = _columns(record.items)
        if columns is not None:  # mostly, for a million objects
            called, boxes, iscrowd = columns
            if names is None:
                for name in called:
                    labels.setdefault(name, len(labels))
            numbers = [labels.get(name, -1) for name in called]
            if -1 not in numbers:
                assembler.add_boxes(boxes, numbers, iscrowd)
                continue
        for item in record.items:
            if isinstance(item, Fault):
                assembler.add_problem(item.what, item.remedy, item.kind, of_next_object=True)
            else:
                label = labels.setdefault(item.name, len(labels)) if names is None else labels.get(item.name, -1)
                _add(assembler, item, label)
    found = list(labels) if names is None else names
    data = assembler.build([Category(number, name) for number, name in enumerate(found, 1)], source)
    data = with_images(data, images, folders, np.array(shares, bool))
    return data if names is not None else with_names(data, sorted(found))


def with_images(
    data: Annotations, names: Sequence[str], folders: Sequence[Path] | Locate, shares: NDArray[np.bool_]
) -> Annotations:
    """The set with its images found by their `names` (N,) and measured, and the shares of `shares` (N,) in pixels."""
    odd = next((name for name in names if "\0" in name), None)
    if odd is not None:  # no system has such a file
        raise AnnotationError(f"{data.source}: the name of an image holds a zero byte: {odd!r:.100}; correct the file")
    if callable(folders):
        paths = folders(names)
    else:
        bases, cache = list(map(str, folders)), FolderCache()
        paths = locate_images([_with_extension(name, bases, cache) for name in names], folders)
    data = replace(data, paths=np.array(paths, np.str_), sizes=measure_images(paths, data.sizes))
    data = replace(data, read_problems=tuple(replace(p, image=paths[p.image_index]) for p in data.read_problems))
    return _in_pixels(data, shares)


def _columns(items: Sequence[Item | Fault]) -> tuple[list[str], list[Sequence[float]], list[bool]] | None:
    """The names and boxes of objects that are nothing but boxes, and which are ignored; None if some are more."""
    names, boxes, ignored = [], [], []
    for item in items:
        if isinstance(item, Fault):
            return None
        name, box, polygons, mask, iscrowd = item
        if box is None or polygons or mask is not None:
            return None
        names.append(name)
        boxes.append(box)
        ignored.append(iscrowd)
    return names, boxes, ignored


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


def _with_extension(name: str, folders: Sequence[str], cache: FolderCache) -> str:
    """The name as it is, or with the extension of an image that is there: some files leave it out."""
    if name.lower().endswith(IMAGE_EXTENSIONS):
        return name
    above, _, bare = name.replace("\\", "/").rpartition("/")
    for folder in folders:
        for where in (join(folder, above), folder) if above else (folder,):
            there = cache.names(where)
            if bare in there:
                return name
            for extension in WRITTEN_EXTENSIONS:
                if f"{bare}{extension}" in there:
                    return f"{name}{extension}"
    return name


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
    folders: Callable[[str], Sequence[Path] | Locate],
    names: Sequence[str] | None = None,
) -> Sources:
    """The splits, each with its reader; classes that no file lists are those of all splits together.

    `folders(split)` says where the images of a split may lie, or finds them.
    """

    def read(split: str) -> Annotations:
        return read_records(splits[split](), source, folders(split), names)

    sources: Sources = {split: partial(read, split) for split in splits}
    return sources if names is not None else with_shared_names(sources)


def with_shared_names(sources: Mapping[str, Callable[[], Annotations]]) -> Sources:
    """The same splits, all with the same classes: where they differ all that occur, in alphabetical order."""
    if len(sources) == 1:
        return dict(sources)

    @cache
    def everything() -> dict[str, Annotations]:
        found = {split: read() for split, read in sources.items()}
        if len({data.categories for data in found.values()}) == 1:
            return found
        union = sorted({name for data in found.values() for name in data.names})
        return {split: with_names(data, union) for split, data in found.items()}

    return {split: partial(lambda split: everything()[split], split) for split in sources}


def of_every_class(box: Sequence[float], names: Sequence[str]) -> list[Item]:
    """A region in which objects of no class count: an ignored one for each class."""
    return [Item(name, box, iscrowd=True) for name in names]
