"""Mask folders: images in one folder, label maps of the same names in another; also Pascal VOC's form of it."""

from __future__ import annotations

from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detseg.data.annotations import AnnotationError, Problem
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.locate import image_targets, measure_images, place_images, read_lines, unique_stems
from detseg.data.formats.mask_layout import Layout, find_layout, root_of, unpaired
from detseg.data.formats.mask_pairs import FORMS, mask_files

if TYPE_CHECKING:  # where they are used they are imported there: both bring OpenCV
    from detseg.data.formats.class_list import ClassList
    from detseg.data.formats.locate import PlaceImages
    from detseg.data.masks import SemanticMasks


def _find(
    path: Path,
    images: str | Path | None,
    masks: str | None = None,
    ignore_value: int | None = None,
    threshold: int | None = None,
) -> Sources | None:
    layout = find_layout(path, masks, images)
    if layout is None:
        if images is not None and path.is_dir() and not (path / images).is_dir() and not Path(images).is_dir():
            raise AnnotationError(f"{images}: the folder of images (--images) does not exist")
        return None

    @cache
    def classes() -> ClassList:
        return _classes(layout, ignore_value, threshold)

    def read(split: str) -> SemanticMasks:
        return _read(layout, split, classes())

    return {split: partial(read, split) for split in layout.splits}


def _guess(
    path: Path,
    images: str | Path | None,
    masks: str | None = None,
    ignore_value: int | None = None,
    threshold: int | None = None,
) -> None:
    """Say what is there in place of a folder of masks that was asked for, or that looks like one."""
    root = root_of(path)
    if masks is None and images is None and path.is_dir() and (found := unpaired(root)):
        photos, look = (sorted(p.name for p in folder.iterdir() if p.is_file())[:3] for folder in found)
        raise AnnotationError(
            f"{path}: {found[1].name}/ looks like masks and {found[0].name}/ like images, but their files do not pair "
            f"by name: {', '.join(look)} and {', '.join(photos)} (a mask has {FORMS})"
        )
    if masks is not None:
        folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        folder = "JPEGImages" if (root / "JPEGImages").is_dir() else "images"
        if images is not None:
            raise AnnotationError(f"{path}: no mask found for the images in {images}; looked for them in {masks!r}")
        raise AnnotationError(
            f"{path}: has no {folder}/ with a folder {masks!r} of masks beside it (--images names another folder than "
            f"{folder}); the folders there are: {', '.join(folders) or 'none'}"
        )


def has_mask_files(path: Path, masks: str | None = None, images: str | Path | None = None) -> bool:
    """Whether there are images and mask files at a path, in the folders `masks` and `images` if these are given."""
    return find_layout(path, masks, images) is not None


def class_file(layout: Layout) -> Path | None:
    """The list of classes of a set, if it has one."""
    return next((file for file in layout.class_files if file.is_file()), None)


def _classes(layout: Layout, ignore_value: int | None, threshold: int | None) -> ClassList:
    """The classes that a file lists, else VOC's own, else background and foreground by the values in the masks."""
    from detseg.data.formats import class_list
    from detseg.data.formats.guess_classes import ONE, guess_classes, in_colours, need_colours

    file = class_file(layout)
    paths = list(dict.fromkeys(mask for _, mask in chain(*layout.splits.values())))
    if file is not None:
        classes = class_list.read_class_list(file)
        others = [other for other in layout.class_files if other != file and other.is_file()]
        if others and not classes.reading.colours and need_colours(paths):
            file, classes = next(
                ((other, found) for other in others if (found := class_list.read_class_list(other)).reading.colours),
                (file, classes),
            )
        if classes.reading.colours and not in_colours(paths, classes.reading):
            classes = class_list.by_number(classes)
    elif layout.is_voc:
        classes = class_list.VOC_CLASSES
    elif layout.is_cityscapes:
        classes = class_list.CITYSCAPES_CLASSES
    elif threshold is not None:
        classes = ONE
    else:
        classes = guess_classes(paths, layout.root, layout.class_files[0].name)
    if threshold is not None:
        if ignore_value is not None:
            raise AnnotationError(f"{layout.root}: with a threshold every pixel has a class; leave ignore_value out")
        return class_list.with_threshold(classes, threshold, file or layout.root)
    if ignore_value is None:
        return classes
    named = [category for category in classes.categories if category.id == ignore_value]
    if named:
        raise AnnotationError(f"{file or layout.root}: ignore_value={ignore_value} is the class {named[0].name!r}")
    if classes.reading.binary:
        raise AnnotationError(
            f"{file or layout.root}: whatever is not 0 is {classes.categories[1].name!r}, so no value can be ignored; "
            "write a list of values and names, such as '1 flower'"
        )
    return classes._replace(ignore_values=(ignore_value,))


def require_matches(layout: Layout) -> None:
    """Raise AnnotationError where not one image has a mask."""
    if layout.matches or not any(layout.splits.values()):
        return
    image, mask = next(pair for pairs in layout.splits.values() for pair in pairs)
    there = (
        ", ".join(Path(path).name for path in mask_files(Path(mask).parent)[:3]) if Path(mask).parent.is_dir() else ""
    )
    raise AnnotationError(
        f"{layout.root}: not one image has a mask. Looked for the mask of {image} as {mask}; in that folder are "
        f"{there or 'no masks'} (a mask has {FORMS}). Name the folders by --masks and --images. Tried: {layout.tried}"
    )


def _read(layout: Layout, split: str, classes: ClassList) -> SemanticMasks:
    from detseg.data.masks import SemanticMasks

    require_matches(layout)
    pairs = layout.splits[split]
    paths = [image for image, _ in pairs]
    return SemanticMasks(
        categories=classes.categories,
        image_ids=np.arange(1, len(pairs) + 1, dtype=np.int64),
        paths=np.array(paths, dtype=np.str_),
        sizes=measure_images(paths, np.zeros((len(pairs), 2), np.int32)),
        mask_paths=np.array([mask for _, mask in pairs], dtype=np.str_),
        ignore_values=classes.ignore_values,
        reading=classes.reading,
        source=str(layout.root),
        read_problems=tuple(left_out(layout)) if split == next(iter(layout.splits)) else (),
    )


def left_out(layout: Layout) -> list[Problem]:
    """Warnings of masks that no image has and of images that are left out because they have no mask."""
    found = []
    for paths, what, remedy in (
        (layout.spare, "masks belong to no image", f"a mask has {FORMS}"),
        (
            layout.bare,
            "images have no mask and are left out",
            "name the images that are meant in train.txt and val.txt",
        ),
    ):
        if paths:
            text = f"{len(paths)} {what}, the first is {paths[0]}"
            found.append(Problem(str(layout.root), "", None, text, remedy, "warning", "left-out"))
    return found


# ------------------------------------------------------------------ writing


def write_mask_folders(masks: SemanticMasks, folder: Path, split: str = "train", images: PlaceImages = "link") -> None:
    """Write one split: images/train, masks/train with index PNG files, and classes.txt.

    The values are the classes' ids if these are 0..254, else the labels; 255 is "ignore".

    Raises:
        AnnotationError: the folder holds other classes, or a mask cannot be read.
    """
    from detseg.data.formats.class_list import IGNORED_NAMES, is_class_name
    from detseg.data.index_png import mask_palette, write_index_png
    from detseg.files import write_atomically

    ids = [category.id for category in masks.categories]
    values = ids if all(0 <= value < 255 for value in ids) else list(range(len(ids)))
    numbered = [f"{value} {name}" for value, name in zip(values, masks.names, strict=True)]
    file = folder / "classes.txt"
    if any(not is_class_name(name) for name in masks.names) or len(set(masks.names)) < len(masks.names):
        raise AnnotationError(
            f"{file}: a list of classes has one name a line, all different, none of them {' or '.join(IGNORED_NAMES)}; "
            f"it cannot hold {list(masks.names)}"
        )
    if file.is_file() and read_lines(file) != numbered:
        raise AnnotationError(f"{file}: the folder already holds other classes; write to a new folder")
    stems = unique_stems(masks, set())
    palette = mask_palette(masks.names)
    table, colours = np.full(256, 255, np.uint8), palette.copy()
    table[: len(values)] = values
    colours[values] = palette[: len(values)]
    paths = masks.paths.tolist()
    if images == "keep" or masks.pack is not None:
        raise AnnotationError(f"{folder}: mask folders hold their images: copy or link them, from files")
    place_images(paths, image_targets(masks, stems, folder / "images" / split), images)
    for index, stem in enumerate(stems):
        write_index_png(folder / "masks" / split / f"{stem}.png", table[masks.mask(index)], colours)
    write_atomically(file, "".join(f"{line}\n" for line in numbered))


FORMAT = Format(
    name="mask-folders",
    title="mask folders",
    looks_for="images/ with masks/ of the same names (x.png, x_mask.png, mask_x.png; also image/ with mask/, img_dir/ "
    "with ann_dir/, images/ with labels/ of PNG files) and classes.txt or a list of colours (labelmap.txt, "
    "class_dict.csv, _classes.csv), split by train.txt and val.txt, or as images/train with masks/train, train/images "
    "with train/masks, train_images/ with train_masks/ or train/ with trainannot/; masks beside the images as "
    "x_mask.png; VOC's JPEGImages/ with SegmentationClass/ (and ImageSets/Segmentation/train.txt, val.txt); else the "
    "folders that --images and --masks name",
    find=_find,
    write=write_mask_folders,
    guess=_guess,
    gives="masks",
)
