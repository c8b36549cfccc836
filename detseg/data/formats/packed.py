"""Files that `detseg pack` wrote, as a format of objects, of masks and of labels; see `detseg.data.pack`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from detseg.data.annotations import AnnotationError
from detseg.data.formats.format import Format, Gives, Sources
from detseg.data.pack.file import UNDIVIDED, is_pack


def _objects(path: Path) -> Sources:
    from detseg.data.pack.datasets import packed_annotation_sources  # here, as below: it brings OpenCV

    return packed_annotation_sources(path)


def _masks(path: Path) -> Sources:
    from detseg.data.pack.datasets import packed_mask_sources

    return packed_mask_sources(path)


def _labels(path: Path) -> Sources:
    from detseg.data.pack.datasets import read_packed_labels

    packed: dict[str, Any] = read_packed_labels(path)
    packed = {"": packed[UNDIVIDED]} if list(packed) == [UNDIVIDED] else packed
    return {split: partial(packed.__getitem__, split) for split in packed}


def _find(sources: Callable[[Path], Sources], path: Path, images: Any, **mask_options: Any) -> Sources | None:
    if not is_pack(path):
        return None
    if any(value is not None for value in mask_options.values()):
        raise AnnotationError(f"{path}: its masks and what is ignored in them were chosen when it was packed")
    return sources(path)


def _format(gives: Gives, sources: Callable[[Path], Sources]) -> Format:
    looks_for = "an .h5 file that `detseg pack` wrote"
    return Format("packed", "packed", looks_for, partial(_find, sources), gives=gives, takes_images=False)


FORMATS = [_format("objects", _objects), _format("masks", _masks), _format("labels", _labels)]
