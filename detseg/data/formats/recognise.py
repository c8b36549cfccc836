"""Finds out which format a path holds, by asking all of `FORMATS` in turn."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from detseg.data.annotations import AnnotationError
from detseg.data.formats.format import Gives, NotRecognisedError, Sources, formats_of, looked_for, titles

THINGS: dict[Gives, str] = {"objects": "annotations", "masks": "masks", "labels": "labelled images"}


def find_sources(
    path: str | Path, images: str | Path | None = None, *, gives: Gives = "objects", **options: Any
) -> Sources:
    """The splits found at a path, each with a function that reads it; `options` go to the formats of this kind.

    Raises:
        AnnotationError: the path does not exist or cannot be read, or says itself where its images are.
        NotRecognisedError: it holds no known format; the message lists what was looked for.
    """
    path = Path(path)
    if not path.exists():
        raise AnnotationError(f"{path}: does not exist")
    known = formats_of(gives)
    attempts = [(format, format.find) for format in known]
    attempts += [(format, format.guess) for format in known if format.guess is not None]
    for format, find in attempts:
        try:
            sources = find(path, images, **options)
        except OSError as error:
            raise AnnotationError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error
        if sources and images is not None and not format.takes_images:
            takers = titles([format for format in known if format.takes_images], "and")
            remedy = f"--images is for {takers}" if takers else "leave --images out"
            raise AnnotationError(f"{path}: says itself where its images are; {remedy}")
        if sources:
            return sources
    raise NotRecognisedError(f"{path}: no {THINGS[gives]} recognised. Looked for:{looked_for(gives)}")


def find_mask_sources(
    path: str | Path, masks: str | None = None, ignore_value: int | None = None, images: str | Path | None = None
) -> Sources:
    """The splits of masks found at a path: of mask files, else drawn from the polygons and masks of objects.

    Arguments and errors are those of `read_masks`.
    """
    try:
        return find_sources(path, images, gives="masks", masks=masks, ignore_value=ignore_value)
    except NotRecognisedError as error:
        try:
            found = find_sources(path, images)
        except NotRecognisedError:
            drawn = f"polygons or masks of objects: in the form of {titles(formats_of('objects'))}"
            raise NotRecognisedError(f"{error}\n  {drawn}") from None
    if ignore_value is not None:
        raise AnnotationError(
            f"{path}: its masks are drawn from polygons, in which no value stands for ignored pixels; leave the "
            "ignored value out"
        )
    return {name: partial(_drawn, read) for name, read in found.items()}


def _drawn(read: Any) -> Any:
    from detseg.data.masks import SemanticMasks  # here: it brings OpenCV

    return SemanticMasks.from_annotations(read())


def find_label_sources(path: str | Path, images: str | Path | None = None) -> Sources:
    """The splits of labelled images found at a path; the error for a set with boxes says how to cut them out."""
    try:
        return find_sources(path, images, gives="labels")
    except NotRecognisedError:
        if not Path(path).is_dir() or not _holds_objects(Path(path)):
            raise
    raise AnnotationError(
        f"{path}: holds images with boxes, not with one class each. Cut its objects out first: "
        f"detseg crops --data {path} --output crops"
    )


def _holds_objects(folder: Path) -> bool:
    try:
        return bool(find_sources(folder))
    except AnnotationError:
        return False
