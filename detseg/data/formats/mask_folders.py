"""Mask folders: images in one folder, label maps of the same names in another; also Pascal VOC's form of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from detseg.data.annotations import AnnotationError
from detseg.data.formats.class_list import ClassList, guess_classes, read_class_list, voc_classes
from detseg.data.formats.locate import IMAGE_EXTENSIONS, list_images, measure_images, read_lines
from detseg.data.formats.yolo import SPLITS
from detseg.data.masks import SemanticMasks

CLASS_FILES = ("classes.txt", "labels.txt", "class_names.txt")
IMAGES, MASKS = "images", "masks"
VOC_IMAGES, VOC_MASKS, VOC_LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"

Pairs = list[tuple[str, str]]  # (image, its mask)
MaskSources = dict[str, Callable[[], SemanticMasks]]  # split -> its reader; "" where there are no splits


@dataclass(frozen=True)
class Layout:
    """Where the parts of a mask dataset lie."""

    root: Path
    splits: dict[str, Pairs]
    class_files: tuple[Path, ...]  # likeliest first
    is_voc: bool = False


def find_layout(root: Path, asked: str | None = None, images: Path | None = None) -> Layout | None:
    """The layout of a folder, None if it is no mask dataset.

    Args:
        root: the folder.
        asked: the name of the folder of masks; by default "masks", in VOC's form "SegmentationClass".
        images: a list of images, to take only those instead of the splits.
    """
    masks, voc_masks = asked or MASKS, root / (asked or VOC_MASKS)
    if (root / masks).is_dir() and (root / IMAGES).is_dir():
        lists = _lists(root) if images is None else {"": images}
        splits = _listed(lists, root / IMAGES, root / masks) or _subfolders(root, IMAGES, masks)
        splits = splits or {"": _pairs(list_images(root / IMAGES), root / IMAGES, root / masks)}
    elif parts := _split_folders(root, IMAGES, masks):
        splits = {split: _pairs(list_images(p / IMAGES), p / IMAGES, p / masks) for split, p in parts.items()}
    elif voc_masks.is_dir() and (root / VOC_IMAGES).is_dir():
        lists = _lists(root / VOC_LISTS) if images is None else {"": images}
        folder = root / VOC_IMAGES
        splits = _listed(lists, folder, voc_masks)
        splits = splits or {"": _with_masks(_pairs(list_images(folder), folder, voc_masks))}
        return Layout(root, splits, tuple(root / name for name in CLASS_FILES), is_voc=True)
    else:
        return None
    return Layout(root, splits, _class_files(root, masks))


def mask_sources(layout: Layout, ignore_value: int | None = None) -> MaskSources:
    """The splits of a layout, each with a function that reads it.

    Raises:
        AnnotationError: no file lists the classes and they cannot be guessed, or the list is malformed.
    """
    file = next((file for file in layout.class_files if file.is_file()), None)
    if file is not None:
        classes = read_class_list(file)
    elif layout.is_voc:
        classes = voc_classes()
    else:
        paths = dict.fromkeys(mask for _, mask in chain(*layout.splits.values()))
        classes = guess_classes(paths, layout.root, layout.class_files[0].name)
    if ignore_value is not None:
        named = [category for category in classes.categories if category.id == ignore_value]
        if named:
            raise AnnotationError(f"{file or layout.root}: ignore_value={ignore_value} is the class {named[0].name!r}")
        classes = replace(classes, ignore_values=(ignore_value,))
    return {split: partial(_read, pairs, classes, layout.root) for split, pairs in layout.splits.items()}


def _read(pairs: Pairs, classes: ClassList, source: Path) -> SemanticMasks:
    paths = [image for image, _ in pairs]
    return SemanticMasks(
        categories=classes.categories,
        image_ids=np.arange(1, len(pairs) + 1, dtype=np.int64),
        paths=np.array(paths, dtype=np.str_),
        sizes=measure_images(paths, np.zeros((len(pairs), 2), np.int32)),
        mask_paths=np.array([mask for _, mask in pairs], dtype=np.str_),
        ignore_values=classes.ignore_values,
        source=str(source),
    )


def _class_files(root: Path, masks: str) -> tuple[Path, ...]:
    """Files that may list the classes: of masks_species first classes_species.txt."""
    own = [root / f"classes_{masks.removeprefix('masks_')}.txt"] if masks.startswith("masks_") else []
    return (*own, *(folder / name for folder in (root, root / masks) for name in CLASS_FILES))


def _lists(folder: Path) -> dict[str, Path]:
    """train.txt, val.txt, ... in a folder."""
    return {s: file for s, names in SPLITS.items() for n in names if (file := folder / f"{n}.txt").is_file()}


def _listed(files: dict[str, Path], images: Path, masks: Path) -> dict[str, Pairs]:
    """The splits of lists of images, which have one a line, with or without folder and extension."""
    if not files:
        return {}
    known: dict[str, str] = {}
    paths = list_images(images)
    stems = Counter(Path(path).stem for path in paths)
    for path in paths:
        inside = os.path.relpath(path, images).replace(os.sep, "/")
        known.setdefault(inside, path)
        known.setdefault(_bare(inside), path)
        if stems[Path(path).stem] == 1:  # a name alone may leave out the folder where only one image has it
            known.setdefault(Path(path).stem, path)
    return {
        split: _pairs([_find(line, known, images) for line in read_lines(file)], images, masks)
        for split, file in files.items()
    }


def _find(line: str, known: dict[str, str], images: Path) -> str:
    """The image that a line of a list means; where it is nowhere, the path it should have."""
    name = line.replace("\\", "/").removeprefix("./")
    name = f"/{name}".rpartition(f"/{images.name}/")[2].removeprefix("/")
    for form in (name, _bare(name)):
        if form in known:
            return known[form]
    return str(images / (name if name.lower().endswith(IMAGE_EXTENSIONS) else f"{name}.jpg"))


def _bare(name: str) -> str:
    """Without the extension of an image; folders stay, and so do other points."""
    return os.path.splitext(name)[0] if name.lower().endswith(IMAGE_EXTENSIONS) else name  # noqa: PTH122


def _subfolders(root: Path, images: str, masks: str) -> dict[str, Pairs]:
    """The splits of images/train with masks/train, ..."""
    found = {}
    for split, names in SPLITS.items():
        for name in names:
            folder = root / images / name
            if folder.is_dir() and (root / masks / name).is_dir():
                found[split] = _pairs(list_images(folder), folder, root / masks / name)
    return found


def _split_folders(root: Path, images: str, masks: str) -> dict[str, Path]:
    """The folders train, val, ... that hold images/ and masks/ of their own."""
    return {
        split: root / name
        for split, names in SPLITS.items()
        for name in names
        if (root / name / images).is_dir() and (root / name / masks).is_dir()
    }


def _pairs(paths: Iterable[str], images: Path, masks: Path) -> Pairs:
    """Each image with the mask of its name; where there is none, with the path it should have."""
    known: dict[str, str] = {}
    # PNG files first: beside them may lie coloured copies as JPEG to look at.
    for path in sorted(list_images(masks), key=lambda path: not path.lower().endswith(".png")):
        known.setdefault(os.path.splitext(os.path.relpath(path, masks))[0], path)  # noqa: PTH122
    stems = [(path, os.path.splitext(os.path.relpath(path, images))[0]) for path in paths]  # noqa: PTH122
    return [(path, known.get(stem, str(masks / f"{stem}.png"))) for path, stem in stems]


def _with_masks(pairs: Pairs) -> Pairs:
    """VOC's images of detection have no masks: without a list, those that have one are meant."""
    return [(image, mask) for image, mask in pairs if Path(mask).is_file()]
