"""YOLO text labels: reader and writer.

One text file per image, one object per line: "class x_centre y_centre width height", or
"class x1 y1 x2 y2 ..." for a polygon, all as shares of the image. data.yaml names the classes and splits.
Format: https://docs.ultralytics.com/datasets/detect/
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from detseg.box_formats import convert_boxes
from detseg.data.annotations import AnnotationError, Annotations, Category
from detseg.data.formats.assemble import Assembler
from detseg.data.formats.format import SPLITS, Format, Sources
from detseg.data.formats.locate import (
    IMAGE_EXTENSIONS,
    PlaceImages,
    by_last_parts,
    first_file,
    image_targets,
    list_images,
    measure_images,
    place_images,
    read_lines,
    split_folders,
    unique_stems,
)
from detseg.data.formats.yolo_yaml import YAML_NAMES, class_names, find_yaml, load_yaml, read_yaml
from detseg.files import write_atomically

log = logging.getLogger(__name__)

NAME_FILES = ("classes.txt", "labels.txt", "obj.names")
MOST_CLASSES = 2**31
PIXELS = 1.5  # a share of the image above this was surely meant in pixels


# ------------------------------------------------------------------ finding


def _find(path: Path, images: str | Path | None) -> Sources | None:
    if path.is_dir():
        file = find_yaml(path)
        splits = {} if file is not None else _splits(path)
    else:
        file = path if path.suffix.lower() in (".yaml", ".yml") else None
        splits = {"": [path]} if path.suffix.lower() == ".txt" else {}
    if file is not None:
        data = read_yaml(file)
        return {
            split: partial(read_yolo, places, data.names, file, data.keypoint_numbers)
            for split, places in data.splits.items()
        }
    return _sources(splits, path) if splits else None


def _splits(folder: Path) -> dict[str, list[Path]]:
    """The splits of a folder without data.yaml; "" where there are none."""
    lists = {split: [folder / f"{split}.txt"] for split in SPLITS if (folder / f"{split}.txt").is_file()}
    divided = {split: [images] for split, (images, _) in split_folders(folder, "images", "labels").items()}
    if lists or divided:
        return lists or divided
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return {"": [folder / "images"]}
    beside = any(
        file.suffix.lower() in IMAGE_EXTENSIONS and file.with_suffix(".txt").is_file() for file in folder.iterdir()
    )
    return {"": [folder]} if beside else {}


def _sources(splits: dict[str, list[Path]], source: Path) -> Sources:
    """Each split with its reader. Unnamed classes are counted over all splits, so that the splits agree about them."""
    names = names_nearby(next(iter(splits.values())))
    if names is not None:
        return {split: partial(read_yolo, places, names, source) for split, places in splits.items()}

    @cache
    def everything() -> dict[str, Annotations]:
        found = {split: read_yolo(places, source=source) for split, places in splits.items()}
        categories = max((data.categories for data in found.values()), key=len)
        return {split: replace(data, categories=categories) for split, data in found.items()}

    def read(split: str) -> Annotations:
        return everything()[split]

    return {split: partial(read, split) for split in splits}


# ------------------------------------------------------------------ reading


def read_yolo(
    places: Sequence[Path],
    names: Sequence[str] | None = None,
    source: str | Path | None = None,
    keypoint_numbers: int = 0,
) -> Annotations:
    """Read YOLO labels of images.

    Label files are looked for where `images` in the image's path is replaced by `labels`, and beside the
    image. An image without label file has no objects. Category ids are the class numbers 0..K-1.

    Args:
        places: folders of images, text files that list images, or images; AnnotationError if there is no image.
        names: class names; without them classes.txt is looked for nearby, else the numbers serve as names.
        source: what to call the dataset in messages.
        keypoint_numbers: how many numbers of key points follow the box in lines for poses; they are left out.
    """
    images = [image for place in places for image in _images(place)]
    if not images:
        looked = ", ".join(str(place) for place in places)
        raise AnnotationError(f"{looked}: no images with the extensions {' '.join(IMAGE_EXTENSIONS)}")
    rows = [_label_file(image) for image in images]
    sizes = measure_images(images, np.zeros((len(images), 2), np.int32)).tolist()
    assembler, highest = Assembler(), -1
    known = names if names is not None else names_nearby(places)
    for image, file, size in zip(images, rows, sizes, strict=True):
        assembler.add_image(image, file, size)
        if Path(file).is_file():
            highest = max(highest, _read_labels(Path(file), size, known, keypoint_numbers, assembler))
    if known is None:
        known = [str(number) for number in range(highest + 1)]
    categories = [Category(number, name) for number, name in enumerate(known)]
    return assembler.build(categories, Path(source if source is not None else places[0]))


def _images(place: Path) -> list[str]:
    if place.is_dir():
        return list_images(place)
    if place.suffix.lower() != ".txt":
        return [str(place)]
    return [_listed(line, place.parent) for line in read_lines(place)]


def _listed(line: str, folder: Path) -> str:
    """The image that a line of a list in `folder` means."""
    line = line.replace("\\", "/")
    beside = os.path.normpath(folder / line)
    if Path(beside).is_file():
        return beside
    if Path(line).is_file():
        return line
    # Lists name folders of the machine they come from, or (CVAT) one around the list.
    return str(by_last_parts(line, [folder]) or beside)


def _label_file(image: str) -> str:
    stem = os.path.splitext(image)[0]  # noqa: PTH122 - pathlib is slow for 100 k names
    before, images, after = f"{os.sep}{stem}".rpartition(f"{os.sep}images{os.sep}")
    beside = f"{stem}.txt"
    if not images:
        return beside
    parallel = f"{before}{os.sep}labels{os.sep}{after}.txt"[1:]
    return beside if Path(beside).is_file() and not Path(parallel).is_file() else parallel


def names_nearby(places: Sequence[Path]) -> list[str] | None:
    """The classes of a data.yaml or classes.txt in the images' folder or up to two folders above."""
    here = places[0].absolute()
    for folder in [here, *here.parents][:4]:
        file = first_file([folder], YAML_NAMES)
        if file is not None:
            return class_names(load_yaml(file), file)
        file = first_file([folder, folder / "labels"], NAME_FILES)
        if file is not None:
            return read_lines(file)
    return None


def _read_labels(
    file: Path, size: tuple[int, int], names: Sequence[str] | None, keypoint_numbers: int, assembler: Assembler
) -> int:
    """Add the objects of a label file to the latest image; returns the highest class number."""
    highest = -1
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            label, *values = (float(word) for word in words)
        except ValueError:
            _bad_line(assembler, number, f"{line[:60]!r} holds something that is no number")
            continue
        if keypoint_numbers and len(values) == 4 + keypoint_numbers:
            values = values[:4]
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            count = f"{len(words)} numbers; expected a class and 4 numbers (box) or 3 or more points"
            _bad_line(assembler, number, count)
        elif not label.is_integer() or not 0 <= label < MOST_CLASSES:
            _bad_line(assembler, number, f"the class {words[0][:20]} is not a whole number from 0 on")
        elif PIXELS < max(values) < np.inf:
            what = f"line {number}: {max(values):g} is no share of the image; the line seems to be in pixels"
            remedy = "divide x and width by the image's width, y and height by its height"
            assembler.add_problem(what, remedy, "pixel-coordinates")
        else:
            highest = max(highest, int(label))
            if names is not None and label >= len(names):
                what = f"line {number}: class {label:.0f} is not among the {len(names)} classes 0..{len(names) - 1}"
                remedy = "add its name to data.yaml, correct the class, or remove the line"
                assembler.add_problem(what, remedy, "unknown-category", of_next_object=True, category=int(label))
                label = -1
            _add_object(int(label), values, size, assembler)
    return highest


def _bad_line(assembler: Assembler, number: int, what: str) -> None:
    assembler.add_problem(f"line {number}: {what}", "correct or remove the line", "malformed-object")


def _add_object(label: int, values: list[float], size: tuple[int, int], assembler: Assembler) -> None:
    # The size of an image that cannot be read is unknown: its boxes stay shares, validation reports it.
    width, height = (max(side, 1) for side in size)
    if len(values) == 4:
        x, y, w, h = values
        half_w, half_h = w / 2, h / 2
        box = [(x - half_w) * width, (y - half_h) * height, (x + half_w) * width, (y + half_h) * height]
        assembler.add_object(box, label)
        assembler.segments.add_nothing()
        return
    points = [value * (height if place % 2 else width) for place, value in enumerate(values)]
    xs, ys = points[0::2], points[1::2]
    assembler.add_object([min(xs), min(ys), max(xs), max(ys)], label)
    assembler.segments.add_polygons([points])


# ------------------------------------------------------------------ writing


def _write(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """One split: images/<split>/, labels/<split>/, and its line in data.yaml. Ids become 0..K-1.

    Readers of this format take a set for boxes or for polygons, not for both: polygons are written where every object
    has exactly one. AnnotationError: an image of unknown size, or a folder that holds other categories.
    """
    unknown = np.flatnonzero((annotations.sizes <= 0).any(axis=1))
    if len(unknown):
        raise AnnotationError(
            f"{folder}: not written, YOLO coordinates are shares of the image and {len(unknown)} sizes are unknown; "
            f"the first is {annotations.paths[unknown[0]]}"
        )
    segments = annotations.segments
    polygons = segments is not None and bool((np.diff(segments.polygon_offsets) == 1).all())
    lost = 0 if polygons or segments is None else int(segments.has_polygons.sum())
    if lost:
        log.warning("%s: not every object has exactly one polygon, %d objects keep only their boxes", folder, lost)
    content = _yaml_with(annotations, folder / "data.yaml", split)

    stems = unique_stems(annotations, set())
    targets = image_targets(annotations, stems, folder / "images" / split)
    # Images of an earlier export would silently join the split.
    extra = sorted(set(list_images(folder / "images" / split)) - set(map(str, targets)))
    if extra:
        raise AnnotationError(
            f"{folder / 'images' / split}: already holds {len(extra)} other images, the first is {extra[0]}"
        )
    place_images(annotations.paths.tolist(), targets, images)
    boxes = convert_boxes(annotations.boxes, "xyxy", "cxcywh") / np.tile(annotations.sizes, 2)[annotations.image_index]
    for row, stem in enumerate(stems):
        owned = annotations.objects(row)
        lines = [_line(annotations, row, position, boxes, polygons) for position in range(owned.start, owned.stop)]
        write_atomically(folder / "labels" / split / f"{stem}.txt", "".join(f"{line}\n" for line in lines))
    write_atomically(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _yaml_with(annotations: Annotations, file: Path, split: str) -> dict[str, Any]:
    """The content of data.yaml with this split added."""
    names = dict(enumerate(annotations.names))
    content: dict[str, Any] = {}
    if file.is_file():
        content = load_yaml(file)
        if class_names(content, file) != list(annotations.names):
            raise AnnotationError(f"{file}: the folder already holds other categories; write to a new folder")
    # Without "path" the splits are relative to data.yaml itself, so that the folder can be moved.
    splits: dict[str, Any] = {key: content[key] for key in ("train", "val", "test") if key in content}
    return {**splits, split: f"images/{split}", "names": names}


def _line(annotations: Annotations, row: int, position: int, boxes: NDArray[np.float64], polygons: bool) -> str:
    """The line of an object; `boxes` (M, 4) are centres and sizes as shares of the image."""
    values = boxes[position].tolist()
    found = annotations.segments.polygons(position) if polygons and annotations.segments else []
    if len(found) == 1:
        values = (found[0] / annotations.sizes[row]).ravel().tolist()
    return " ".join([str(annotations.labels[position]), *map(repr, values)])


FORMAT = Format(
    name="yolo",
    title="YOLO",
    looks_for="data.yaml; train.txt and val.txt; images/train with labels/train; images/ with labels/; images with "
    ".txt files beside them",
    find=_find,
    read=read_yolo,
    write=_write,
    holds=frozenset({"polygons"}),
    takes_images=False,
)
