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
from detseg.data.annotations import AnnotationError, Annotations, Category, Problem
from detseg.data.formats.assemble import Assembler
from detseg.data.formats.find_images import FolderCache, join
from detseg.data.formats.format import SPLITS, Format, Sources
from detseg.data.formats.image_files import IMAGE_EXTENSIONS, left_out, list_images, scan_images
from detseg.data.formats.layout import split_of
from detseg.data.formats.locate import (
    PlaceImages,
    first_file,
    image_targets,
    locate_images,
    measure_images,
    place_images,
    read_lines,
    unique_stems,
)
from detseg.data.formats.yolo_key_points import Lines, with_key_points_told
from detseg.data.formats.yolo_labels import (
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    Labels,
    find_labels,
    has_labels,
    is_image_list,
    read_list,
)
from detseg.data.formats.yolo_yaml import YAML_NAMES, class_names, find_yaml, load_yaml, read_yaml
from detseg.files import write_atomically
from detseg.reading import in_memory, require_file

log = logging.getLogger(__name__)

NAME_FILES = ("classes.txt", "labels.txt", "obj.names", "_darknet.labels")
MOST_CLASSES = 2**31
MOST_UNNAMED = 2**16  # of which a number alone is the name
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
    below = {entry.name.lower(): entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")}
    spelled = {split: [f"{name}.txt" for name in names if f"{name}.txt" in below] for split, names in SPLITS.items()}
    lists = {split: [below[names[0]]] for split, names in spelled.items() if names}
    if lists and (
        any(name in below for name in LABEL_FOLDERS) or all(is_image_list(file) for (file,) in lists.values())
    ):
        return lists
    holders = [below[name] for name in IMAGE_FOLDERS if name in below]
    for divided in (_divided(holders, ""), _divided([folder], "images"), _divided([folder], "")):
        if any(has_labels(place) for places in divided.values() for place in places):
            return divided
    if any(has_labels(holder) for holder in holders):
        return {"": [next(holder for holder in holders if has_labels(holder))]}
    return {"": [folder]} if has_labels(folder, inside=True) else {}


def _divided(folders: Sequence[Path], inside: str) -> dict[str, list[Path]]:
    """The folders named after splits in some folders, by name or by a word of it (train2017); or what is `inside`."""
    below = [entry for folder in folders for entry in sorted(folder.iterdir()) if (entry / inside).is_dir()]
    exact = {split: [e / inside for e in below if e.name.lower() in names] for split, names in SPLITS.items()}
    by_word = {split: [e / inside for e in below if split_of(e.name) == split] for split in SPLITS}
    return {split: exact[split] or by_word[split] for split in SPLITS if exact[split] or by_word[split]}


def _sources(splits: dict[str, list[Path]], source: Path) -> Sources:
    """Each split with its reader. Unnamed classes are counted over all splits, so that the splits agree about them."""
    lists = {split: names_nearby(places) for split, places in splits.items()}
    names = next(filter(None, lists.values()), None)
    other = next((split for split, own in lists.items() if own not in (None, names)), None)
    if other is not None:
        raise AnnotationError(
            f"{source}: the splits have different lists of classes, {', '.join(names or ())} and, in {other!r}, "
            f"{', '.join(lists[other] or ())}; write one classes.txt, with the numbers that the labels have"
        )
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

    Label files are looked for where `images` in the image's path is replaced by `labels`, beside the image, and in
    `labels` beside the folders above it (`yolo_labels`). An image without label file has no objects. Category ids are
    the class numbers 0..K-1. What does not fit together is in `read_problems`.

    Args:
        places: folders of images, text files that list images, or images; AnnotationError if there is no image.
        names: class names; without them classes.txt is looked for nearby, else the numbers serve as names.
        source: what to call the dataset in messages.
        keypoint_numbers: how many numbers of key points follow the box in lines for poses; they are left out.
    """
    source = Path(source if source is not None else places[0])
    images, lists, others = [], [], []
    for place in places:
        found, left = scan_images(place) if place.is_dir() else (_listed(place), [])
        images += found
        lists += [str(place) if place.suffix.lower() == ".txt" else ""] * len(found)
        others += left
    told = [Problem(str(source), "", None, *words, "warning", "left-out-files") for words in left_out(others)]
    if not images:
        looked = ", ".join(str(place) for place in places)
        rest = "".join(f"; {problem.what} ({problem.remedy})" for problem in told)
        looked = looked if str(source) in looked else f"{source}: {looked}"
        raise AnnotationError(f"{looked}: no images with the extensions {' '.join(IMAGE_EXTENSIONS)}{rest}")
    labels = find_labels(images, source)
    sizes = measure_images(images, np.zeros((len(images), 2), np.int32)).tolist()
    assembler, lines = Assembler(), Lines()
    known = names if names is not None else names_nearby([*places, *_folders(labels)])
    for image, file, there, size, named_by in zip(images, labels.files, labels.there, sizes, lists, strict=True):
        # What is wrong with an image without labels is told of the list that names it.
        assembler.add_image(image, file if there else named_by or file, size)
        if there:
            _read_labels(file, size, known, keypoint_numbers, assembler, lines)
    if known is None:
        if lines.highest > MOST_UNNAMED:
            raise AnnotationError(f"{source}: class {lines.highest} in a line, and no list of names; write classes.txt")
        known = [str(number) for number in range(lines.highest + 1)]
        what = f"no list of names is there, the numbers {', '.join(known[:10])} serve as names"
        remedy = "write classes.txt with a name a line, or data.yaml with names"
        told += [Problem(str(source), "", None, what, remedy, "warning", "made-up-names")] if known else []
    assembler.problems += [*labels.problems, *told]
    categories = [Category(number, name) for number, name in enumerate(known)]
    return with_key_points_told(assembler.build(categories, source), lines)


def _listed(place: Path) -> list[str]:
    """The images that a list names, which may be one image itself."""
    if place.suffix.lower() != ".txt":
        return [str(place)]
    lines = [line.strip().replace("\\", "/") for line in read_list(place).splitlines() if line.strip()]
    cache, here = FolderCache(), str(place.parent)
    # CVAT writes data/obj_train_data/1.jpg for what it keeps in obj_train_data/.
    lines = [line.removeprefix("data/") if line.startswith("data/obj_") else line for line in lines]
    # Most tools mean the list's folder, darknet the one in which it is started.
    lines = [join(os.getcwd(), line) if line in cache and join(here, line) not in cache else line for line in lines]  # noqa: PTH109
    return locate_images(lines, [place.parent])


def _folders(labels: Labels) -> list[Path]:
    """The folders in which label files lie."""
    files = [file for file, there in zip(labels.files, labels.there, strict=True) if there]
    return [Path(folder) for folder in dict.fromkeys(map(os.path.dirname, files))]


def names_nearby(places: Sequence[Path]) -> list[str] | None:
    """The classes of a data.yaml or classes.txt in the images' folder or up to two folders above, or by the labels."""
    for place in places:
        here = place.absolute()
        for folder in [here, *here.parents][:4]:
            file = first_file([folder], YAML_NAMES)
            if file is not None and "names" in (content := load_yaml(file)):
                return class_names(content, file)
            places_of_lists = [folder, folder / "labels", *_split_folders(folder / "labels")]
            file = first_file(places_of_lists, NAME_FILES)
            if file is not None:
                return _agreed(file, [place / file.name for place in places_of_lists])
    return None


def _agreed(file: Path, others: Sequence[Path]) -> list[str]:
    """The classes of a list; AnnotationError if another by its name differs: LabelImg writes one in each folder."""
    names = read_lines(file)
    for other in others:
        if other.is_file() and (own := read_lines(other)) != names:
            what = f"{file} lists {', '.join(names)}, and {other} {', '.join(own)}"
            raise AnnotationError(f"{what}; which do the labels mean? Keep one list, with the numbers that they have")
    return names


def _split_folders(folder: Path) -> list[Path]:
    return [folder / name for names in SPLITS.values() for name in names]


def _read_labels(
    file: str,
    size: tuple[int, int],
    names: Sequence[str] | None,
    keypoint_numbers: int,
    assembler: Assembler,
    lines: Lines,
) -> None:
    """Add the objects of a label file to the latest image."""
    try:
        with in_memory(file), open(require_file(file), "rb") as opened:  # noqa: PTH123 - speed
            text = opened.read().decode("utf-8-sig", errors="replace")
    except OSError as error:
        assembler.add_problem(f"the label file cannot be read: {error.strerror}", "restore it", "unreadable-labels")
        return
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            label, *values = map(float, words)
        except ValueError:
            _bad_line(assembler, number, f"{line[:60]!r} holds something that is no number")
            continue
        if keypoint_numbers and len(values) not in (4, 4 + keypoint_numbers):
            expected = f"expected a class, 4 numbers (box) and {keypoint_numbers} of key points, as kpt_shape says"
            _bad_line(assembler, number, f"{len(words)} numbers; {expected}")
            continue
        values = values[:4] if keypoint_numbers else values
        lines.add(values)
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
            lines.highest = max(lines.highest, int(label))
            if names is not None and label >= len(names):
                what = f"line {number}: class {label:.0f} is not among the {len(names)} classes 0..{len(names) - 1}"
                remedy = "add its name to data.yaml, correct the class, or remove the line"
                assembler.add_problem(what, remedy, "unknown-category", of_next_object=True, category=int(label))
                label = -1
            _add_object(int(label), values, size, assembler)


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
    has exactly one. AnnotationError: an image of unknown size, a folder that holds other categories, or `images` is
    "keep" and they lie elsewhere.
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

    paths, stems = annotations.paths.tolist(), unique_stems(annotations, set())
    targets = image_targets(annotations, stems, folder / "images" / split)
    # Images of an earlier export would silently join the split.
    extra = sorted(set(list_images(folder / "images" / split)) - set(map(str, targets)))
    if extra:
        raise AnnotationError(
            f"{folder / 'images' / split}: already holds {len(extra)} other images, the first is {extra[0]}"
        )
    if images == "keep" and list(map(os.path.realpath, paths)) != list(map(os.path.realpath, targets)):
        raise AnnotationError(
            f"{folder}: not written, a YOLO label file is found by the place of its image, so images cannot be kept "
            'elsewhere; choose images="link" or "copy" (--images link)'
        )
    place_images(paths, targets, images)
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
    looks_for="data.yaml; train.txt and val.txt; images/train with labels/train, or train/images with train/labels; "
    "images/ (img/, JPEGImages/) with labels/; images with .txt files beside them",
    find=_find,
    read=read_yolo,
    write=_write,
    holds=frozenset({"polygons"}),
    takes_images=False,
)
