"""Mask folders: images in one folder, label maps of the same names in another; also Pascal VOC's form of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from detseg.data.annotations import AnnotationError
from detseg.data.formats.format import SPLITS, Format, Sources
from detseg.data.formats.locate import (
    IMAGE_EXTENSIONS,
    first_file,
    list_images,
    measure_images,
    read_lines,
    split_folders,
)

if TYPE_CHECKING:  # where they are used they are imported there: both bring OpenCV
    from detseg.data.formats.class_list import ClassList
    from detseg.data.masks import SemanticMasks

CLASS_FILES = ("classes.txt", "labels.txt", "class_names.txt")
Pairs = list[tuple[str, str]]  # (image, its mask)


class _Names(NamedTuple):
    images: str
    masks: str
    lists: str  # the folder of train.txt and val.txt


PLAIN, VOC = _Names("images", "masks", ""), _Names("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")


class Layout(NamedTuple):
    """Where the parts of a mask dataset lie."""

    root: Path
    splits: dict[str, Pairs]
    class_files: tuple[Path, ...]  # likeliest first
    is_voc: bool


def _find(path: Path, images: str | Path | None, masks: str | None, ignore_value: int | None) -> Sources | None:
    layout = find_layout(path, masks)
    if layout is None:
        return None

    @cache
    def classes() -> ClassList:
        return _classes(layout, ignore_value)

    def read(split: str) -> SemanticMasks:
        return _read(layout.splits[split], classes(), layout.root)

    return {split: partial(read, split) for split in layout.splits}


def _guess(path: Path, images: str | Path | None, masks: str | None, ignore_value: int | None) -> None:
    """Say what is there in place of a folder of masks that was asked for."""
    if masks is not None:
        root = _root(path)
        folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        folder = VOC.images if (root / VOC.images).is_dir() else PLAIN.images
        raise AnnotationError(
            f"{path}: has no {folder}/ with a folder {masks!r} of masks beside it; the folders there are: "
            f"{', '.join(folders) or 'none'}"
        )


def has_mask_files(path: Path, masks: str | None = None) -> bool:
    """Whether there are folders of images and mask files at a path, in the folder `masks` if that is given."""
    return find_layout(path, masks) is not None


def _root(path: Path) -> Path:
    """The folder of the set that a path means: itself, or what a list of images lies in."""
    if path.is_dir():
        return path
    return path.parents[2] if path.parent.as_posix().endswith(VOC.lists) else path.parent


def find_layout(path: Path, asked: str | None = None) -> Layout | None:
    """The layout of a folder, or of the images of a list in it, with the `asked` or usual folder of masks; or None."""
    if not path.is_dir() and path.suffix.lower() != ".txt":
        return None
    root = _root(path)
    for names in (PLAIN, VOC):
        images, masks = root / names.images, root / (asked or names.masks)
        whole = images.is_dir() and masks.is_dir()
        lists = {"": path} if path != root else _lists(root / names.lists)
        if whole and lists:
            splits = _listed(lists, images, masks)
        elif divided := split_folders(root, images.name, masks.name):
            splits = {split: _pairs(list_images(a), a, b) for split, (a, b) in divided.items()}
        elif whole:
            splits = {"": _pairs(list_images(images), images, masks)}
            if names is VOC:  # its images of detection have no masks: those that have one are meant
                splits[""] = [(image, mask) for image, mask in splits[""] if Path(mask).is_file()]
        else:
            continue
        # Of masks_species first classes_species.txt.
        own = [root / f"classes_{asked.removeprefix('masks_')}.txt"] if asked and asked.startswith("masks_") else []
        class_files = (*own, *(folder / name for folder in (root, masks) for name in CLASS_FILES))
        return Layout(root, splits, class_files, is_voc=names is VOC)
    return None


def _classes(layout: Layout, ignore_value: int | None) -> ClassList:
    """The classes that a file lists, else VOC's own, else background and foreground by the values in the masks."""
    from detseg.data.formats.class_list import VOC_CLASSES, guess_classes, read_class_list

    file = next((file for file in layout.class_files if file.is_file()), None)
    if file is not None:
        classes = read_class_list(file)
    elif layout.is_voc:
        classes = VOC_CLASSES
    else:
        paths = dict.fromkeys(mask for _, mask in chain(*layout.splits.values()))
        classes = guess_classes(paths, layout.root, layout.class_files[0].name)
    if ignore_value is None:
        return classes
    named = [category for category in classes.categories if category.id == ignore_value]
    if named:
        raise AnnotationError(f"{file or layout.root}: ignore_value={ignore_value} is the class {named[0].name!r}")
    return classes._replace(ignore_values=(ignore_value,))


def _read(pairs: Pairs, classes: ClassList, source: Path) -> SemanticMasks:
    from detseg.data.masks import SemanticMasks

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


def _lists(folder: Path) -> dict[str, Path]:
    """train.txt, val.txt, ... in a folder."""
    forms = {split: [f"{name}.txt" for name in names] for split, names in SPLITS.items()}
    return {split: file for split, names in forms.items() if (file := first_file([folder], names))}


def _listed(files: dict[str, Path], images: Path, masks: Path) -> dict[str, Pairs]:
    """The splits of lists of images, which have one a line, with or without folder and extension."""
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
        split: _pairs([_meant(line, known, images) for line in read_lines(file)], images, masks)
        for split, file in files.items()
    }


def _meant(line: str, known: dict[str, str], images: Path) -> str:
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


def _pairs(paths: Iterable[str], images: Path, masks: Path) -> Pairs:
    """Each image with the mask of its name; where there is none, with the path it should have."""

    def stem(path: str, folder: Path) -> str:
        return os.path.splitext(os.path.relpath(path, folder))[0]  # noqa: PTH122

    known: dict[str, str] = {}
    # PNG files first: beside them may lie coloured copies as JPEG to look at.
    for path in sorted(list_images(masks), key=lambda path: not path.lower().endswith(".png")):
        known.setdefault(stem(path, masks), path)
    return [(path, known.get(stem(path, images), str(masks / f"{stem(path, images)}.png"))) for path in paths]


FORMAT = Format(
    name="mask-folders",
    title="mask folders",
    looks_for="images/ with masks/ of the same names and classes.txt, split by train.txt and val.txt, or as "
    "images/train with masks/train, or as train/images with train/masks; VOC's JPEGImages/ with SegmentationClass/ "
    "(and ImageSets/Segmentation/train.txt, val.txt)",
    find=_find,
    guess=_guess,
    gives="masks",
    takes_images=False,
)
