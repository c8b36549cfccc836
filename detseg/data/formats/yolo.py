"""YOLO text labels: reader and writer.

One text file per image, one object per line: "class x_centre y_centre width height", or
"class x1 y1 x2 y2 ..." for an outline, all as shares of the image. data.yaml names the classes and splits.
Format: https://docs.ultralytics.com/datasets/detect/
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from detseg.data.annotations import AnnotationError, Annotations, Category
from detseg.data.formats.assemble import Assembler
from detseg.data.formats.locate import (
    IMAGE_EXTENSIONS,
    list_images,
    measure_images,
    read_lines,
)

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAME_FILES = ("classes.txt", "labels.txt", "obj.names")
SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
MOST_CLASSES = 2**31
PIXELS = 1.5  # a share of the image above this was surely meant in pixels


class YoloData(NamedTuple):
    """What a data.yaml says: where each split's images are listed, the class names in order, key points."""

    file: Path
    splits: dict[str, list[Path]]
    names: list[str]
    keypoint_numbers: int  # how many numbers of key points follow each box


def find_yaml(folder: Path) -> Path | None:
    """The data.yaml of a folder: by its usual name, else the only YAML file there that has `names`."""
    for name in YAML_NAMES:
        if (folder / name).is_file():
            return folder / name
    others = [file for file in sorted(folder.glob("*.y*ml")) if "names" in _load_yaml(file)]
    return others[0] if len(others) == 1 else None


def read_yaml(file: Path) -> YoloData:
    """Read a data.yaml.

    Raises:
        AnnotationError: it is no such file, its names do not fit its `nc`, or its images are not found.
    """
    content = _load_yaml(file)
    names = _yaml_names(content, file)
    root = str(content.get("path") or "")
    # `path` is relative to this file, or (ultralytics) to a folder of datasets elsewhere; a dataset that was
    # moved keeps its old `path`, so the file's own folder is the last resort.
    roots = [file.parent / root, Path(root), file.parent]
    splits = {}
    for split, spellings in SPLITS.items():
        entry = next((content[s] for s in spellings if content.get(s)), None)
        if entry is not None:
            places = entry if isinstance(entry, list) else [entry]
            try:
                splits[split] = [_resolve(str(place), roots, f"{file}: {split}") for place in places]
            except AnnotationError:
                if split != "test" or not splits:  # test images are often named there and not handed on
                    raise
    if not splits:
        raise AnnotationError(f'{file}: has neither "train" nor "val"; a YOLO data.yaml names their images')
    shape = content.get("kpt_shape")  # key points, and the numbers each of them has
    return YoloData(file, splits, names, int(np.prod(shape)) if shape else 0)


def _load_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AnnotationError(f"{file}: cannot be read as YAML: {error}") from error
    return content if isinstance(content, dict) else {}


def _yaml_names(content: dict[str, Any], file: Path) -> list[str]:
    names, count = content.get("names"), content.get("nc")
    if isinstance(names, dict):
        keys = sorted(names)
        if keys != list(range(len(keys))):
            raise AnnotationError(f"{file}: the keys of names must be 0..{len(keys) - 1}, found {keys}")
        names = [names[key] for key in keys]
    if names is None and isinstance(count, int):
        names = [str(number) for number in range(count)]
    if not isinstance(names, list) or not names:
        raise AnnotationError(f'{file}: has no "names"; a YOLO data.yaml lists the class names there')
    if isinstance(count, int) and count != len(names):
        raise AnnotationError(f"{file}: nc is {count}, but names lists {len(names)} classes")
    return [str(name) for name in names]


def _resolve(place: str, roots: Sequence[Path], what: str) -> Path:
    # Roboflow writes "../train/images" into a data.yaml that lies beside train/.
    forms = [place, place[3:]] if place.startswith("../") else [place]
    candidates = [root / form for form in forms for root in roots]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise AnnotationError(f"{what}: {place!r} not found; tried {', '.join(map(str, dict.fromkeys(candidates)))}")


def folder_splits(folder: Path) -> dict[str, list[Path]]:
    """The splits of a YOLO folder without data.yaml: images/train or train/images, and so on."""
    splits = {}
    for split, spellings in SPLITS.items():
        for name in spellings:
            for images, labels in (
                ("images/" + name, "labels/" + name),
                (name + "/images", name + "/labels"),
            ):
                if (folder / images).is_dir() and (folder / labels).is_dir():
                    splits[split] = [folder / images]
    return splits


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
        places: folders of images, text files that list images, or images.
        names: class names; without them classes.txt is looked for nearby, else the numbers serve as names.
        source: what to call the dataset in messages.
        keypoint_numbers: how many numbers of key points follow the box in lines for poses; they are left out.

    Raises:
        AnnotationError: there are no images or a file is not text; the message names it.
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
    beside = os.path.normpath(folder / line)
    if Path(beside).is_file():
        return beside
    if Path(line).is_file():
        return line
    # Lists name folders of the machine they come from, or (CVAT) one around the list: less of the path may be found.
    parts = Path(line).parts
    shorter = (folder.joinpath(*parts[start:]) for start in range(1, len(parts)))
    return next((str(path) for path in shorter if path.is_file()), beside)


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
        if not folder.is_dir():
            continue
        for name in YAML_NAMES:
            if (folder / name).is_file():
                return _yaml_names(_load_yaml(folder / name), folder / name)
        for name in NAME_FILES:
            for candidate in (folder / name, folder / "labels" / name):
                if candidate.is_file():
                    return read_lines(candidate)
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
            _add_object(int(label), values, size, names, number, assembler)
    return highest


def _bad_line(assembler: Assembler, number: int, what: str) -> None:
    assembler.add_problem(f"line {number}: {what}", "correct or remove the line", "malformed-object")


def _add_object(
    label: int,
    values: list[float],
    size: tuple[int, int],
    names: Sequence[str] | None,
    line: int,
    assembler: Assembler,
) -> None:
    if names is not None and label >= len(names):
        what = f"line {line}: class {label} is not among the {len(names)} classes 0..{len(names) - 1}"
        remedy = "add its name to data.yaml, correct the class, or remove the line"
        assembler.add_problem(what, remedy, "unknown-category", of_next_object=True)
        label = -1
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
