"""Reading semantic masks of any supported form into `SemanticMasks`; the form is recognised from the path."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.base import match_categories
from detseg.data.formats import recognise
from detseg.data.formats.mask_folders import (
    IMAGES,
    VOC_IMAGES,
    VOC_LISTS,
    Layout,
    MaskSources,
    find_layout,
    mask_sources,
)
from detseg.data.masks import SemanticMasks
from detseg.data.pack.datasets import packed_mask_sources
from detseg.data.pack.file import is_pack

LOOKED_FOR = """
  mask folders: images/ with masks/ of the same names and classes.txt, split by train.txt and val.txt, or as
        images/train with masks/train, or as train/images with train/masks
  VOC:  JPEGImages/ with SegmentationClass/ (and ImageSets/Segmentation/train.txt, val.txt)
  COCO and others with outlines: train.json and val.json with polygons or run lengths, ...
  packed: an .h5 file that `detseg pack` wrote"""


def find_mask_sources(
    path: Path, masks: str | None = None, ignore_value: int | None = None, images: str | Path | None = None
) -> MaskSources:
    """The splits found at a path, each with a function that reads it.

    Raises:
        AnnotationError: the path does not exist or holds no known form (the message lists those looked for), or it
            has no mask files for `masks` and `ignore_value` to choose from.
    """
    if not path.exists():
        raise AnnotationError(f"{path}: does not exist")
    if is_pack(path):
        if masks is not None or ignore_value is not None:
            raise AnnotationError(f"{path}: its masks and what is ignored in them were chosen when it was packed")
        recognise.refuse_images(path, images)
        return packed_mask_sources(path)
    layout = _layout(path, masks)
    if layout is not None:
        recognise.refuse_images(path, images)
        return mask_sources(layout, ignore_value)
    if masks is not None:
        root = _root(path)
        folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        folder = VOC_IMAGES if (root / VOC_IMAGES).is_dir() else IMAGES
        raise AnnotationError(
            f"{path}: has no {folder}/ with a folder {masks!r} of masks beside it; the folders there are: "
            f"{', '.join(folders) or 'none'}"
        )
    try:
        found = recognise.find_sources(path, images)
    except AnnotationError as error:
        if recognise.LOOKED_FOR not in str(error):
            raise
        raise AnnotationError(f"{path}: no masks recognised. Looked for:{LOOKED_FOR}") from error
    if ignore_value is not None:
        raise AnnotationError(
            f"{path}: its masks are drawn from outlines, in which no value stands for ignored pixels; leave the "
            "ignored value out"
        )
    return {name: partial(_drawn, read) for name, read in found.items()}


def has_mask_files(path: Path, masks: str | None = None) -> bool:
    """Whether there are mask files at a path, in the folder `masks` if that is given."""
    return _layout(path, masks) is not None


def read_masks(
    path: str | Path,
    split: str | None = None,
    *,
    masks: str | None = None,
    ignore_value: int | None = None,
    images: str | Path | None = None,
) -> SemanticMasks:
    """Read semantic masks; the form is recognised from the path.

    Args:
        path: a folder with images/ and masks/ or of VOC's form, a list of images in it (train.txt), or anything
            `read_annotations` reads that has outlines.
        split: "train", "val" or "test", where the path holds several.
        masks: the folder of masks beside images/ or JPEGImages/, where it is not "masks" or "SegmentationClass". Of
            "masks_species" the classes are those of classes_species.txt if there is such a file.
        ignore_value: the value in mask files that counts for no class; by default 255, or what the list of
            classes says.
        images: the folder of the images that COCO or VOC annotations name, where they are not found by themselves.

    Raises:
        AnnotationError: nothing readable is there, the split is missing, a file is malformed, or `masks` or
            `ignore_value` is given for what has no mask files.
    """
    path = Path(path)
    sources = find_mask_sources(path, masks, ignore_value, images)
    if split is None and len(sources) > 1:
        raise AnnotationError(f"{path}: holds the splits {', '.join(sources)}; choose one with split=")
    if split is None or (path.is_file() and list(sources) == [""]):
        return next(iter(sources.values()))()
    if split not in sources:
        raise AnnotationError(f"{path}: has no split {split!r}; found: {_listing(sources)}")
    return sources[split]()


def read_mask_dataset(
    path: str | Path,
    *,
    masks: str | None = None,
    ignore_value: int | None = None,
    images: str | Path | None = None,
    val_share: float | None = None,
) -> dict[str, SemanticMasks]:
    """Read the splits "train" and "val" of a set of masks; both get the class order of "train".

    Arguments are those of `read_masks`, and `val_share`: the share of the images that becomes "val", of a set that is
    not divided; see `detseg.data.splits`.

    Raises:
        AnnotationError: a split is missing, the classes of the two differ, a file is malformed, or `masks` or
            `ignore_value` is given for what has no mask files.
    """
    path = Path(path)
    sources = find_mask_sources(path, masks, ignore_value, images)
    if val_share is not None:
        from detseg.data.splits import divided, only_set  # here: it brings OpenCV

        return divided(only_set(path, sources), val_share)
    missing = [split for split in ("train", "val") if split not in sources]
    if missing:
        raise AnnotationError(
            f"{path}: no split {' and '.join(map(repr, missing))}; found: {_listing(sources)}. "
            "Give a folder with both, name the training and validation masks separately, or let training divide one "
            "set by --val-share 0.2"
        )
    train, val = sources["train"](), sources["val"]()
    return {"train": train, "val": match_categories(train.categories, val)}


def _root(path: Path) -> Path:
    """The folder of the set that a path means: itself, or what a list of images lies in."""
    if path.is_dir():
        return path
    return path.parents[2] if path.parent.as_posix().endswith(VOC_LISTS) else path.parent


def _layout(path: Path, masks: str | None) -> Layout | None:
    images = path if path.is_file() and path.suffix.lower() == ".txt" else None
    return find_layout(_root(path), masks, images) if path.is_dir() or images else None


def _drawn(read: Callable[[], Annotations]) -> SemanticMasks:
    return SemanticMasks.from_annotations(read())


def _listing(sources: MaskSources) -> str:
    return ", ".join(name or "masks without splits" for name in sources)
