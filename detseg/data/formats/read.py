"""Reading data sets of any format, found by asking all of `FORMATS`: one split, or training and validation.

What all readers have in common: `path` is a file or folder in one of `FORMATS`, recognised by what is there; `split` is
"train", "val" or "test", where the path holds several; `images` is the folder of images, where they are not found by
themselves; `val_share` is the share of the images that becomes "val", of a set without splits (`detseg.data.splits`).
All raise AnnotationError: nothing readable is there, a split is missing, a file is malformed, or categories differ.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.below import as_splits, places_below, what_is_there, with_images_below
from detseg.data.formats.format import (
    Find,
    Format,
    Gives,
    NotRecognisedError,
    Sources,
    asked,
    formats_of,
    found_by,
    looked_for,
    titles,
)
from detseg.reading import cause, require_file

if TYPE_CHECKING:  # where they are used they are imported there: both bring OpenCV
    from detseg.data.labels import LabelledImages
    from detseg.data.masks import SemanticMasks

log = logging.getLogger(__name__)

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
THINGS: dict[Gives, str] = {"objects": "annotations", "masks": "masks", "labels": "labelled images"}


def find_sources(
    path: str | Path, images: str | Path | None = None, *, gives: Gives = "objects", **options: Any
) -> Sources:
    """The splits found at a path, each with a function that reads it; `options` go to the formats of this kind.

    If nothing is recognised at the path itself, the folders below it are looked at: what lies in one of them only is
    read, and logged.

    Raises:
        AnnotationError: the path does not exist or cannot be read, or says itself where its images are.
        NotRecognisedError: it holds no known format; the message lists what was looked for. Or it holds several data
            sets, which the message lists.
    """
    path = Path(path)
    sources = _found_at(path, images, gives, options)
    damaged = None
    if set(sources) == {"test"}:  # a list of test images may lie above the set itself
        with suppress(AnnotationError):
            below = _found_below(path, images, gives, options)
            sources = below if "train" in below else sources
    if not sources:
        try:
            sources = _found_below(path, images, gives, options)
        except NotRecognisedError:
            raise
        except AnnotationError as error:
            damaged = error
    sources = sources or _guessed_at(path, images, gives, options)
    if not sources:
        raise damaged or _not_recognised(path, gives)
    return sources


def _not_recognised(path: Path, gives: Gives) -> NotRecognisedError:
    archives = sorted(path.iterdir()) if path.is_dir() else [path]
    archives = [file for file in archives if file.name.lower().endswith(ARCHIVES)]
    there = what_is_there(path) if path.is_dir() else ""
    there = f" There are {there}." if there else ""
    there += f" Unpack {archives[0].name} first, and give the folder." if archives else ""
    return NotRecognisedError(f"{path}: no {THINGS[gives]} recognised.{there} Looked for:{looked_for(gives)}")


def _found_at(path: Path, images: str | Path | None, gives: Gives, options: Mapping[str, Any]) -> Sources:
    """The splits found at a path itself; empty if there are none. FileError: it is a pipe or the like."""
    require_file(path)
    return _first(path, images, gives, options, [(format, format.find) for format in asked(path, gives)])


def _guessed_at(path: Path, images: str | Path | None, gives: Gives, options: Mapping[str, Any]) -> Sources:
    """The splits at a path itself by weaker signs; empty if there are none."""
    guesses = [(format, format.guess) for format in asked(path, gives) if format.guess is not None]
    return _first(path, images, gives, options, guesses)


def _first(
    path: Path,
    images: str | Path | None,
    gives: Gives,
    options: Mapping[str, Any],
    attempts: Sequence[tuple[Format, Find]],
) -> Sources:
    for format, find in attempts:
        try:
            sources = found_by(find, path, images, options)
        except OSError as error:
            raise AnnotationError(f"{error.filename or path}: cannot be read: {cause(error)}") from error
        if sources and images is not None and not format.takes_images:
            takers = titles([format for format in formats_of(gives) if format.takes_images], "and")
            remedy = f"--images is for {takers}" if takers else "leave --images out"
            raise AnnotationError(f"{path}: says itself where its images are; {remedy}")
        if sources:
            return sources
    return {}


def _found_below(path: Path, images: str | Path | None, gives: Gives, options: Mapping[str, Any]) -> Sources:
    """The splits of the only data set in the folders below a folder; empty if there is none."""
    if not path.is_dir():
        return {}
    places = places_below(path, images, gives, options)
    splits = as_splits(places, path)
    if len(splits) > 1:
        log.warning("%s found in %s", places[0].format.title, " and ".join(str(place.path) for place in places))
        return {split: place.sources[""] for split, place in splits.items()}
    if len(places) > 1:
        told = "".join(f"\n  {place.format.title} in {place.path}" for place in places)
        raise NotRecognisedError(f"{path}: several data sets are below, give the one that is meant:{told}")
    for place in places:
        log.warning("%s found in %s", place.format.title, place.path)
        return with_images_below(place, path) if images is None and place.format.takes_images else place.sources
    return {}


def find_mask_sources(
    path: str | Path,
    masks: str | None = None,
    ignore_value: int | None = None,
    images: str | Path | None = None,
    threshold: int | None = None,
) -> Sources:
    """The splits of masks found at a path: of mask files, else drawn from the polygons and masks of objects.

    Arguments and errors are those of `read_masks`.
    """
    path, options = Path(path), {"masks": masks, "ignore_value": ignore_value, "threshold": threshold}
    sources = _found_at(path, images, "masks", options)
    if not sources and masks is not None:
        sources = _found_below(path, images, "masks", options)
    sources = sources or _guessed_at(path, images, "masks", options)
    found = {} if sources else _found_at(path, images, "objects", {})
    if set(found) == {"test"}:
        found = find_sources(path, images)
    if not sources and not found:
        sources = _found_below(path, images, "masks", options)
    if sources:
        return sources
    with suppress(NotRecognisedError):
        found = found or find_sources(path, images)
    if not found:
        drawn = f"polygons or masks of objects: in the form of {titles(formats_of('objects'))}"
        raise NotRecognisedError(f"{_not_recognised(path, 'masks')}\n  {drawn}")
    if ignore_value is not None or threshold is not None:
        what = "ignored value" if threshold is None else "threshold"
        raise AnnotationError(
            f"{path}: its masks are drawn from polygons, in which no value stands for ignored pixels or a brightness; "
            f"leave the {what} out"
        )
    return {name: partial(_drawn, read) for name, read in found.items()}


def _drawn(read: Any) -> Any:
    from detseg.data.masks import SemanticMasks

    return SemanticMasks.from_annotations(read())


def find_label_sources(path: str | Path, images: str | Path | None = None) -> Sources:
    """The splits of labelled images found at a path; the error for a set with boxes says how to cut them out."""
    path = Path(path)
    sources = _found_at(path, images, "labels", {}) or _guessed_at(path, images, "labels", {})
    if sources:
        return sources
    if not path.is_dir() or not _holds_objects(path):
        raise _not_recognised(path, "labels")
    raise AnnotationError(
        f"{path}: holds images with boxes, not with one class each. Cut its objects out first: "
        f"detseg crops --data {path} --output crops"
    )


def _holds_objects(folder: Path) -> bool:
    try:
        return bool(find_sources(folder))
    except AnnotationError:
        return False


# ------------------------------------------------------------------ reading


def read_annotations(path: str | Path, split: str | None = None, images: str | Path | None = None) -> Annotations:
    """Read objects with boxes."""
    return _one(path, find_sources(path, images), split, "annotations")


def read_dataset(
    path: str | Path, images: str | Path | None = None, val_share: float | None = None
) -> dict[str, Annotations]:
    """Read the splits "train" and "val" of a data set, both with the category order of "train"."""
    return _both(path, find_sources(path, images), val_share, "annotations")


def read_masks(
    path: str | Path,
    split: str | None = None,
    *,
    masks: str | None = None,
    ignore_value: int | None = None,
    images: str | Path | None = None,
    threshold: int | None = None,
) -> SemanticMasks:
    """Read semantic masks of mask files, or drawn from the polygons and masks of objects.

    Args:
        path, split, images: see above; the path may also be a list of the images of a mask folder.
        masks: the folder of masks, by name beside the images or by path, where it is not one of the usual names. Of
            "masks_species" the classes are those of classes_species.txt if there is such a file.
        ignore_value: the value in mask files that counts for no class; by default 255, or what the list of
            classes says.
        threshold: for two classes, the brightness from which on a pixel is of the second; allows soft edges and JPEG.

    Raises:
        AnnotationError: as said above; or an option of masks is given for what has no mask files.
    """
    return _one(path, find_mask_sources(path, masks, ignore_value, images, threshold), split, "masks")


def read_mask_dataset(
    path: str | Path,
    *,
    masks: str | None = None,
    ignore_value: int | None = None,
    images: str | Path | None = None,
    threshold: int | None = None,
    val_share: float | None = None,
) -> dict[str, SemanticMasks]:
    """Read the splits "train" and "val" as `read_masks` does, both with the class order of "train"."""
    return _both(path, find_mask_sources(path, masks, ignore_value, images, threshold), val_share, "masks")


def read_labels(path: str | Path, split: str | None = None, *, images: str | Path | None = None) -> LabelledImages:
    """Read images with one class each."""
    return _one(path, find_label_sources(path, images), split, "images")


def read_label_splits(path: str | Path, *, images: str | Path | None = None) -> dict[str, LabelledImages]:
    """The splits of labelled images as they are, nothing divided by rule; "" stands for images without splits."""
    return {split: read() for split, read in find_label_sources(path, images).items()}


def read_labelled_dataset(
    path: str | Path, *, split: Sequence[float] = (0.75, 0.15, 0.1), seed: int = 0, images: str | Path | None = None
) -> dict[str, LabelledImages]:
    """Read a classification set as "train", "val" and, where there is one, "test", all with one list of classes.

    `split` are the shares of training, validation and, if there are three, test, for data that are not divided, and
    `seed` decides who goes where (`detseg.data.labels.divide`). If only the validation part is missing, training is
    divided between the two in proportion. Shares that are none raise ValueError.
    """
    if len(split) not in (2, 3):
        raise ValueError(f"split needs 2 or 3 shares (train, val and test), not {len(split)}")
    splits = read_label_splits(path, images=images)
    if "" in splits:
        return _divided(Path(path), splits[""], split, seed)
    if "train" not in splits:
        raise AnnotationError(f"{path}: there is no split 'train', only {', '.join(splits)}")
    if "val" not in splits:
        together = max(split[0] + split[1], 1e-9)
        parts = _divided(Path(path), splits["train"], [share / together for share in split[:2]], seed)
        return parts | {name: part for name, part in splits.items() if name != "train"}
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}


def _one(path: str | Path, sources: Sources, split: str | None, what: str) -> Any:
    if split is None and len(sources) > 1:
        raise AnnotationError(f"{path}: holds the splits {', '.join(sources)}; choose one with split=")
    if split is None or (Path(path).is_file() and list(sources) == [""]):
        return next(iter(sources.values()))()
    if split not in sources:
        raise AnnotationError(f"{path}: has no split {split!r}; found: {_listing(sources, what)}")
    return sources[split]()


def _both(path: str | Path, sources: Sources, val_share: float | None, what: str) -> dict[str, Any]:
    """The splits "train" and "val", the second with the categories of the first."""
    if val_share is not None:
        from detseg.data.splits import divided, only_set  # here: it brings OpenCV

        return divided(only_set(Path(path), sources), val_share)
    missing = [split for split in ("train", "val") if split not in sources]
    if missing:
        # A set of validation is not divided, unless its file is what is given.
        divide = "divide its file, given itself," if list(sources) == ["val"] else "let training divide one set"
        raise AnnotationError(
            f"{path}: no split {' and '.join(map(repr, missing))}; found: {_listing(sources, what)}. Give a folder or "
            f"data.yaml with both, name training and validation separately, or {divide} by --val-share 0.2"
        )
    train, val = sources["train"](), sources["val"]()
    return {"train": train, "val": val.match(train.categories)}


def _listing(splits: Sources, what: str) -> str:
    return ", ".join(name or f"{what} without splits" for name in splits)


def _divided(path: Path, images: LabelledImages, shares: Sequence[float], seed: int) -> dict[str, LabelledImages]:
    from detseg.data.labels import SPLITS, divide

    keys = images.paths.tolist()
    if images.pack is None:  # else they are the images' names, of no folder on this machine
        root = path if path.is_dir() else path.parent
        keys = [Path(os.path.relpath(key, root)).as_posix() for key in keys]
    part = divide(keys, images.labels, shares, seed)
    return {name: images.subset(part == position) for position, name in enumerate(SPLITS[: len(shares)])}
